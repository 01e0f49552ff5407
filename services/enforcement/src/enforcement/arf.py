"""Feedback reports (ARF, RFC 5965): a complaint as mailbox providers send it, read without trusting a byte of it.

    multipart/report; report-type=feedback-report
    ├── for a person                                not read
    ├── message/feedback-report                     the fields of RFC 5965, section 3
    └── message/rfc822 or text/rfc822-headers       the mail complained about; of it only its header is read

What says who complains is read past: Original-Rcpt-To, the text for a person, the recipients and the content of the
mail. A report may be redacted (RFC 6590): identifiers that are missing or replaced make it unmatched, not malformed.
"""

from __future__ import annotations

import base64
import binascii
import quopri
import re
from dataclasses import dataclass
from datetime import UTC
from email.parser import HeaderParser
from email.utils import parsedate_to_datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from datetime import datetime
    from email.message import Message

REPORT_BYTES_MAX = 1024 * 1024
HEADER_BYTES_MAX = 64 * 1024
CONTENT_TYPE_CHARACTERS_MAX = 2_048
"""The standard library takes quadratic time to read the parameters of a Content-Type."""
FIELDS_MAX = 200
INCIDENTS_MAX = 1_000_000

FeedbackType = Literal["abuse", "fraud", "virus", "other"]
NO_COMPLAINTS = {"not-spam": "RFC 6430, 2", "auth-failure": "RFC 6591, 3"}
SENDER_ID = "waystation"

_REQUIRED = ("feedback-type", "user-agent", "version")
_ONCE = ("original-envelope-id", "original-mail-from", "arrival-date", "reporting-mta", "source-ip", "incidents")
_VERSIONS = ("1", "1.0", "0.1")
"""Version 1 is the standard's; the others are of drafts that are still sent."""
_FIELD = re.compile(r"([!-9;-~]+)[ \t]*:(.*)")
_MESSAGE_ID = re.compile(r"<([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12})@[^<>\s]+>", re.IGNORECASE)
_ACCOUNT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DOMAIN = re.compile(r"(?=.{1,253}$)([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]{0,62}")


class ArfError(ValueError):
    """A mail that is no feedback report; `field` and `clause` say where and by which rule."""

    def __init__(self, field: str, clause: str, reason: str) -> None:
        super().__init__(f"{field}: {reason} ({clause})")
        self.field = field
        self.clause = clause


class NotAComplaintError(ArfError):
    """A well-formed report that complains about nobody's message."""


@dataclass(frozen=True, slots=True)
class FeedbackReport:
    """What a report says about the mail; nothing about who complains.

    `message_id` and `account_id` are ours when the mail carries them; `original_digest` is the SHA-256 of its
    Message-ID as it stands, for comparing; `sender_domain` is that of the mail's author.
    """

    feedback_type: FeedbackType
    incidents: int
    arrived_at: datetime | None
    message_id: str | None
    account_id: str | None
    sender_domain: str | None
    original_digest: bytes | None


class _Part(NamedTuple):
    header: Message
    body: bytes

    @property
    def kind(self) -> str:
        return self.header.get_content_type()


def parse_report(raw: bytes) -> FeedbackReport:
    """Read a mail as a feedback report.

    Raises:
        ArfError: it is none; names the field and the clause of the RFC.
        NotAComplaintError: it reports something else than a complaint.
    """
    _, report, original = _parts(_part(raw))
    if report.kind != "message/feedback-report":
        raise ArfError("Content-Type", "RFC 5965, 2", "the second part is not message/feedback-report")
    fields = _fields(_decoded(report))
    feedback_type = _feedback_type(fields)
    mail = _original_header(original)
    return FeedbackReport(
        feedback_type=feedback_type,
        incidents=_incidents(fields),
        arrived_at=_arrived_at(fields),
        message_id=_our_message_id(mail),
        account_id=_our_account_id(mail),
        sender_domain=_sender_domain(fields, mail),
        original_digest=_digest_of_id(mail),
    )


def _part(raw: bytes) -> _Part:
    """Split a header from its body at the first empty line; read up to 64 KiB of header."""
    octets, _, body = raw.replace(b"\r\n", b"\n").partition(b"\n\n")
    if octets.startswith(b"\n"):
        octets, body = b"", raw
    header = _header(octets)
    if len(_first(header, "Content-Type")) > CONTENT_TYPE_CHARACTERS_MAX:
        raise ArfError("Content-Type", "RFC 2045, 5.1", f"is longer than {CONTENT_TYPE_CHARACTERS_MAX} characters")
    return _Part(header, body)


def _header(octets: bytes) -> Message:
    return HeaderParser().parsestr(octets[:HEADER_BYTES_MAX].decode("latin-1"))


def _parts(mail: _Part) -> tuple[_Part, _Part, _Part]:
    if mail.kind != "multipart/report":
        raise ArfError("Content-Type", "RFC 5965, 2", "the mail is not multipart/report")
    if _parameter(mail, "report-type").lower() != "feedback-report":
        raise ArfError("Content-Type", "RFC 5965, 2", "report-type is not feedback-report")
    boundary = _parameter(mail, "boundary").rstrip()
    if not 1 <= len(boundary) <= 70:
        raise ArfError("Content-Type", "RFC 2046, 5.1.1", "boundary is missing or longer than 70 characters")
    found = [_part(part) for part in _split(mail.body, boundary.encode("latin-1", "replace"))]
    if len(found) < 3:
        raise ArfError("body", "RFC 5965, 2", f"the report has {len(found)} parts, it needs three")
    return found[0], found[1], found[2]


