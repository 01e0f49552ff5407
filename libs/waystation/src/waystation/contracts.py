"""Schema snapshots and the event catalogue, generated from the models and the topic registry.

    python -m waystation.contracts           write contracts/*/*schema.json and docs/events.md
    python -m waystation.contracts --check   say what differs and exit 1

A snapshot that changes shows in review what other versions of a service will see. Golden examples beside the
snapshots are written by hand, once, and never changed afterwards: what an old producer wrote must decode for ever.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from common.events import EVENTS, Event, MessageAdmitted, ReceiptIssued, VerdictReached
from common.events.intake import Instruction
from common.events.routing import Receipt
from common.events.screening import Verdict
from common.kafka.topics import Topic, TopicRegistry, load_registry
from waystation.stack.layout import checkout_folder

if TYPE_CHECKING:
    from pathlib import Path

    from common.events.envelope import Contract

STATEMENTS: dict[type[Event], type[Contract]] = {
    MessageAdmitted: Instruction,
    VerdictReached: Verdict,
    ReceiptIssued: Receipt,
}
"""What the signed statement of an event is: to the event's own schema it is any JSON object."""


def generate(registry: TopicRegistry) -> dict[str, str]:
    """Return the text of every generated file by its path in the checkout."""
    files = {}
    for event in EVENTS:
        folder = f"contracts/{event.TYPE}"
        files[f"{folder}/schema.json"] = _schema(event)
        if event in STATEMENTS:
            files[f"{folder}/statement.schema.json"] = _schema(STATEMENTS[event])
    files["docs/events.md"] = catalogue(registry)
    return files


def differences(checkout: Path) -> list[str]:
    """Return the paths of generated files that are missing or not what the models and the registry say."""
    wanted = generate(load_registry(checkout / "deploy" / "topics.yaml"))
    present = {
        path: (checkout / path).read_text("utf-8") if (checkout / path).is_file() else None
        for path in (*wanted, *_snapshots(checkout))
    }
    return sorted(path for path, text in present.items() if text != wanted.get(path))


def write(checkout: Path) -> list[str]:
    """Bring the generated files up to date; return the paths of those that changed."""
    changed = differences(checkout)
    wanted = generate(load_registry(checkout / "deploy" / "topics.yaml"))
    for path in changed:
        if path not in wanted:
            (checkout / path).unlink()
            continue
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_text(wanted[path], "utf-8")
    return changed


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


def _schema(model: type[Contract]) -> str:
    return json.dumps(model.model_json_schema(), indent=2, sort_keys=True) + "\n"


def _first_line(model: type[Contract]) -> str:
    return (model.__doc__ or "").partition("\n")[0]


def _anchor(event: type[Event]) -> str:
    return event.TYPE.replace(".", "")


def _snapshots(checkout: Path) -> list[str]:
    return [str(path.relative_to(checkout)) for path in (checkout / "contracts").glob("*/*schema.json")]


def main(arguments: list[str]) -> int:
    """Write or check; return the exit status."""
    checkout = checkout_folder()
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m waystation.contracts [--check]\n")
        return 2
    changed = differences(checkout) if arguments else write(checkout)
    for path in changed:
        sys.stdout.write(f"{'differs' if arguments else 'written'}  {path}\n")
    if arguments and changed:
        sys.stderr.write("error models or topics changed: run `make contracts`, review the difference\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
