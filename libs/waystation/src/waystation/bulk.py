"""`waystation send --jsonl FILE` and `--csv FILE`: many messages from a file, line by line, each sent once.

A line of JSON is an item as `POST /v1/messages` takes it; a row of CSV has the columns below. What a line leaves out
(tool, inbox, purpose, legal basis) is filled in from the command's options. A line without an idempotency key gets one
that is made of all that it says, so a repeated run sends nothing twice and a line that stands there twice goes once.
A row of CSV with a basis and no reference attests that basis, as `--basis` does. After a row that is no CSV nobody
can tell where the next one begins: reading stops there.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from common.ids import new_id
from waystation.door import Outgoing, Sent, batches, written
from waystation.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from waystation.door import Door

LINE_CHARACTERS_MAX = 2 * 1024 * 1024
REMEMBERED_MAX = 1_000_000
REFUSED_KEPT_MAX = 1_000
REFUSED, STOPPED = 1, 3
"""Exit statuses: some lines were refused and the rest was sent; the file was not sent to its end."""

COLUMNS = {
    "to": ("recipient", "address"),
    "name": ("recipient", "name"),
    "subject": ("content", "subject"),
    "text": ("content", "text"),
    "html": ("content", "html"),
    "unsubscribe_url": ("content", "unsubscribe_url"),
    "from": ("inbox",),
    "purpose": ("purpose",),
    "basis": ("legal_basis", "kind"),
    "basis_reference": ("legal_basis", "reference"),
    "reference": ("reference",),
    "not_before": ("not_before",),
    "not_after": ("not_after",),
    "idempotency_key": ("idempotency_key",),
}
"""Columns of a CSV file and where each stands in an item."""


@dataclass(frozen=True, slots=True)
class LineError:
    """Why one line is no message; `source` names the line, `reason` the field; the last one may end the reading."""

    source: str
    reason: str
    ends_reading: bool = False


Line = tuple[str, dict[str, Any]] | LineError
"""A line that was read: where it stands and the item that it is, or why it is none."""


@dataclass(slots=True)
class Tally:
    """What became of a file: counts, and the first thousand refusals."""

    accepted: int = 0
    before: int = 0
    repeated: int = 0
    refused: int = 0
    refusals: list[Sent] = field(default_factory=list)
    stopped: str | None = None

    def count(self, sent: Sent) -> None:
        """Count one result."""
        if sent.accepted:
            self.accepted += 1
            self.before += sent.before
            return
        self.refused += 1
        if len(self.refusals) < REFUSED_KEPT_MAX:
            self.refusals.append(sent)

    @property
    def exit_status(self) -> int:
        """0: every line is accepted, now or before; 1: some were refused; 3: stopped before the end."""
        if self.stopped is not None:
            return STOPPED
        return REFUSED if self.refused else 0

    def document(self) -> dict[str, Any]:
        """The tally as a JSON object."""
        return asdict(self)

    def text(self) -> str:
        """What a person needs to know: the sums, then each refusal with its line."""
        total = f"{self.accepted} accepted ({self.before} of them by an earlier run), {self.refused} refused"
        lines = [total + (f", {self.repeated} repeated lines sent once" if self.repeated else "")]
        in_order = sorted(self.refusals, key=lambda each: int(each.source.removeprefix("line ")))
        lines += [f"{each.source}: {each.reason}" for each in in_order]
        if self.refused > len(self.refusals):
            lines.append(f"... and {self.refused - len(self.refusals)} more; --results FILE writes all of them")
        if self.stopped is not None:
            lines.append(f"stopped: {self.stopped}. Repeat the command: nothing is sent twice")
        return "\n".join(lines)


@contextmanager
def opened(name: str) -> Iterator[TextIO]:
    """Open a file, or standard input for `-`, as UTF-8 with or without a byte order mark.

    Raises:
        CommandError: it cannot be read.
    """
    if name == "-":
        yield io.TextIOWrapper(sys.stdin.buffer, "utf-8-sig", errors="surrogateescape", newline="")
        return
    try:
        file = Path(name).open(encoding="utf-8-sig", errors="surrogateescape", newline="")  # noqa: SIM115  errors of the body are not its
    except OSError as error:
        raise CommandError(f"{name}: cannot be read ({error.strerror})", "check the name and its permissions") from None
    with file:
        yield file


def items_from_jsonl(lines: TextIO) -> Iterator[Line]:
    """Return each line as an item with the place it stands at; empty lines are passed over."""
    number = 0
    while line := lines.readline(LINE_CHARACTERS_MAX + 1):
        number += 1
        source = f"line {number}"
        if len(line) > LINE_CHARACTERS_MAX:
            yield LineError(source, f"is longer than {LINE_CHARACTERS_MAX} characters")
            while line and not line.endswith("\n"):
                line = lines.readline(LINE_CHARACTERS_MAX)
        elif line.strip():
            yield _json_item(source, line)


def items_from_csv(lines: TextIO) -> Iterator[Line]:
    """Return each row as an item with the line that it ends at, up to the first that is no CSV.

    Raises:
        CommandError: the first row does not name the columns.
    """
    csv.field_size_limit(LINE_CHARACTERS_MAX)
    reader = csv.reader(lines, strict=True)
    return _rows(reader, _csv_header(reader))


def _rows(reader: Any, header: Sequence[str]) -> Iterator[Line]:
    while True:
        begins = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            reason = f"is no CSV: {error}, in the row that begins at line {begins}"
            yield LineError(f"line {reader.line_num}", reason, ends_reading=True)
            return
        if row is None:
            return
        if row:
            yield _csv_item(f"line {reader.line_num}", header, row)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What fills in where a line says nothing; `run` is part of the keys that are made, to send lines again."""

    inbox: str | None
    facts: Mapping[str, Any]
    run: str = ""

    @classmethod
    def of(cls, inbox: str | None, facts: Mapping[str, Any], *, again: bool) -> Defaults:
        """Return the defaults of one run of the command."""
        return cls(inbox, facts, new_id() if again else "")

    def complete(self, source: str, item: dict[str, Any]) -> Outgoing | LineError:
        """Return the item with all that it needs, or what is missing."""
        whole = {"tool": "email", "inbox": self.inbox, **self.facts, **item}
        recipient = whole.get("recipient")
        if not isinstance(recipient, dict) or not isinstance(recipient.get("address"), str):
            return LineError(source, "recipient.address: is missing or no text")
        if not isinstance(whole.get("content"), dict):
            return LineError(source, "content: is missing or no object")
        if not isinstance(whole["inbox"], str):
            return LineError(source, "inbox: is missing; the account has none, and --from names none")
        try:
            if whole.get("idempotency_key") is None:
                whole["idempotency_key"] = f"line-{sha256(written([whole, self.run])).hexdigest()}"
            return Outgoing.of(source, whole)
        except ValueError as error:
            return LineError(source, str(error))


