"""`waystation vault verify-log`: was the vault's access log changed since its heads were published?

Read are the log as it is now (JSON lines, `waystation vault export-log`), the heads as an auditor kept them from the
topic `vault.checkpoints` (JSON lines, each an event), and public keys. Nothing of the vault and no database is needed.
Whoever changed an entry, took one out, put two in another order, cut the end off or wrote the log anew, however
privileged in the database, is found at the first entry that is not what the heads say.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from common.security.merkle import HASH_BYTES
from common.security.signing import SignatureError, Signed, TrustedKeys
from common.security.tlog import Frontier, log_leaf
from waystation.output import JsonFlag, Output
from waystation.proof.documents import UncheckableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LOG_ID = "vault.access"


class Entry(BaseModel):
    """One entry of the log with its salt, position and the ledger rows of its call."""

    model_config = ConfigDict(extra="forbid")

    position: int
    salt: str
    entry: dict[str, Any]
    ledger: list[list[Any]] | None = None

    def leaf(self) -> bytes:
        """Return the leaf hash of this entry; what cannot have been an entry has none that fits."""
        try:
            return log_leaf(bytes.fromhex(self.salt), orjson.dumps(self.entry, option=orjson.OPT_SORT_KEYS))
        except (ValueError, orjson.JSONEncodeError):
            return b""

    def ledger_fits(self) -> bool:
        """Say whether the ledger rows are those that the entry's digest covers."""
        digest = self.entry.get("digest")
        if digest is None:
            return not self.ledger
        lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in self.ledger or ())
        return bool(hashlib.sha256(lines.encode()).hexdigest() == digest)


class Head(BaseModel):
    """A signed head, as its statement says."""

    model_config = ConfigDict(extra="ignore")

    kind: str
    log: str
    size: int
    root: str
    leaves: str
    at: str

    def new_leaves(self) -> list[bytes]:
        """Return the leaf hashes that are new in this head."""
        joined = base64.urlsafe_b64decode(self.leaves)
        return [joined[start : start + HASH_BYTES] for start in range(0, len(joined), HASH_BYTES)]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found; `position` is the first bad entry, None when all is well or the heads themselves are bad."""

    proved: bool
    text: str
    position: int | None = None
    entries: int = 0
    heads: int = 0


def check_log(entries: Iterable[Entry], heads: Iterable[Signed], keys: TrustedKeys) -> Finding:
    """Compare a log with the heads that were published."""
    try:
        leaves, count = read_heads(heads, keys)
    except HeadError as error:
        return Finding(proved=False, text=str(error))
    found = 0
    for number, entry in enumerate(entries):
        wrong = _wrong(entry, number, leaves)
        if wrong is not None:
            return Finding(proved=False, text=wrong, position=number, entries=number, heads=count)
        found += 1
    if found < len(leaves):
        text = f"the log ends before entry {found}: the newest head has {len(leaves)}"
        return Finding(proved=False, text=text, position=found, entries=found, heads=count)
    beyond = found - len(leaves)
    told = f"; newer than the newest head, and not proved by any: {beyond}" if beyond else ""
    text = f"{len(leaves)} entries are as {count} heads say{told}"
    return Finding(proved=True, text=text, entries=found, heads=count)


class HeadError(Exception):
    """The heads are not a log's: not signed by the vault, with a gap, or of two logs that contradict each other."""


def read_heads(heads: Iterable[Signed], keys: TrustedKeys) -> tuple[list[bytes], int]:
    """Return the leaf hashes that verified heads tell, and how many heads there were; heads may come twice."""
    told: dict[int, Head] = {}
    for signed in heads:
        try:
            keys.verify(signed)
            head = Head.model_validate(signed.statement)
        except SignatureError as error:
            raise HeadError(f"a head is not signed by the vault: {error}") from None
        except ValidationError:
            raise HeadError("a signed statement is no head of a log") from None
        if head.kind != "checkpoint" or head.log != LOG_ID:
            raise HeadError(f"a head is of the log {head.log!r}, not of {LOG_ID!r}")
        if told.setdefault(head.size, head).root != head.root:
            raise HeadError(f"two signed heads of size {head.size} contradict each other: the log was forked")
    frontier, leaves = Frontier(), list[bytes]()
    for size in sorted(told):
        new = told[size].new_leaves()
        if size - len(new) != len(leaves):
            raise HeadError(f"heads are missing between the sizes {len(leaves)} and {size - len(new)}: fetch them all")
        for leaf in new:
            frontier.append(leaf)
        leaves += new
        if frontier.root().hex() != told[size].root:
            raise HeadError(f"the head of size {size} does not follow from those before it: the log was rewritten")
    return leaves, len(told)


def _wrong(entry: Entry, number: int, leaves: list[bytes]) -> str | None:
    if entry.position != number:
        return f"entry {number} is missing: the next one has position {entry.position}"
    if number < len(leaves) and entry.leaf() != leaves[number]:
        return f"entry {number} is not the one that was logged"
    if not entry.ledger_fits():
        return f"the ledger rows of entry {number} are not those that were written with it"
    return None


LogOption = Annotated[Path, typer.Option("--log", help="The log as it is now: `waystation vault export-log` wrote it.")]
HeadsOption = Annotated[Path, typer.Option("--heads", help="Events of vault.checkpoints, one JSON document a line.")]
KeysOption = Annotated[Path, typer.Option("--keys", help="Folder with the published keys, vault/*.pem.")]


def verify_log(log: LogOption, heads: HeadsOption, keys: KeysOption, as_json: JsonFlag = False) -> None:
    """Say whether the vault's access log is what its published heads say. Exit status 0 yes, 1 no, 2 unchecked."""
    try:
        trusted = TrustedKeys.from_folder("vault", keys)
    except FileNotFoundError as error:
        raise UncheckableError(str(error), "give the folder that holds vault/*.pem") from None
    published = list(_heads(heads))
    if not published:
        raise UncheckableError(f"{heads} holds no head", "fetch vault.checkpoints: without heads nothing is checked")
    finding = check_log(_entries(log), published, trusted)
    answer = {
        "proved": finding.proved,
        "text": finding.text,
        "first_bad_entry": finding.position,
        "entries": finding.entries,
        "heads": finding.heads,
    }
    Output(as_json).show(answer, lambda: ("proved: " if finding.proved else "REFUSED: ") + finding.text)
    if not finding.proved:
        raise typer.Exit(1)


def _entries(path: Path) -> Iterator[Entry]:
    for number, line in _lines(path):
        try:
            yield Entry.model_validate_json(line)
        except ValidationError:
            raise UncheckableError(f"{path}:{number} is no entry of the log", "export the log again") from None


def _heads(path: Path) -> Iterator[Signed]:
    for number, line in _lines(path):
        try:
            yield Signed.model_validate(json.loads(line)["checkpoint"])
        except (ValidationError, ValueError, KeyError, TypeError):
            raise UncheckableError(f"{path}:{number} is no head of a log", "fetch vault.checkpoints again") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise UncheckableError(f"{path} cannot be read: {type(error).__name__}", "give another file") from None
