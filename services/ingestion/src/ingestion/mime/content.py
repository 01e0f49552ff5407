"""What an e-mail is made of, the limits it keeps, and the one error for content that cannot be carried.

| limit | constant | where |
|---|---|---|
| 998 characters | `SUBJECT_CHARACTERS_MAX` | `content.subject` |
| 200 characters | `NAME_CHARACTERS_MAX` | each display name |
| 254 octets, 64 before the at sign | `ADDRESS_OCTETS_MAX`, `LOCAL_PART_OCTETS_MAX` | each address (RFC 5321, 4.5.3.1) |
| 100 | `ATTACHMENTS_MAX` | `content.attachments` |
| 255 characters | `FILENAME_CHARACTERS_MAX` | `content.attachments[n].filename` |
| 200 characters | `CONTENT_TYPE_CHARACTERS_MAX` | `content.attachments[n].content_type` |
| 100 | `REFERENCES_MAX` | `content.references` |
| 500 characters | `MESSAGE_ID_CHARACTERS_MAX` | `content.references[n]`, `content.in_reply_to` |
| 900 characters | `URL_CHARACTERS_MAX` | `content.unsubscribe_url` |
| 998 octets | `LINE_OCTETS_MAX` | each line of a mail (RFC 5322, 2.1.1) |
| 256 KiB, 1,000 lines | `HEADER_BLOCK_BYTES_MAX`, `HEADER_LINES_MAX` | the header block of a person's own mail |
| 64 KiB | `PART_HEADER_BYTES_MAX` | the headers of one MIME part |
| 100 | `RECIPIENTS_MAX` | To and Cc of a person's own mail |
| 1,000 parts, 20 levels | `PARTS_MAX`, `NESTING_MAX` | the MIME structure of a person's own mail |
| the caller's | `content_bytes_max` | the whole mail, composed or original |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

SUBJECT_CHARACTERS_MAX = 998
NAME_CHARACTERS_MAX = 200
ADDRESS_OCTETS_MAX = 254
LOCAL_PART_OCTETS_MAX = 64
ATTACHMENTS_MAX = 100
FILENAME_CHARACTERS_MAX = 255
CONTENT_TYPE_CHARACTERS_MAX = 200
REFERENCES_MAX = 100
MESSAGE_ID_CHARACTERS_MAX = 500
URL_CHARACTERS_MAX = 900
LINE_OCTETS_MAX = 998
HEADER_BLOCK_BYTES_MAX = 256 * 1024
HEADER_LINES_MAX = 1_000
PART_HEADER_BYTES_MAX = 64 * 1024
RECIPIENTS_MAX = 100
PARTS_MAX = 1_000
NESTING_MAX = 20


class ContentError(Exception):
    """Content that cannot be carried; nothing of it is kept.

    Attributes:
        field: JSON path of the part at fault, such as `content.attachments[2].filename`.
        reason: what is wrong and what to write instead; never the value itself, which may be personal data.
        limit: the limit that was passed, in the unit that the reason names, or None.
    """

    def __init__(self, field: str, reason: str, limit: int | None = None) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason
        self.limit = limit


class Mailbox(NamedTuple):
    """An address, as `parse_address` returns it, and the display name beside it."""

    address: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that travels with a mail; the content type may carry parameters (`text/csv; charset=utf-8`)."""

    filename: str
    content_type: str
    content: bytes


class Email(NamedTuple):
    """What the account wants said: text, HTML or both, and what goes with it.

    `in_reply_to` and `references` are message ids in their angle brackets.
    """

    subject: str
    text: str | None = None
    html: str | None = None
    reply_to: Mailbox | None = None
    unsubscribe_url: str | None = None
    attachments: tuple[Attachment, ...] = ()
    in_reply_to: str | None = None
    references: tuple[str, ...] = ()


class Composed(NamedTuple):
    """Final bytes of a mail, and what a relay must offer to take them.

    `eight_bit`: some octet is above 127 (8BITMIME, RFC 6152).
    `smtputf8`: a header or an address holds UTF-8 (SMTPUTF8, RFC 6531).
    """

    content: bytes
    eight_bit: bool
    smtputf8: bool


@dataclass(frozen=True, slots=True)
class Original:
    """A person's own mail: its final bytes, and the facts that instructing it needs.

    `recipients` are those of To and Cc, in their order, each address once.
    `eight_bit` and `smtputf8` are as in `Composed`.
    """

    content: bytes
    sender: Mailbox
    recipients: tuple[Mailbox, ...]
    message_id: str | None
    subject_present: bool
    date_present: bool
    eight_bit: bool
    smtputf8: bool
