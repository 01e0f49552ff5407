"""`docs/events.md`: who tells what to whom, and the fields of each event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.events import EVENTS
from waystation.contracts.statements import STATEMENTS

if TYPE_CHECKING:
    from common.events import Event
    from common.events.envelope import Contract
    from common.kafka.topics import Topic, TopicRegistry


def catalogue(registry: TopicRegistry) -> str:
    """Return `docs/events.md`: who tells what to whom, and the fields of each event."""
    declared = {topic.name: topic for topic in registry.topics}
    return "\n".join(
        [
            "# Events",
            "",
            "Generated from `common.events` and `deploy/topics.yaml` by `make contracts`; do not edit.",
            "",
            "Every record is a CloudEvent in Kafka binary mode: `ce_specversion`, `ce_id`, `ce_type`, `ce_source`,",
            "`ce_time`, `ce_subject` and `content-type` are headers, sometimes `traceparent`; the value is JSON.",
            "Bytes are base64url. Consumers ignore fields that they do not know.",
            "",
            "| event | topic | key | from | to (group) |",
            "|---|---|---|---|---|",
            *(_row(event, declared[event.TOPIC]) for event in EVENTS),
            "",
            "| topic | partitions | cleanup | kept | dead letters |",
            "|---|---|---|---|---|",
            *(_topic_row(topic, registry) for topic in registry.topics),
            *(line for event in EVENTS for line in _section(event)),
            "",
        ]
    )


def _row(event: type[Event], topic: Topic) -> str:
    readers = ", ".join(f"{reader.principal} ({reader.group_or_none or 'whole topic'})" for reader in topic.readers)
    writers = ", ".join(topic.writers)
    return f"| [`{event.TYPE}`](#{_anchor(event)}) | `{topic.name}` | {topic.key} | {writers} | {readers} |"


def _topic_row(topic: Topic, registry: TopicRegistry) -> str:
    kept = "for ever" if topic.retention_hours is None else f"{topic.retention_hours} h"
    letters = ", ".join(f"`{dlq.name}`" for dlq in registry.dlqs if dlq.name.startswith(f"{topic.name}.")) or "none"
    return f"| `{topic.name}` | {topic.partitions} | {topic.cleanup} | {kept} | {letters} |"


def _section(event: type[Event]) -> list[str]:
    statement = STATEMENTS.get(event)
    folder = f"../contracts/{event.TYPE}"
    schemas = f"[event]({folder}/schema.json)"
    schemas += f", [signed statement]({folder}/statement.schema.json)" if statement else ""
    lines = ["", f"## {event.TYPE}", "", _first_line(event), "", *_fields(event)]
    if statement:
        lines += ["", f"Signed statement: {_first_line(statement)}", "", *_fields(statement)]
    return [*lines, "", f"Schemas: {schemas}. Examples: [examples]({folder}/examples)."]


def _fields(model: type[Contract]) -> list[str]:
    schema = model.model_json_schema()
    required = schema.get("required", [])
    rows = [
        f"| `{name}` | {_kind(part)} | {'yes' if name in required else 'no'} |"
        for name, part in schema["properties"].items()
    ]
    return ["| field | type | always there |", "|---|---|---|", *rows]


def _kind(part: dict[str, Any]) -> str:
    if "$ref" in part:
        return str(part["$ref"]).rpartition("/")[2]
    if "anyOf" in part:
        return " or ".join(_kind(option) for option in part["anyOf"])
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if part.get("type") == "array":
        return f"list of {_kind(part['items'])}"
    return str(part.get("format") or part.get("type") or "any")


def _first_line(model: type[Contract]) -> str:
    return (model.__doc__ or "").partition("\n")[0]


def _anchor(event: type[Event]) -> str:
    return event.TYPE.replace(".", "")
