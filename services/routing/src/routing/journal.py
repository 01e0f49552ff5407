"""How far this process has come with its attempts, kept where a SIGKILL does not reach (ADR 0013).

A file of fixed slots, mapped into memory. An attempt has a slot from before it is begun in the database until its
outcome stands there; in between the slot says whether the final dot may have been written, and what was answered:

    free -> begun -> beyond -> known -> free
               └────────────────┘

A step is one byte, stored after all that it stands for. Stores to a shared mapping belong to the kernel as soon as they
are made, so whatever a killed process had stored is there for its successor, in order. They do not outlive the machine:
the file names the boot that it belongs to. An exclusive lock keeps a second process out.

JournalError
    ├── the file is in use by another process
    ├── no boot id can be read on this system
    └── what the file holds is of another boot, another format, or damaged
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from zlib import crc32

import orjson

from routing.domain import AttemptResult, Outcome, Reply
from routing.settlement import SealedReply

if TYPE_CHECKING:
    from collections.abc import Iterator

BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
SLOT_BYTES = 1024
_MAGIC = b"waystation routing journal 1\n"
_HEADER = struct.Struct("<32s40sII")
_HEADER_BYTES = 4096
_FREE, _BEGUN, _BEYOND, _KNOWN = range(4)
_IDENTITY = struct.Struct("<16sI")
_IDENTITY_AT, _IDENTITY_SUM_AT = 8, 4
_LENGTH_AND_SUM = struct.Struct("<II")
_LENGTH_AT, _OUTCOME_AT = 28, 36
_SUM = struct.Struct("<I")


class JournalError(Exception):
    """The journal cannot be used, or what it held cannot be relied upon; the text says why."""


@dataclass(frozen=True, slots=True)
class LeftOver:
    """An attempt that an earlier process did not settle.

    Not `beyond`: the call had not reached its point of no return. `known`: number, outcome and sealed reply.
    """

    message_id: str
    epoch: int
    beyond: bool
    known: tuple[int, Outcome, SealedReply | None] | None = None


class Entry:
    """The slot of one attempt."""

    __slots__ = ("_at", "_journal", "_memory")

    def __init__(self, journal: Journal, memory: mmap.mmap | bytearray, at: int) -> None:
        self._journal = journal
        self._memory = memory
        self._at = at

    def beyond(self) -> None:
        """From here on the provider may have accepted: call it right before the final dot is written."""
        self._memory[self._at] = _BEYOND

    def known(self, number: int, outcome: Outcome, reply: SealedReply | None) -> None:
        """Keep the outcome. A sealed reply that does not fit is left out; its digest stays."""
        outcome_bytes = _encoded(number, outcome, reply)
        if len(outcome_bytes) > SLOT_BYTES - _OUTCOME_AT:
            outcome_bytes = _encoded(number, outcome, SealedReply(None, reply.digest) if reply else None)
        if len(outcome_bytes) > SLOT_BYTES - _OUTCOME_AT:
            return
        at, memory = self._at, self._memory
        memory[at + _OUTCOME_AT : at + _OUTCOME_AT + len(outcome_bytes)] = outcome_bytes
        _LENGTH_AND_SUM.pack_into(memory, at + _LENGTH_AT, len(outcome_bytes), crc32(outcome_bytes))
        memory[at] = _KNOWN

    def free(self) -> None:
        """The outcome stands in the database, or nothing was begun."""
        self._memory[self._at] = _FREE
        self._journal.give_back(self)


class Journal:
    """The slots of one process. Without a file they are in its own memory, and a kill takes them along."""

    def __init__(self, slots: int, file: JournalFile | None = None) -> None:
        memory = bytearray(_HEADER_BYTES + slots * SLOT_BYTES) if file is None else file.started(slots)
        self.survives = file is not None
        self._free = [Entry(self, memory, _HEADER_BYTES + place * SLOT_BYTES) for place in reversed(range(slots))]
        self._memory = memory

    def begin(self, message_id: str, epoch: int) -> Entry:
        """Take a slot for an attempt that is about to be begun; there must be a free one."""
        entry = self._free.pop()
        at, memory = entry._at, self._memory  # noqa: SLF001 - the two are one
        identity = _IDENTITY.pack(uuid.UUID(message_id).bytes, epoch)
        memory[at + _IDENTITY_AT : at + _IDENTITY_AT + _IDENTITY.size] = identity
        _SUM.pack_into(memory, at + _IDENTITY_SUM_AT, crc32(identity))
        memory[at] = _BEGUN
        return entry

    def give_back(self, entry: Entry) -> None:
        """Take back a slot that was freed."""
        self._free.append(entry)


class JournalFile:
    """A journal's file, locked for this process: first what an earlier one left in it, then this one's own slots."""

    def __init__(self, path: Path, boot_id_file: Path = BOOT_ID_FILE) -> None:
        """Raises JournalError when another process has it or there is no boot id, OSError when it cannot be opened."""
        self._boot_id = _boot_id(boot_id_file)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise JournalError("another process uses it; two copies need two INSTANCE names and files") from None
        self._map: mmap.mmap | None = None
        self.is_new = os.fstat(self._descriptor).st_size == 0

    def left_over(self) -> list[LeftOver]:
        """Return what an earlier process did not settle; raise JournalError when that cannot be relied upon."""
        content = os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)
        if not content:
            return []
        if len(content) < _HEADER_BYTES:
            raise JournalError("it is cut short")
        magic, boot_id, slots, slot_bytes = _HEADER.unpack_from(content)
        if magic.rstrip(b"\x00") != _MAGIC or slot_bytes != SLOT_BYTES:
            raise JournalError("it is no journal of this format")
        if boot_id.rstrip(b"\x00") != self._boot_id:
            raise JournalError("it is of another boot of this machine, or of another machine")
        if len(content) < _HEADER_BYTES + slots * SLOT_BYTES:
            raise JournalError("it is cut short")
        return list(_left_over(content, slots))

    def started(self, slots: int) -> mmap.mmap:
        """Begin anew with free slots: what was left over is settled, or given up. The header is written last."""
        size = _HEADER_BYTES + slots * SLOT_BYTES
        os.ftruncate(self._descriptor, 0)
        os.posix_fallocate(self._descriptor, 0, size)  # or a full disk would end the process at a store
        self._map = mmap.mmap(self._descriptor, size)
        _HEADER.pack_into(self._map, 0, _MAGIC, self._boot_id, slots, SLOT_BYTES)
        return self._map

    def close(self) -> None:
        """Give the lock back. The file stays."""
        if self._map is not None:
            self._map.close()  # it holds a descriptor of its own
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _boot_id(file: Path) -> bytes:
    try:
        return file.read_bytes().strip()
    except OSError as error:
        raise JournalError(f"{file}: {error.strerror}; nothing else tells one boot from another") from None


def _left_over(content: bytes, slots: int) -> Iterator[LeftOver]:
    for at in range(_HEADER_BYTES, _HEADER_BYTES + slots * SLOT_BYTES, SLOT_BYTES):
        state = content[at]
        if state == _FREE:
            continue
        identity = content[at + _IDENTITY_AT : at + _IDENTITY_AT + _IDENTITY.size]
        (checksum,) = _SUM.unpack_from(content, at + _IDENTITY_SUM_AT)
        if state > _KNOWN or crc32(identity) != checksum:
            raise JournalError("a slot in it is damaged")
        message_id, epoch = _IDENTITY.unpack(identity)
        known = _decoded(content, at) if state == _KNOWN else None
        yield LeftOver(str(uuid.UUID(bytes=message_id)), epoch, state != _BEGUN, known)


def _encoded(number: int, outcome: Outcome, reply: SealedReply | None) -> bytes:
    sealed = None if reply is None else [reply.sealed.hex() if reply.sealed is not None else None, reply.digest]
    code = outcome.reply.code if outcome.reply else None
    return orjson.dumps([number, outcome.result, outcome.reason, code, outcome.retry_after_seconds, sealed])


def _decoded(content: bytes, at: int) -> tuple[int, Outcome, SealedReply | None]:
    length, checksum = _LENGTH_AND_SUM.unpack_from(content, at + _LENGTH_AT)
    outcome_bytes = content[at + _OUTCOME_AT : at + _OUTCOME_AT + length]
    if length > SLOT_BYTES - _OUTCOME_AT or crc32(outcome_bytes) != checksum:
        raise JournalError("an outcome in it is damaged")
    number, result, reason, code, retry_after_seconds, sealed = orjson.loads(outcome_bytes)
    reply = None if code is None else Reply(code, None, "")
    outcome = Outcome(AttemptResult(result), reason, reply, retry_after_seconds)
    if sealed is None:
        return number, outcome, None
    return number, outcome, SealedReply(None if sealed[0] is None else bytes.fromhex(sealed[0]), sealed[1])
