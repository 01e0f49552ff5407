"""The MIME structure of a mail that others composed: counted in one pass, without recursion (RFC 2046, section 5.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from ingestion.mime.content import NESTING_MAX, PART_HEADER_BYTES_MAX, PARTS_MAX, ContentError
from ingestion.mime.lines import line_number

FIELD = "content.eml"
NEAR_MISSES_MAX = 10_000
_CONTENT_TYPE = re.compile(rb"(?:\A|\n)content-type[ \t]*:((?:[^\n]|\n[ \t])*)", re.IGNORECASE)
_MEDIA_TYPE = re.compile(r"\s*([^\s;/()]+)\s*/\s*([^\s;()]+)")
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*+)"|([^;]*+))|;\s*[^;]*+', re.DOTALL)
_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*+"?)|\([^()"]*+\)', re.DOTALL)


@dataclass(slots=True)
class _Level:
    """An open multipart (with its boundary), or a message inside the message (without)."""

    boundary: bytes | None
    delimiter: re.Pattern[bytes] | None = None
    coming: re.Match[bytes] | None = None
    searched_to: int = field(default=-1)

    def next_delimiter(self, content: bytes, start: int) -> re.Match[bytes] | None:
        if self.delimiter is None:
            return None
        if self.searched_to < start:
            self.coming = _next_delimiter(self, content, start)
            self.searched_to = self.coming.start() if self.coming else len(content)
        return self.coming


def check_structure(content: bytes, body_at: int) -> int:
    """The number of parts of a mail whose body starts at `body_at`; lines must end in CR LF.

    Raises:
        ContentError: more than 1,000 parts or 20 levels, a part with more than 64 KiB of headers, or a multipart whose
            boundary cannot be read without doubt: what one reader takes apart differently than another is not carried.
    """
    levels: list[_Level] = []
    parts = 1
    at = _enter(content, 0, body_at, levels)
    while (found := _nearest(content, at, levels)) is not None:
        depth, delimiter = found
        del levels[depth + 1 :]
        if delimiter[1]:
            del levels[depth]
            at = delimiter.end()
            continue
        parts += 1
        if parts > PARTS_MAX:
            raise ContentError(FIELD, f"has more than {PARTS_MAX} parts", PARTS_MAX)
        at = _enter_part(content, delimiter.end() + 2, levels)
    return parts


def _nearest(content: bytes, at: int, levels: list[_Level]) -> tuple[int, re.Match[bytes]] | None:
    """The next boundary line of any open multipart; of equal boundaries the innermost counts."""
    nearest = None
    for depth, level in enumerate(levels):
        delimiter = level.next_delimiter(content, at - 2)
        if delimiter is not None and (nearest is None or delimiter.start() <= nearest[1].start()):
            nearest = depth, delimiter
    return nearest


def _next_delimiter(level: _Level, content: bytes, start: int) -> re.Match[bytes] | None:
    if level.boundary is None or level.delimiter is None:
        return None
    needle = b"\r\n--" + level.boundary
    for _ in range(NEAR_MISSES_MAX):
        start = content.find(needle, start)
        if start < 0:
            return None
        if match := level.delimiter.match(content, start):
            return match
        start += len(needle)
    raise ContentError(FIELD, f"has more than {NEAR_MISSES_MAX} lines that start like a boundary", NEAR_MISSES_MAX)


def _enter_part(content: bytes, at: int, levels: list[_Level]) -> int:
    """Past the headers of the part that starts at `at`."""
    following = _nearest(content, at, levels)
    limit = following[1].start() + 2 if following else len(content)
    if content.startswith(b"\r\n", at):
        return at
    headers_end = content.find(b"\r\n\r\n", at, min(limit + 2, at + PART_HEADER_BYTES_MAX))
    if headers_end >= 0:
        return _enter(content, at, headers_end + 4, levels)
    if limit - at >= PART_HEADER_BYTES_MAX:
        where = line_number(content, at)
        raise ContentError(
            FIELD, f"line {where}: a part has more than {PART_HEADER_BYTES_MAX} bytes of headers", PART_HEADER_BYTES_MAX
        )
    return limit


def _enter(content: bytes, headers_at: int, body_at: int, levels: list[_Level]) -> int:
    """Open what the headers announce: a multipart, or the headers of a message within."""
    while True:
        media_type, boundary = _content_type(content, headers_at, body_at)
        if media_type != "message/rfc822" and not media_type.startswith("multipart/"):
            return body_at
        if len(levels) >= NESTING_MAX:
            raise ContentError(FIELD, f"is nested more than {NESTING_MAX} levels deep", NESTING_MAX)
        if media_type.startswith("multipart/"):
            pattern = re.compile(rb"\r\n--" + re.escape(boundary) + rb"(--)?[ \t]*(?=\r\n)")
            levels.append(_Level(boundary, pattern))
            return body_at
        levels.append(_Level(None))
        end = content.find(b"\r\n\r\n", body_at, body_at + PART_HEADER_BYTES_MAX)
        if end < 0:
            return body_at
        headers_at, body_at = body_at, end + 4


def _content_type(content: bytes, headers_at: int, body_at: int) -> tuple[str, bytes]:
    """The media type in lower case, and the boundary if it is a multipart."""
    found = _CONTENT_TYPE.findall(content[headers_at:body_at])
    if not found:
        return "text/plain", b""
    value = _COMMENT.sub(lambda match: match[1] or "", found[0].decode("utf-8", "surrogateescape"))
    media_type = _MEDIA_TYPE.match(value)
    if media_type is None:
        return "text/plain", b""
    name = f"{media_type[1]}/{media_type[2]}".lower()
    if not name.startswith("multipart/"):
        return name, b""
    boundaries = _boundaries(value[media_type.end() :])
    if len(found) > 1 or len(boundaries) != 1 or not 1 <= len(boundaries[0]) <= 200:
        where = line_number(content, headers_at)
        raise ContentError(FIELD, f"a multipart after line {where} has no one boundary that every reader would find")
    return name, boundaries[0].encode("utf-8", "surrogateescape")


def _boundaries(parameters: str) -> list[str]:
    """Each boundary given; a boundary in RFC 2231 pieces counts as none, since readers differ on it."""
    values = []
    for name, quoted, bare in _PARAMETER.findall(parameters):
        if name.lower().startswith("boundary"):
            values.append((re.sub(r"\\(.)", r"\1", quoted) or bare).strip() if name.lower() == "boundary" else "")
    return values