def send_lines(
    door: Door,
    lines: Iterable[Line],
    defaults: Defaults,
    *,
    told: Callable[[Sent], None],
) -> Tally:
    """Send every line that is a message, in batches; a line that is none is told and the rest is sent.

    `told` hears of each line's result as soon as there is one. A door that stays away or busy ends the run early, and
    so does a row that is no CSV.
    """
    tally = Tally()

    def note(sent: Sent) -> None:
        tally.count(sent)
        told(sent)

    try:
        for batch in batches(_fresh(lines, defaults, tally, note)):
            for sent in door.send(batch):
                note(sent)
    except CommandError as error:
        tally.stopped = " ".join(str(error).split("\n"))
    return tally


def _fresh(
    lines: Iterable[Line],
    defaults: Defaults,
    tally: Tally,
    note: Callable[[Sent], None],
) -> Iterator[Outgoing]:
    """Return the lines that are messages, each once; beyond a million the door's idempotency keys see to that alone."""
    seen: set[bytes] = set()
    for line in lines:
        outgoing = line if isinstance(line, LineError) else defaults.complete(*line)
        if isinstance(outgoing, LineError):
            note(Sent(outgoing.source, "", accepted=False, reason=outgoing.reason))
            if outgoing.ends_reading:
                tally.stopped = f"nothing after {outgoing.source} is read; correct that row"
            continue
        digest = sha256(outgoing.json).digest()
        if digest in seen:
            tally.repeated += 1
            continue
        if len(seen) < REMEMBERED_MAX:
            seen.add(digest)
        yield outgoing


def _json_item(source: str, line: str) -> Line:
    try:
        item = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        where = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        return LineError(source, f"is no JSON{where}")
    if not isinstance(item, dict):
        return LineError(source, "is no JSON object")
    return source, item


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _csv_header(reader: Any) -> Sequence[str]:
    try:
        header = [name.strip().lower() for name in next(reader, [])]
    except csv.Error as error:
        raise CommandError(f"the first row is no CSV: {error}", f"it names the columns: {', '.join(COLUMNS)}") from None
    unknown = [name for name in header if name not in COLUMNS]
    if unknown or "to" not in header or len(set(header)) != len(header):
        shown = ", ".join(ascii(name[:40]) for name in unknown[:5])
        what = f"does not know {shown}" if unknown else "needs a column `to`, and each column once"
        raise CommandError(f"the first row {what}", f"columns are: {', '.join(COLUMNS)}")
    return header


def _csv_item(source: str, header: Sequence[str], row: Sequence[str]) -> Line:
    if len(row) != len(header):
        return LineError(source, f"has {len(row)} fields, the first row names {len(header)}")
    item: dict[str, Any] = {}
    for name, value in zip(header, row, strict=True):
        if value == "":
            continue
        *path, last = COLUMNS[name]
        node = item
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    basis = item.get("legal_basis", {})
    if "kind" in basis and "reference" not in basis:
        basis["attested"] = True
    return source, item
