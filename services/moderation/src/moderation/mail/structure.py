"""The leaves of a mail's MIME tree, in one pass and without recursion (RFC 2046)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from moderation.mail.decoding import header_parameters, transfer_encoding
from moderation.mail.parts import HEADER_BYTES_MAX, HEADERS_MAX, NESTING_MAX, PARTS_MAX

if TYPE_CHECKING:
    from moderation.mail.parts import Degradation

NEAR_MISSES_MAX = 10_000
# What writers put before the first part for readers without MIME: it says nothing, and readers with MIME hide it.
_FOR_OLD_READERS = re.compile(
    rb"\s*+(?:this is an? (?:multi-?part|cryptographically signed|openpgp/mime signed|mime-(?:encapsulated|formatted))"
    rb" message(?: in mime format| \(rfc \d+ and \d+\))?|this message is in mime format)[.\s-]*+",
    re.IGNORECASE,
)
_HEADER = re.compile(r"^([!-9;-~]+)[ \t]*:[ \t]*([^\n]*(?:\n[ \t][^\n]*)*)", re.MULTILINE)
# One pattern for the rest of any delimiter line: compiling one for each mail's own boundary would cost 0.4 ms.
_REST_OF_DELIMITER = re.compile(rb"(--)?[ \t]*(?=\r\n|\Z)")

_REPORT = re.compile(r"message/.*(?:status|notification|report|headers)")  # lines to be read, no message

Headers = dict[str, str]


def is_message(content_type: str) -> bool:
    """Whether a part holds a message: headers and a body of its own."""
    return content_type.startswith("message/") and _REPORT.fullmatch(content_type) is None


def is_encoded(headers: Headers) -> bool:
    """Whether a body stands there in other octets than its own."""
    return transfer_encoding(headers.get("content-transfer-encoding", "")) in ("base64", "quoted-printable")


@dataclass(slots=True)
class Leaf:
    """A part without parts: its headers (first of each, by lower-case name), media type and encoded body."""

    headers: Headers
    content_type: str
    parameters: dict[str, str]
    body: bytes


class _Found(NamedTuple):
    """A delimiter line: where it starts, where its text ends, whether it closes the multipart."""

    start: int
    end: int
    closing: bool


@dataclass(slots=True)
class _Multipart:
    delimiter: bytes
    searched: bool = False
    coming: _Found | None = None


class MailTree:
    """Takes one mail apart; `content` has CR LF line ends and lies within `level` other messages.

    `leaves` are its parts in order, a message in an encoding is one; `messages` the headers of each message in it, the
    outermost first; `parts` how many parts were looked at, at most `parts_max`.
    """

    def __init__(self, content: bytes, degraded: set[Degradation], level: int = 0, parts_max: int = PARTS_MAX) -> None:
        self.content = content
        self.degraded = degraded
        self.level = level
        self.parts = 1
        self.parts_max = parts_max
        self.leaves: list[Leaf] = []
        self.messages: list[Headers] = []
        self._open: list[_Multipart] = []
        self._other_reading: tuple[Headers, int] | None = None
        self._near_misses = 0
        self._walk()

    def _walk(self) -> None:
        start = self.content.find(b"\r\n") + 2 if self.content.startswith((b"From ", b">From ")) else 0
        headers, body_at = self._headers(start, len(self.content))
        self.messages.append(headers)
        at = self._enter(headers, body_at)
        while (found := self._next_delimiter(at)) is not None:
            depth, delimiter = found
            del self._open[depth + 1 :]
            at = delimiter.end
            self.parts += 1
            if self.parts > self.parts_max:
                self.degraded.add("parts")
                return
            if delimiter.closing:
                self._keep_aside(at)  # some readers show what stands there, and go on with parts
                continue
            headers, body_at = self._headers(at + 2, self._end(at))
            at = self._enter(headers, body_at)

    def _enter(self, headers: Headers, body_at: int) -> int:
        """Open the multipart that starts here, or keep the leaf; the offset from which to look for a boundary."""
        content_type, parameters = self._content_type(headers)
        messages = self.level
        while is_message(content_type) and messages < NESTING_MAX:
            if is_encoded(headers):
                break
            self._keep_other_reading(body_at)
            headers, body_at = self._headers(body_at, self._end(body_at))
            self.messages.append(headers)
            messages += 1
            content_type, parameters = self._content_type(headers)
        multipart = content_type.startswith("multipart/")
        if multipart and self._opened(parameters.get("boundary", "").rstrip(), body_at):
            self._keep_other_reading(body_at)
            self._keep_aside(body_at)
            return body_at
        too_deep = is_message(content_type) and messages >= NESTING_MAX
        if too_deep:
            self.degraded.add("nesting")
        readable = "text" if multipart or too_deep else content_type
        self._keep_other_reading(self._end(body_at))
        self.leaves.append(Leaf(headers, readable, parameters, self.content[body_at : self._end(body_at)]))
        return body_at

    def _content_type(self, headers: Headers) -> tuple[str, dict[str, str]]:
        content_type, parameters = header_parameters(headers.get("content-type", ""), self.degraded)
        if content_type == "message/partial":
            self.degraded.add("unread-part")  # the rest of what it says came in other mails
        return content_type or "text/plain", parameters

    def _keep_aside(self, at: int) -> None:
        """Keep what stands between parts as a text."""
        aside = self.content[at : self._end(at)]
        if aside.strip() and not _FOR_OLD_READERS.fullmatch(aside):
            self.leaves.append(Leaf({}, "text", {}, aside))

    def _keep_other_reading(self, end: int) -> None:
        """Keep the body as those readers see it that begin it with the first line that is no header."""
        if self._other_reading is not None:
            headers, at = self._other_reading
            content_type, parameters = self._content_type(headers)
            readable = content_type if content_type.startswith("text/") else "text"
            self.leaves.append(Leaf(headers, readable, parameters, self.content[at:end]))
            self._other_reading = None

    def _opened(self, boundary: str, body_at: int) -> bool:
        if len(self._open) + self.level >= NESTING_MAX:
            self.degraded.add("nesting")
            return False
        end = self._end(body_at)
        if boundary:
            multipart = _Multipart(b"\r\n--" + boundary.encode("utf-8", "surrogateescape"), searched=True)
            multipart.coming = self._search(multipart, max(body_at - 2, 0), end)
            if multipart.coming is not None:
                self._open.append(multipart)
                return True
        if self.content[body_at:end].strip():
            self.degraded.add("boundary")
        return False

    def _end(self, at: int) -> int:
        """Where the part ends that `at` lies in."""
        found = self._next_delimiter(at)
        return found[1].start if found else len(self.content)

    def _next_delimiter(self, at: int) -> tuple[int, _Found] | None:
        nearest: tuple[int, _Found] | None = None
        end = len(self.content)
        for depth, multipart in enumerate(self._open):
            start = max(at - 2, 0)
            behind = multipart.coming is not None and multipart.coming.start < start
            if behind or not multipart.searched:
                multipart.coming, multipart.searched = self._search(multipart, start, end), True
            coming = multipart.coming
            if coming is not None and (nearest is None or coming.start <= nearest[1].start):
                nearest, end = (depth, coming), coming.start
        return nearest

    def _search(self, multipart: _Multipart, start: int, end: int) -> _Found | None:
        """The next delimiter line that begins at `end` or before it: there another part ends, and all within it."""
        end += len(multipart.delimiter)
        while self._near_misses <= NEAR_MISSES_MAX:
            start = self.content.find(multipart.delimiter, start, end)
            if start < 0:
                return None
            if rest := _REST_OF_DELIMITER.match(self.content, start + len(multipart.delimiter)):
                return _Found(start, rest.end(), closing=rest[1] is not None)
            start += len(multipart.delimiter)
            self._near_misses += 1
        self.degraded.add("boundary")
        return None

    def _headers(self, at: int, end: int) -> tuple[Headers, int]:
        """The headers of the part at `at`, and where its body starts."""
        if self.content.startswith(b"\r\n", at):
            return {}, min(at + 2, end)
        limit = min(end, at + HEADER_BYTES_MAX)
        headers_end = self.content.find(b"\r\n\r\n", at, limit)
        if headers_end < 0:
            headers_end = limit
            if limit < end:
                self.degraded.add("headers")
        head = self.content[at:headers_end].decode("utf-8", "surrogateescape").replace("\r\n", "\n")
        headers: Headers = {}
        before: Headers = {}
        expected, stray = 0, -1
        for count, header in enumerate(_HEADER.finditer(head)):
            if count == HEADERS_MAX:
                self.degraded.add("headers")
                break
            if stray < 0 and header.start() > expected:
                stray, before = expected, dict(headers)
            expected = header.end() + 1
            headers.setdefault(header[1].lower(), header[2].replace("\n", ""))
        else:
            if stray < 0 and head[expected:].strip():
                stray, before = expected, headers
        body_at = min(headers_end + 4, end)
        if stray < 0:
            return headers, body_at
        stray_at = at + len(head[:stray].encode("utf-8", "surrogateescape")) + head.count("\n", 0, stray)
        same = [headers.get(name) == before.get(name) for name in ("content-type", "content-transfer-encoding")]
        if headers_end == limit or (all(same) and not is_encoded(headers)):
            return headers, stray_at
        self._other_reading = before, stray_at
        return headers, body_at
