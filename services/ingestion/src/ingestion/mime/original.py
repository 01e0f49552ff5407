"""A person's own mail: line ends become CR LF and the last line gets one if it has none; nothing else changes.

No header is added, not even one that is missing. What cannot be carried so is refused with the reason and the line.
A lone CR is refused as well: SMTP cannot carry it (RFC 5321, 2.3.8), and whether it ends a line is anyone's guess.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ingestion.mime.content import (
    HEADER_BLOCK_BYTES_MAX,
    HEADER_LINES_MAX,
    LINE_OCTETS_MAX,
    RECIPIENTS_MAX,
    ContentError,
    Mailbox,
    Original,
)
from ingestion.mime.lines import line_number, overlong_line_at, with_crlf
from ingestion.mime.mailboxes import AddressListError, mailboxes
from ingestion.mime.structure import FIELD, check_structure

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONE_CR = re.compile(rb"\r(?!\n)")
_HEADER = re.compile(r"([!-9;-~]+)[ \t]*:(.*)", re.DOTALL)
_FOLD = re.compile(r"\r\n(?=[ \t])")
# Readers differ on which of two they show or obey (RFC 5322, 3.6; RFC 2045, 3), so screening could read another mail.
_ONCE = frozenset(
    ("from", "sender", "reply-to", "to", "cc", "subject", "date", "message-id", "in-reply-to", "references")
) | {"mime-version", "content-type", "content-transfer-encoding", "content-disposition"}
_REVEALING = frozenset(("bcc", "resent-bcc"))


def original(raw: bytes, *, content_bytes_max: int) -> Original:
    """A person's own mail as it will be carried, with its sender and recipients.

    Args:
        raw: the mail as its owner wrote it (an `.eml` file).
        content_bytes_max: limit of the whole mail, before and after its line ends are CR LF.

    Raises:
        ContentError: always for the field `content.eml`; the reason names the line or the header.
    """
    content = _carried(raw, content_bytes_max)
    headers_end = _headers_end(content)
    head = _decoded_head(content[:headers_end])
    headers = _headers(head)
    check_structure(content, headers_end + 2)
    return Original(
        content,
        sender=_sender(headers),
        recipients=_recipients(headers),
        message_id=headers.get("message-id", "").strip() or None,
        subject_present="subject" in headers,
        date_present="date" in headers,
        eight_bit=not content.isascii(),
        smtputf8=not head.isascii(),
    )


def _refused(reason: str, limit: int | None = None) -> ContentError:
    return ContentError(FIELD, reason, limit)


def _carried(raw: bytes, content_bytes_max: int) -> bytes:
    if not raw:
        raise _refused("is empty")
    if len(raw) > content_bytes_max:
        raise _refused(f"is larger than {content_bytes_max} bytes", content_bytes_max)
    if (nul_at := raw.find(b"\0")) >= 0:
        raise _refused(f"line {line_number(raw, nul_at)}: holds a NUL, which SMTP cannot carry: encode it in base64")
    line_ends = raw.count(b"\r\n")
    if raw.count(b"\r") != line_ends:
        lone_cr = _LONE_CR.search(raw)
        where = line_number(raw, lone_cr.start() if lone_cr else 0)
        raise _refused(f"line {where}: holds a CR without LF: save the mail with LF or CR LF line ends")
    missing_cr = raw.count(b"\n") - line_ends
    if len(raw) + missing_cr > content_bytes_max:
        raise _refused(f"is larger than {content_bytes_max} bytes with CR LF line ends", content_bytes_max)
    content = with_crlf(raw) if missing_cr or not raw.endswith(b"\r\n") else raw
    if (overlong_at := overlong_line_at(content)) is not None:
        where = line_number(content, overlong_at)
        raise _refused(f"line {where}: is longer than {LINE_OCTETS_MAX} octets", LINE_OCTETS_MAX)
    return content


def _headers_end(content: bytes) -> int:
    """Offset just after the CR LF of the last header."""
    blank_at = content.find(b"\r\n\r\n", 0, HEADER_BLOCK_BYTES_MAX + 4)
    if content.startswith(b"\r\n"):
        raise _refused("line 1: is blank where the headers should start")
    if blank_at < 0 and len(content) > HEADER_BLOCK_BYTES_MAX:
        raise _refused(f"has more than {HEADER_BLOCK_BYTES_MAX} bytes of headers", HEADER_BLOCK_BYTES_MAX)
    if blank_at < 0:
        raise _refused("has no blank line between headers and body")
    if content.count(b"\n", 0, blank_at + 2) > HEADER_LINES_MAX:
        raise _refused(f"has more than {HEADER_LINES_MAX} lines of headers", HEADER_LINES_MAX)
    return blank_at + 2


def _decoded_head(head: bytes) -> str:
    try:
        return head.decode()
    except UnicodeDecodeError as error:
        where = line_number(head, error.start)
        raise _refused(f"line {where}: a header holds octets that are not UTF-8: use RFC 2047") from None


def _headers(head: str) -> dict[str, str]:
    """Unfolded values by lower-case name; of a header that may repeat, the first."""
    headers: dict[str, str] = {}
    for line, text in _unfolded(head):
        match = _HEADER.fullmatch(text)
        if match is None:
            raise _refused(f"line {line}: is no header (name, colon, value) and there was no blank line before it")
        name = match[1].lower()
        if name in _REVEALING:
            raise _refused(f"line {line}: {name.title()} would show hidden recipients: take it out, instruct each one")
        if name in headers and name in _ONCE:
            raise _refused(f"line {line}: {name.title()} stands there twice, which readers take differently")
        headers.setdefault(name, match[2])
    return headers


def _unfolded(head: str) -> Iterator[tuple[int, str]]:
    line = 1
    for text in re.split(r"\r\n(?![ \t])", head.removesuffix("\r\n")):
        yield line, _FOLD.sub("", text)
        line += text.count("\n") + 1


def _sender(headers: dict[str, str]) -> Mailbox:
    if "from" not in headers:
        raise _refused("has no From header")
    senders = _mailboxes(headers, "from")
    if len(senders) != 1:
        raise _refused(f"From names {len(senders)} mailboxes where one is needed")
    return senders[0]


def _recipients(headers: dict[str, str]) -> tuple[Mailbox, ...]:
    each_once: dict[str, Mailbox] = {}
    for mailbox in (*_mailboxes(headers, "to"), *_mailboxes(headers, "cc")):
        each_once.setdefault(mailbox.address, mailbox)
    if not each_once:
        raise _refused("names no recipient in To or Cc")
    if len(each_once) > RECIPIENTS_MAX:
        raise _refused(f"names more than {RECIPIENTS_MAX} recipients in To and Cc", RECIPIENTS_MAX)
    return tuple(each_once.values())


def _mailboxes(headers: dict[str, str], name: str) -> list[Mailbox]:
    try:
        return mailboxes(headers.get(name, ""), field=FIELD)
    except AddressListError as error:
        raise _refused(f"{name.title()}: {error}") from None
    except ContentError as error:
        raise _refused(f"{name.title()}: an address {error.reason}", error.limit) from None
