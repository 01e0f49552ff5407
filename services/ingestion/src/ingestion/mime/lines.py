"""Lines of a mail: how long they are, where they stand, and their CR LF."""

from __future__ import annotations

from ingestion.mime.content import LINE_OCTETS_MAX

_WINDOW = LINE_OCTETS_MAX + 2  # the longest line that is allowed, with its CR LF


def overlong_line_at(content: bytes) -> int | None:
    """Offset of the first line of more than 998 octets, or None; every line of `content` must end in CR LF.

    Hops from one line end to the last one within reach, so the time does not grow with the number of lines.
    """
    start = 0
    while start < len(content):
        line_end = content.rfind(b"\n", start, start + _WINDOW)
        if line_end < 0:
            return start
        start = line_end + 1
    return None


def line_number(content: bytes, offset: int) -> int:
    """The line, from 1, in which an offset lies."""
    return content.count(b"\n", 0, offset) + 1


def with_crlf(content: bytes) -> bytes:
    """Every line ends in CR LF, the last one too; there must be no lone CR."""
    lf_only = content.replace(b"\r\n", b"\n") if b"\r" in content else content
    content = lf_only.replace(b"\n", b"\r\n")
    return content if content.endswith(b"\r\n") else content + b"\r\n"
