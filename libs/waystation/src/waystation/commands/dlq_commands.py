"""`waystation dlq list | show | replay | discard`."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from waystation.dlq import PREVIEW_BYTES, DeadLetter, DeadLetterOffice, Handled, KafkaLetters, Place, Summary
from waystation.errors import CommandError
from waystation.operator import OPERATOR
from waystation.output import HomeOption, JsonFlag, Output, table
from waystation.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
HANDLED_FILE = "dead-letters-handled.json"
REASONS_SHOWN = 3

app = typer.Typer(help="Records that a group gave up on, alone, with the reason.", no_args_is_help=True)

Topic = Annotated[str, typer.Argument(help="A dead-letter topic, as `dlq list` shows it.")]
PartitionOption = Annotated[int, typer.Option("--partition", min=0, help="With --offset: which partition.")]
OffsetOption = Annotated[int | None, typer.Option("--offset", min=0, help="One record.")]
AllFlag = Annotated[bool, typer.Option("--all", help="Every open record of the topic.")]
HeaderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        metavar="NAME=VALUE",
        help="Replace a header that was wrong, e.g. ce_type; may be given several times. Noted in dlq_corrected.",
    ),
]


@app.command("list")
def list_topics(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show every dead-letter topic with what is open in it, and why."""
    found = _office(home).summaries()
    rows = [(one.topic, one.open, one.handled, _age(one.oldest_seconds), _reasons(one)) for one in found]
    columns = ("dead letters", "open", "handled", "oldest", "reasons")
    Output(as_json).show(found, lambda: table(columns, rows) if rows else "there is no dead-letter topic")


@app.command()
def show(
    topic: Topic,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 10,
    offset: Annotated[str | None, typer.Option("--offset", help="PARTITION:OFFSET to begin at.")] = None,
    with_handled: Annotated[bool, typer.Option("--all", help="Also what was replayed or discarded.")] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show dead letters: headers, reason, size, and the first bytes."""
    start = None if offset is None else _place(offset)
    found = list(islice(_office(home).open_letters(topic, start=start, with_handled=with_handled), limit))
    views = [view(letter) for letter in found]
    Output(as_json).show(views, lambda: "\n\n".join(_text(one) for one in views) or f"nothing is open in {topic}")


@app.command()
def replay(
    topic: Topic,
    *,
    partition: PartitionOption = 0,
    offset: OffsetOption = None,
    every: AllFlag = False,
    header: HeaderOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Send records back to the topic and partition they came from, untouched but for the headers given here."""
    corrections = _corrections(header or [])
    office = _office(home)
    done = office.replay(_chosen(office, topic, partition, offset, every=every), corrections)
    Output(as_json).show(done, lambda: "\n".join([f"{done.replayed} replayed", *done.refused]))
    if done.refused:
        raise typer.Exit(1)


@app.command()
def discard(
    topic: Topic,
    *,
    partition: PartitionOption = 0,
    offset: OffsetOption = None,
    every: AllFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Put records aside; they stay in Kafka until retention removes them."""
    office = _office(home)
    count = office.discard(_chosen(office, topic, partition, offset, every=every))
    Output(as_json).show({"discarded": count}, lambda: f"{count} discarded")


def view(letter: DeadLetter) -> dict[str, Any]:
    """What is shown of a dead letter; bytes that are no printable ASCII are escaped."""
    value = letter.value or b""
    return {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "handled": letter.action,
        "reason": letter.reason,
        "source": f"{letter.header('dlq_topic')} {letter.header('dlq_partition')}:{letter.header('dlq_offset')}",
        "key": _printable(letter.key or b""),
        "size_bytes": len(value),
        "headers": [[_printable(name.encode()), _printable(content or b"")] for name, content in letter.headers],
        "preview": _printable(value[:PREVIEW_BYTES]),
    }


def _office(home: Any) -> DeadLetterOffice:
    stack = Stack.open(home)
    letters = KafkaLetters(stack.kafka_credentials(OPERATOR))
    return DeadLetterOffice(letters, Handled(stack.layout.kafka / HANDLED_FILE))


def _chosen(
    office: DeadLetterOffice, topic: str, partition: int, offset: int | None, *, every: bool
) -> Iterator[DeadLetter]:
    if every == (offset is not None):
        raise CommandError("say which records", "either --offset N (and --partition N), or --all")
    if offset is not None:
        return iter([office.one(topic, partition, offset)])
    return office.open_letters(topic)


def _corrections(headers: list[str]) -> dict[str, bytes]:
    corrections = {}
    for text in headers:
        name, equals, value = text.partition("=")
        if not equals or not _HEADER_NAME.fullmatch(name) or name.startswith("dlq_"):
            raise CommandError(
                f"--header {text!r} cannot be set", "write NAME=VALUE, for example --header ce_type=...; dlq_* is kept"
            )
        corrections[name] = value.encode()
    return corrections


def _place(text: str) -> Place:
    partition, _, offset = text.partition(":")
    if not partition.isdecimal() or not offset.isdecimal():
        raise CommandError(f"--offset {text!r} is not PARTITION:OFFSET", "for example --offset 0:17")
    return int(partition), int(offset)


def _printable(data: bytes) -> str:
    return ascii(data.decode("utf-8", "backslashreplace"))[1:-1]


def _age(seconds: float | None) -> str:
    if seconds is None:
        return ""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _reasons(one: Summary) -> str:
    shown = [f"{count} x {reason}" for reason, count in list(one.reasons.items())[:REASONS_SHOWN]]
    more = len(one.reasons) - len(shown)
    sample = [] if one.scanned_all else [f"(of the first {sum(one.reasons.values())})"]
    return "; ".join([*shown, *([f"{more} other reasons"] if more else []), *sample])


def _text(one: dict[str, Any]) -> str:
    head = f"{one['partition']}:{one['offset']}  {one['reason']}" + (f"  [{one['handled']}]" if one["handled"] else "")
    lines = [
        head,
        f"    from     {one['source']}",
        f"    key      {one['key']}",
        f"    size     {one['size_bytes']} bytes",
    ]
    lines += [f"    header   {name}: {content}" for name, content in one["headers"]]
    return "\n".join([*lines, f"    begins   {one['preview']}"])
