"""What the laboratory has seen: one JSON line a mail and recipient, in one file."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import FileIO

FILE_NAME = "mails.jsonl"
FLUSH_SECONDS = 0.02

_MESSAGE_ID = re.compile(rb"^message-id:[ \t]*(?:\r\n[ \t]+)?([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_quoted = json.encoder.encode_basestring_ascii


@dataclass(frozen=True, slots=True)
class RecordedMail:
    """A mail the laboratory has read to its final dot.

    `time`: Unix seconds. `sha256` (hex) and `size_octets` are of the content after dot-unstuffing. `answer` is the
    reply's first line, `cut` or `garbage`. `content` is None in a digest-only record.
    """

    time: float
    mail_from: str
    rcpt_to: str
    sha256: str
    size_octets: int
    message_id: str | None
    answer: str
    content: bytes | None

    @property
    def accepted(self) -> bool:
        """True when the sender was told 250."""
        return self.answer.startswith("250")


def recorded(time: float, envelope: tuple[str, str], content: bytes, answer: str, *, keep: bool) -> RecordedMail:
    """A mail as the record holds it; `envelope` is sender and recipient."""
    found = _MESSAGE_ID.search(content, 0, headers_end(content))
    return RecordedMail(
        time=time,
        mail_from=envelope[0],
        rcpt_to=envelope[1],
        sha256=hashlib.sha256(content).hexdigest(),
        size_octets=len(content),
        message_id=found[1].decode("utf-8", "replace").strip() if found else None,
        answer=answer,
        content=content if keep else None,
    )


def headers_end(content: bytes) -> int:
    """Where the header section ends."""
    end = content.find(b"\r\n\r\n")
    return len(content) if end < 0 else end


def as_line(mail: RecordedMail) -> bytes:
    """One line of JSON. Written by hand: the JSON encoder would walk base64 text that needs no escaping."""
    message_id = "null" if mail.message_id is None else _quoted(mail.message_id)
    head = (
        f'{{"time":{mail.time!r},"mail_from":{_quoted(mail.mail_from)},"rcpt_to":{_quoted(mail.rcpt_to)},'
        f'"sha256":"{mail.sha256}","size_octets":{mail.size_octets},"message_id":{message_id},'
        f'"answer":{_quoted(mail.answer)},"content":'
    ).encode()
    if mail.content is None:
        return head + b"null}\n"
    return b'%b"%b"}\n' % (head, binascii.b2a_base64(mail.content, newline=False))


def read_record(path: Path | str) -> list[RecordedMail]:
    """All mails of a record (its directory or its file), oldest first; a line still being written is left out."""
    path = Path(path)
    file = path / FILE_NAME if path.is_dir() else path
    if not file.exists():
        return []
    lines = file.read_bytes().split(b"\n")[:-1]
    return [_from_line(json.loads(line)) for line in lines]


def _from_line(fields: dict[str, object]) -> RecordedMail:
    content = fields.pop("content")
    decoded = base64.b64decode(content) if isinstance(content, str) else None
    return RecordedMail(content=decoded, **fields)  # type: ignore[arg-type]


class RecordFile:
    """Appends lines in batches, some 20 ms apart, each with one write to the operating system."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file: FileIO = (directory / FILE_NAME).open("ab", buffering=0)
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def append(self, mail: RecordedMail) -> None:
        """Take one mail; a reader sees it within about 50 ms."""
        self._lines.append(as_line(mail))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write what is held."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch = memoryview(b"".join(self._lines))
        self._lines.clear()
        while batch:
            batch = batch[self._file.write(batch) or 0 :]

    def close(self) -> None:
        """Write what is held and close the file."""
        self.flush()
        self._file.close()
