"""`contracts/asyncapi.yaml`: the topics as AsyncAPI 3.0 describes them, for whoever reads them with own clients."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml
from pydantic.json_schema import models_json_schema

from common.events import EVENTS, Event
from common.kafka.topics import MILLISECONDS_PER_HOUR
from waystation.contracts.statements import SIGNED_FIELDS, STATEMENTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from common.kafka.topics import Reader, Topic, TopicRegistry

SCHEMAS = "#/components/schemas/{model}"
KAFKA_BINDING = "0.5.0"
HEAD = "# Generated from common.events, their examples and deploy/topics.yaml by `make contracts`; do not edit.\n"
DESCRIPTION = """\
The topics of Waystation. Each record is a CloudEvent in Kafka binary mode: attributes in `ce_` headers, JSON in the
value. Bytes are base64url. Readers ignore fields that they do not know. No topic holds personal data in clear: who a
message goes to is a token, what it says is ciphertext.

Compacted topics are read whole, without a consumer group, and of two records of a key the one with the higher
`revision` holds. All others are delivered at least once: the id of an event (`ce_id`) is derived from what it tells,
so a repetition carries the same id.

Statements are signed by the batch (Ed25519 over an RFC 6962 Merkle root); `examples/kafka/verify_receipts.py` shows
how to check them.
"""

Examples = dict[str, list[tuple[str, dict[str, Any]]]]


def read_examples(checkout: Path) -> Examples:
    """Return the golden examples (name and content) by event type."""
    return {
        event.TYPE: [
            (path.stem, json.loads(path.read_text("utf-8")))
            for path in sorted((checkout / "contracts" / event.TYPE / "examples").glob("*.json"))
        ]
        for event in EVENTS
    }


def asyncapi_document(registry: TopicRegistry, examples: Examples) -> str:
    """Return the document as YAML."""
    declared = {topic.name: topic for topic in registry.topics}
    topics = dict.fromkeys(event.TOPIC for event in EVENTS)
    channels = {
        _camel(name): _channel(declared[name], [event for event in EVENTS if name == event.TOPIC]) for name in topics
    }
    channels |= {_camel(topic.name): _dead_letters(topic) for topic in registry.dlqs}
    operations: dict[str, Any] = {}
    for event in EVENTS:
        operations |= _operations(declared[event.TOPIC], event)
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Waystation",
            "version": "0.1.0",
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"kafka": _server()},
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {
                **{event.__name__: _message(event, examples.get(event.TYPE, ())) for event in EVENTS},
                "DeadLetter": _dead_letter(),
            },
            "schemas": _schemas(),
            "securitySchemes": {
                "scram": {"type": "scramSha256", "description": "One principal for each service, and `operator`."}
            },
        },
    }
    return HEAD + yaml.dump(document, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=118)


class _Plain(yaml.SafeDumper):
    """Writes out what occurs twice instead of pointing to it, and long texts as blocks."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Plain.add_representer(str, _text)


def _server() -> dict[str, Any]:
    return {
        "host": "{bootstrap}",
        "protocol": "kafka",
        "description": "The local stack; `waystation kafka config` prints address and password of a principal.",
        "security": [{"$ref": "#/components/securitySchemes/scram"}],
        "variables": {"bootstrap": {"description": "Host and port of a broker.", "default": "127.0.0.1:9092"}},
    }


def _channel(topic: Topic, events: Sequence[type[Event]]) -> dict[str, Any]:
    return {
        "address": topic.name,
        "summary": topic.description,
        "messages": {event.__name__: {"$ref": f"#/components/messages/{event.__name__}"} for event in events},
        "bindings": _topic_binding(topic),
    }


def _dead_letters(topic: Topic) -> dict[str, Any]:
    return {
        "address": topic.name,
        "summary": topic.description,
        "messages": {"DeadLetter": {"$ref": "#/components/messages/DeadLetter"}},
        "bindings": _topic_binding(topic),
    }


def _topic_binding(topic: Topic) -> dict[str, Any]:
    settings: dict[str, Any] = {"cleanup.policy": [topic.cleanup]}
    if topic.retention_hours is not None:
        settings["retention.ms"] = topic.retention_hours * MILLISECONDS_PER_HOUR
    settings |= {name: int(value) for name, value in topic.config.items() if name == "max.message.bytes"}
    return {
        "kafka": {
            "topic": topic.name,
            "partitions": topic.partitions,
            "replicas": topic.replication,
            "topicConfiguration": settings,
            "bindingVersion": KAFKA_BINDING,
        }
    }


