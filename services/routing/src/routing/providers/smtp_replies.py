"""SMTP replies from bytes (RFC 5321 4.2), and the enhanced status code in them (RFC 2034, RFC 3463)."""

from __future__ import annotations

import re
from typing import TypeAlias

from routing.domain import Reply

LINE_OCTETS_MAX = 2000
LINES_MAX = 100

_ENHANCED = re.compile(rb"([245]\.\d{1,3}\.\d{1,3})(?=[ \n]|$)")

RawReply: TypeAlias = tuple[int, bytes]
"""Code and text: everything behind the code, the lines of a multi-line reply joined by LF."""


class ReplyParser:
    """Incremental parser: the same replies come out, however the bytes are cut.

    Limits: 2,000 octets a line, 100 lines a reply. A line that is no reply, or over a limit, sets `broken` for good;
    replies that were complete before it are still given out.
    """

    __slots__ = ("_code", "_lines", "_rest", "broken")

    def __init__(self) -> None:
        self._rest = b""
        self._code = 0
        self._lines: list[bytes] = []
        self.broken = False

    @property
    def pending(self) -> bool:
        """True when bytes of an unfinished reply are held."""
        return bool(self._rest or self._lines)

    def feed(self, data: bytes) -> list[RawReply]:
        """Take bytes from the wire; returns the replies they complete."""
        replies: list[RawReply] = []
        if self._rest:
            data = self._rest + data
        start = 0
        while not self.broken and (end := data.find(b"\n", start)) >= 0:
            self._take_line(data[start:end], replies)
            start = end + 1
        self._rest = b"" if self.broken else data[start:]
        self.broken = self.broken or len(self._rest) > LINE_OCTETS_MAX
        return replies

    def _take_line(self, line: bytes, replies: list[RawReply]) -> None:
        digits, mark = line[:3], line[3:4]
        if len(line) > LINE_OCTETS_MAX or not (digits.isdigit() and len(digits) == 3 and mark in b" -\r"):
            self.broken = True
            return
        code = int(digits)
        if not 200 <= code <= 599 or (self._lines and code != self._code):
            self.broken = True
            return
        text = line[4:].removesuffix(b"\r")
        if mark != b"-" and not self._lines:
            replies.append((code, text))
            return
        self._take_part(code, text, replies, last=mark != b"-")

    def _take_part(self, code: int, text: bytes, replies: list[RawReply], *, last: bool) -> None:
        self._code = code
        self._lines.append(text)
        if last:
            replies.append((code, b"\n".join(self._lines)))
            self._lines = []
        elif len(self._lines) >= LINES_MAX:
            self.broken = True


def enhanced_code(raw: RawReply) -> str | None:
    """The enhanced status code a reply opens with, if its class fits the reply's (RFC 2034 section 4)."""
    code, text = raw
    found = _ENHANCED.match(text)
    if found is None or int(found[1][:1]) != code // 100:
        return None
    return found[1].decode()


def codes(raw: RawReply) -> str:
    """Code and enhanced code for a reason: `550 5.1.1`. Never holds the reply's text."""
    enhanced = enhanced_code(raw)
    return f"{raw[0]} {enhanced}" if enhanced else str(raw[0])


def as_reply(raw: RawReply) -> Reply:
    """The reply as a value; its text (may hold personal data) is UTF-8 with stray octets escaped."""
    code, text = raw
    return Reply(code, enhanced_code(raw), text.decode("utf-8", "backslashreplace"))
