"""One mail as SMTP can carry it unchanged, or the reason why it cannot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from routing.domain import AttemptResult, Outcome

if TYPE_CHECKING:
    from routing.providers.smtp_settings import SmtpSettings

PATH_OCTETS_MAX = 254  # RFC 5321 4.5.3.1.3, less the angle brackets

_ADDRESS = re.compile(
    r'(?:[^\x00-\x20\x7f<>()\[\]\\,;:"@]+|"(?:[^\x00-\x1f\x7f"\\]|\\[\x20-\x7e])*")@[^\x00-\x20\x7f<>()\\,;"@]+',
)


class Mail(NamedTuple):
    """An envelope and its content, checked for what SMTP itself forbids; `mail_from` and `rcpt_to` are wire bytes."""

    mail_from: bytes
    rcpt_to: bytes
    content: bytes
    needs_8bit: bool
    needs_utf8: bool


@dataclass(frozen=True, slots=True)
class Extensions:
    """What the server offered in its EHLO reply. `size_max` None: no limit told."""

    pipelining: bool = False
    size: bool = False
    size_max: int | None = None
    eight_bit: bool = False
    utf8: bool = False
    starttls: bool = False
    auth: frozenset[str] = frozenset()


def parse_extensions(text: bytes) -> Extensions:
    """Extensions from the text of an EHLO reply (its first line is the server's name)."""
    offered: dict[str, list[str]] = {}
    for line in text.decode("ascii", "replace").upper().split("\n")[1:]:
        keyword, *parameters = line.replace("AUTH=", "AUTH ", 1).split() or [""]
        offered.setdefault(keyword, []).extend(parameters)
    limit = next((int(value) for value in offered.get("SIZE", []) if value.isdecimal()), 0)
    return Extensions(
        pipelining="PIPELINING" in offered,
        size="SIZE" in offered,
        size_max=limit or None,
        eight_bit="8BITMIME" in offered,
        utf8="SMTPUTF8" in offered,
        starttls="STARTTLS" in offered,
        auth=frozenset(offered.get("AUTH", [])),
    )


def examine(mail_from: str, rcpt_to: str, content: bytes, settings: SmtpSettings) -> Mail | Outcome:
    """The mail ready for the wire, or a refusal: what SMTP cannot carry unchanged is never changed to fit.

    Bare CR or LF, and content without CRLF at its end, are what SMTP smuggling is made of; they are refused here.
    """
    sender, recipient = _path(mail_from) if mail_from else b"", _path(rcpt_to)
    if sender is None or recipient is None:
        return _refusal("sender" if sender is None else "recipient", "not an address SMTP can carry")
    fault = content_fault(content, settings.line_octets_max)
    if fault:
        return _refusal("content", fault)
    needs_8bit = not content.isascii()
    in_headers = needs_8bit and not content.partition(b"\r\n\r\n")[0].isascii()
    return Mail(sender, recipient, content, needs_8bit, in_headers or not (sender + recipient).isascii())


def _path(address: str) -> bytes | None:
    if _ADDRESS.fullmatch(address) is None:
        return None
    try:
        path = address.encode()
    except UnicodeEncodeError:
        return None
    return path if len(path) <= PATH_OCTETS_MAX else None


def content_fault(content: bytes, line_octets_max: int) -> str | None:
    """What keeps content from arriving byte for byte; None when nothing does."""
    if not content.endswith(b"\r\n"):
        return "does not end in CRLF"
    within_lines = content.replace(b"\r\n", b"")
    if b"\n" in within_lines or b"\r" in within_lines:
        return "bare CR or LF"
    if has_longer_line(content, line_octets_max):
        return f"a line is longer than {line_octets_max} octets"
    return None


def has_longer_line(content: bytes, octets_max: int) -> bool:
    """Tell whether a line has more octets, its CRLF not counted; each line of `content` must end in CRLF."""
    start, end = 0, len(content)
    while start < end:
        start = content.rfind(b"\n", start, start + octets_max + 2) + 1
        if not start:
            return True
    return False


def misfit(mail: Mail, offered: Extensions) -> Outcome | None:
    """A refusal when this server cannot take the mail unchanged; None when it can."""
    if mail.needs_utf8 and not offered.utf8:
        return _refusal("mail", "needs SMTPUTF8, which the provider does not offer")
    if mail.needs_8bit and not offered.eight_bit:
        return _refusal("content", "needs 8BITMIME, which the provider does not offer")
    if offered.size_max is not None and len(mail.content) > offered.size_max:
        return _refusal("content", "larger than the SIZE the provider takes")
    return None


def mail_command(mail: Mail, offered: Extensions) -> bytes:
    """MAIL FROM with the parameters this mail needs and the server knows."""
    size = b" SIZE=%d" % len(mail.content) if offered.size else b""
    body = b" BODY=8BITMIME" if mail.needs_8bit else b""
    utf8 = b" SMTPUTF8" if mail.needs_utf8 else b""
    return b"MAIL FROM:<%b>%b%b%b\r\n" % (mail.mail_from, size, body, utf8)


def dot_stuffed(content: bytes) -> bytes:
    """Content with a dot before each line that opens with one (RFC 5321 4.5.2)."""
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    return b"." + stuffed if content.startswith(b".") else stuffed


def _refusal(what: str, why: str) -> Outcome:
    return Outcome(AttemptResult.REFUSED, f"{what}: {why}; nothing was sent")