def _parameter(part: _Part, name: str) -> str:
    try:
        value = part.header.get_param(name)
    except (ValueError, TypeError):  # of numbered pieces, one has no number or one of too many digits
        raise ArfError("Content-Type", "RFC 2231, 3", "has parameters that cannot be read") from None
    return value if isinstance(value, str) else ""


def _split(body: bytes, boundary: bytes) -> list[bytes]:
    """Return the parts between the delimiter lines of this boundary and of no other."""
    delimiter = re.compile(rb"(?:^|\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?=\n|$)")
    marks = list(delimiter.finditer(body))
    ends = [*(mark.start() for mark in marks[1:]), len(body)]
    parts = []
    for mark, end in zip(marks, ends, strict=False):
        if mark[1] is not None:
            break
        parts.append(body[mark.end() + 1 : end])
    return parts


def _decoded(part: _Part) -> bytes:
    encoding = str(part.header.get("Content-Transfer-Encoding", "7bit")).strip().lower()
    if encoding == "quoted-printable":
        return quopri.decodestring(part.body)
    if encoding == "base64":
        try:
            return base64.b64decode(part.body).replace(b"\r\n", b"\n")
        except (binascii.Error, ValueError):
            raise ArfError("Content-Transfer-Encoding", "RFC 2045, 6.8", "a part is not base64 as it says") from None
    return part.body


def _fields(octets: bytes) -> dict[str, list[str]]:
    """Return the values of each field by its name in lower case, continued lines joined."""
    fields: dict[str, list[str]] = {}
    lines = re.sub(r"\n[ \t]+", " ", octets[:HEADER_BYTES_MAX].decode("latin-1").replace("\r\n", "\n")).strip("\n")
    for number, line in enumerate(lines.split("\n"), 1):
        if not line.strip():
            continue
        match = _FIELD.fullmatch(line)
        if match is None or number > FIELDS_MAX:
            reason = f"more than {FIELDS_MAX} lines" if match else f"line {number} of the second part is no field"
            raise ArfError("body", "RFC 5965, 3.5", reason)
        fields.setdefault(match[1].lower(), []).append(match[2].strip())
    for name in _REQUIRED:
        if len(fields.get(name, ())) != 1 or not fields[name][0]:
            raise ArfError(name.title(), "RFC 5965, 3.1", "needs to be there exactly once, with a value")
    for name in _ONCE:
        if len(fields.get(name, ())) > 1:
            raise ArfError(_title(name), "RFC 5965, 3.2", "may be there once at most")
    return fields


def _title(name: str) -> str:
    return {"source-ip": "Source-IP", "reporting-mta": "Reporting-MTA"}.get(name, name.title())


def _feedback_type(fields: dict[str, list[str]]) -> FeedbackType:
    """Return the type; one that is not known is `other` (RFC 5965, 6)."""
    if fields["version"][0] not in _VERSIONS:
        raise ArfError("Version", "RFC 5965, 3.1", "is not 1")
    asked = fields["feedback-type"][0].lower()
    if asked in NO_COMPLAINTS:
        raise NotAComplaintError("Feedback-Type", NO_COMPLAINTS[asked], f"{asked} complains about nobody's message")
    return next((known for known in get_args(FeedbackType) if known == asked), "other")


def _incidents(fields: dict[str, list[str]]) -> int:
    text = fields.get("incidents", ["1"])[0]
    if not re.fullmatch(r"[0-9]{1,7}", text) or not 1 <= int(text) <= INCIDENTS_MAX:
        raise ArfError("Incidents", "RFC 5965, 3.2", f"is no number from 1 to {INCIDENTS_MAX}")
    return int(text)


def _arrived_at(fields: dict[str, list[str]]) -> datetime | None:
    """Return when the mail came in; Received-Date is the name that drafts had."""
    dates = fields.get("arrival-date") or fields.get("received-date")
    if not dates:
        return None
    try:
        moment = parsedate_to_datetime(dates[0])
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        raise ArfError("Arrival-Date", "RFC 5965, 3.2", "is no date of RFC 5322") from None


def _original_header(part: _Part) -> Message:
    if part.kind not in ("message/rfc822", "message/global", "text/rfc822-headers"):
        raise ArfError("Content-Type", "RFC 5965, 2", "the third part is not message/rfc822 or text/rfc822-headers")
    header, _, _ = _decoded(part).lstrip(b"\n").partition(b"\n\n")
    mail = _header(header)
    if not mail.keys():
        raise ArfError("body", "RFC 5965, 2", "the third part has no header field")
    return mail


def _our_message_id(mail: Message) -> str | None:
    match = _MESSAGE_ID.search(_first(mail, "Message-ID"))
    return None if match is None else match[1].lower()


def _our_account_id(mail: Message) -> str | None:
    """Return the second of the four parts of our Feedback-ID."""
    parts = _first(mail, "Feedback-ID").split(":")
    ours = len(parts) == 4 and parts[3].strip() == SENDER_ID and _ACCOUNT_ID.fullmatch(parts[1])
    return parts[1] if ours else None


def _sender_domain(fields: dict[str, list[str]], mail: Message) -> str | None:
    reported = next(iter(fields.get("reported-domain", ())), "")
    author = _first(mail, "From").rpartition("@")[2].strip(" >\t")
    domains = (text.lower() for text in (reported, author) if _DOMAIN.fullmatch(text))
    return next(domains, None)


def _digest_of_id(mail: Message) -> bytes | None:
    text = _first(mail, "Message-ID").strip()
    return sha256(text.encode()).digest() if text else None


def _first(mail: Message, name: str) -> str:
    return str(mail.get(name, ""))