def _operations(topic: Topic, event: type[Event]) -> dict[str, Any]:
    sends = {
        f"{writer}Sends{event.__name__}": _operation("send", topic, event, writer, f"{writer} tells: {_summary(event)}")
        for writer in topic.writers
    }
    receives = {
        f"{_camel(reader.group_or_none or reader.principal)}Receives{event.__name__}": _receive(topic, event, reader)
        for reader in topic.readers
    }
    return {**sends, **receives}


def _receive(topic: Topic, event: type[Event], reader: Reader) -> dict[str, Any]:
    how = f"in the group {reader.group}" if reader.group_or_none else "the whole topic in each copy, without a group"
    operation = _operation("receive", topic, event, reader.principal, f"{reader.principal} reads {how}")
    if reader.group_or_none:
        group = {"type": "string", "enum": [reader.group]}
        operation["bindings"] = {"kafka": {"groupId": group, "bindingVersion": KAFKA_BINDING}}
    return operation


def _operation(action: str, topic: Topic, event: type[Event], principal: str, summary: str) -> dict[str, Any]:
    channel = f"#/channels/{_camel(topic.name)}"
    return {
        "action": action,
        "channel": {"$ref": channel},
        "summary": summary,
        "tags": [{"name": principal}],
        "messages": [{"$ref": f"{channel}/messages/{event.__name__}"}],
    }


def _message(event: type[Event], examples: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    return {
        "name": event.TYPE,
        "title": event.__name__,
        "summary": _summary(event),
        "contentType": "application/json",
        "headers": _headers(event),
        "payload": _payload(event),
        "bindings": {
            "kafka": {"key": {"type": "string", "description": "As `ce_subject`."}, "bindingVersion": KAFKA_BINDING}
        },
        "examples": [
            {"name": name, "headers": example["headers"], "payload": example["body"]} for name, example in examples
        ],
    }


def _payload(event: type[Event]) -> dict[str, Any]:
    """Return the event's schema, and that of the statement in its signed part."""
    schema = {"$ref": SCHEMAS.format(model=event.__name__)}
    if event not in STATEMENTS:
        return schema
    statement = {"$ref": SCHEMAS.format(model=STATEMENTS[event].__name__)}
    signed = {"type": "object", "properties": {"statement": statement}}
    return {"allOf": [schema, {"type": "object", "properties": {SIGNED_FIELDS[event]: signed}}]}


def _headers(event: type[Event]) -> dict[str, Any]:
    fixed = {
        "ce_specversion": {"const": "1.0"},
        "ce_id": {"description": "Derived from what the event tells: a repetition carries the same id."},
        "ce_type": {"const": event.TYPE},
        "ce_source": {"const": event.SOURCE},
        "ce_time": {"format": "date-time"},
        "ce_subject": {"description": "The record's key."},
        "content-type": {"const": "application/json"},
    }
    optional = {"traceparent": {"description": "W3C Trace Context, where the message is traced."}}
    properties = {name: {"type": "string", **part} for name, part in {**fixed, **optional}.items()}
    return {"type": "object", "required": list(fixed), "properties": properties}


def _dead_letter() -> dict[str, Any]:
    reasons = {
        "dlq_reason": "Why the group gave the record up.",
        "dlq_topic": "Where it came from.",
        "dlq_partition": "Its partition there.",
        "dlq_offset": "Its offset there.",
        "dlq_group": "Who gave it up.",
        "dlq_time": "When.",
    }
    properties = {name: {"type": "string", "description": text} for name, text in reasons.items()}
    return {
        "name": "deadLetter",
        "title": "DeadLetter",
        "summary": "A record that a group gave up on: untouched, its own headers first, then why.",
        "headers": {"type": "object", "required": list(reasons), "properties": properties},
        "payload": {"description": "The value as it was; it may be anything."},
    }


def _schemas() -> dict[str, Any]:
    models = [*EVENTS, *STATEMENTS.values()]
    _, found = models_json_schema([(model, "serialization") for model in models], ref_template=SCHEMAS)
    schemas: dict[str, Any] = found["$defs"]
    return schemas


def _summary(event: type[Event]) -> str:
    return (event.__doc__ or "").partition("\n")[0]


def _camel(name: str) -> str:
    first, *others = name.replace("-", ".").split(".")
    return first + "".join(part.capitalize() for part in others)
