"""An e-mail becomes its final MIME bytes, exactly once; from here on nobody touches a byte.

Composing is where the account's text gets its line ends: CR LF, LF and a lone CR each become CR LF, and the last line
gets one too. Nothing else of the text changes. Subjects, names and file names keep every character.
"""

from __future__ import annotations

import binascii
import re
from email.utils import format_datetime
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING

from ingestion.mime.content import (
    ATTACHMENTS_MAX,
    CONTENT_TYPE_CHARACTERS_MAX,
    FILENAME_CHARACTERS_MAX,
    MESSAGE_ID_CHARACTERS_MAX,
    REFERENCES_MAX,
    SUBJECT_CHARACTERS_MAX,
    URL_CHARACTERS_MAX,
    Composed,
    ContentError,
)
from ingestion.mime.headers import checked, filename_parameter, mailbox_line, unstructured_line
from ingestion.mime.lines import overlong_line_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from ingestion.mime.content import Attachment, Email, Mailbox

_UNIQUE_ID = re.compile(r"[A-Za-z0-9._-]{1,60}")
_FEEDBACK_ID = re.compile(r"[A-Za-z0-9_./#-]{1,100}(:[A-Za-z0-9_./#-]{1,100}){3}")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]+>")
_HTTPS_URL = re.compile(r"https://[A-Za-z0-9\[][!-;=?-~]*")
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+"  # noqa: S105 - the token of RFC 2045
_CONTENT_TYPE = re.compile(rf'{_TOKEN}/{_TOKEN}(?:; ?{_TOKEN}=(?:{_TOKEN}|"[ !#-\[\]-~]*"))*')
_PLAIN_OCTETS = bytes([0x09, 0x0A, 0x0D, *range(0x20, 0x7F)])
_BASE64_LINE_CHARACTERS = 76
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def compose(
    email: Email,
    *,
    sender: Mailbox,
    recipient: Mailbox,
    message_id: str,
    date: datetime,
    content_bytes_max: int,
    feedback_id: str | None = None,
) -> Composed:
    """The final bytes of an e-mail to one recipient: the same arguments always give the same bytes.

    Bodies are 7-bit, quoted-printable or base64, so only an address with a local part beyond ASCII makes the
    mail 8-bit (and `smtputf8`). Domains become A-labels.

    Args:
        email: what is said.
        sender: the From mailbox; its domain ends the Message-ID.
        recipient: the To mailbox.
        message_id: the left side of the Message-ID: 1 to 60 letters, digits, dots, hyphens or underscores.
        date: the Date header; must know its time zone.
        content_bytes_max: limit of the whole mail.
        feedback_id: what a feedback report about the mail is matched by; four codes with colons between them.

    Raises:
        ContentError: naming the field (`content.*`, `sender.*`, `recipient.*`) and the reason.
        ValueError: `message_id`, `date` or `feedback_id` is not of the form above, a bug of the caller.
    """
    if feedback_id is not None and not _FEEDBACK_ID.fullmatch(feedback_id):
        raise ValueError("feedback_id needs four codes of letters, digits or -_./# with colons between them")
    if not _UNIQUE_ID.fullmatch(message_id) or date.tzinfo is None:
        raise ValueError("message_id needs 1 to 60 letters, digits, dots, hyphens or underscores; date a time zone")
    _check_size(email, content_bytes_max)
    head = _head(email, sender, recipient, message_id, date, feedback_id=feedback_id)
    content = head.encode() + _entity(email, message_id)
    if len(content) > content_bytes_max:
        raise _too_large(content_bytes_max)
    beyond_ascii = not head.isascii()
    return Composed(content, eight_bit=beyond_ascii, smtputf8=beyond_ascii)


def _too_large(content_bytes_max: int) -> ContentError:
    return ContentError("content", f"is larger than {content_bytes_max} bytes as a mail", content_bytes_max)


def _check_size(email: Email, content_bytes_max: int) -> None:
    """Before any work: what is too large as it came is too large composed."""
    if len(email.attachments) > ATTACHMENTS_MAX:
        raise ContentError("content.attachments", f"are more than {ATTACHMENTS_MAX}", ATTACHMENTS_MAX)
    size = len(email.text or "") + len(email.html or "")
    size += sum(len(attachment.content) for attachment in email.attachments) * 4 // 3
    if size > content_bytes_max:
        raise _too_large(content_bytes_max)


def _head(
    email: Email, sender: Mailbox, recipient: Mailbox, message_id: str, date: datetime, *, feedback_id: str | None
) -> str:
    from_line = _from_line(sender)
    domain = from_line[from_line.rindex("@") + 1 :].rstrip(">\r\n")
    lines = [
        from_line,
        mailbox_line("To", recipient, "recipient"),
        unstructured_line("Subject", checked(email.subject, "content.subject", SUBJECT_CHARACTERS_MAX)),
        f"Date: {_date(date)}\r\nMessage-ID: <{message_id}@{domain}>\r\n",
    ]
    if feedback_id is not None:
        lines.append(f"Feedback-ID: {feedback_id}\r\n")
    if email.reply_to is not None:
        lines.append(mailbox_line("Reply-To", email.reply_to, "content.reply_to"))
    if email.in_reply_to is not None:
        lines.append(f"In-Reply-To: {_message_id(email.in_reply_to, 'content.in_reply_to')}\r\n")
    if email.references:
        lines.append(f"References: {_references(email.references)}\r\n")
    if email.unsubscribe_url is not None:
        lines.append(_unsubscribe_lines(email.unsubscribe_url))
    lines.append("MIME-Version: 1.0\r\n")
    return "".join(lines)


@lru_cache(maxsize=64)
def _from_line(sender: Mailbox) -> str:
    """Mails of one inbox share their sender."""
    return mailbox_line("From", sender, "sender")


@lru_cache(maxsize=64)
def _date(date: datetime) -> str:
    """Composed mails of one batch share their date."""
    return format_datetime(date)


def _message_id(value: str, field: str) -> str:
    checked(value, field, MESSAGE_ID_CHARACTERS_MAX)
    if not _MESSAGE_ID.fullmatch(value):
        raise ContentError(field, "is no message id: write it as <id@domain>, in ASCII and without spaces")
    return value


def _references(references: tuple[str, ...]) -> str:
    if len(references) > REFERENCES_MAX:
        raise ContentError("content.references", f"are more than {REFERENCES_MAX}", REFERENCES_MAX)
    return "\r\n ".join(_message_id(value, f"content.references[{at}]") for at, value in enumerate(references))


def _unsubscribe_lines(url: str) -> str:
    """RFC 2369 and RFC 8058: both inside the content, so that the sender's DKIM signature can cover them."""
    checked(url, "content.unsubscribe_url", URL_CHARACTERS_MAX)
    if not _HTTPS_URL.fullmatch(url):
        raise ContentError(
            "content.unsubscribe_url", "needs to be an https:// address in ASCII, percent-encoded where needed"
        )
    return f"List-Unsubscribe: <{url}>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"


def _entity(email: Email, message_id: str) -> bytes:
    """Content headers, a blank line and the body (RFC 2045, section 2.4)."""
    bodies = []
    if email.text is not None:
        bodies.append(_text_entity("plain", email.text, "content.text"))
    if email.html is not None:
        bodies.append(_text_entity("html", email.html, "content.html"))
    if not bodies:
        raise ContentError("content", "is empty: write text, html or both")
    body = bodies[0] if len(bodies) == 1 else _multipart("alternative", bodies, message_id)
    if not email.attachments:
        return body
    attachments = (
        _attachment_entity(attachment, f"content.attachments[{at}]") for at, attachment in enumerate(email.attachments)
    )
    return _multipart("mixed", [body, *attachments], message_id)


def _multipart(subtype: str, entities: list[bytes], message_id: str) -> bytes:
    boundary = next(each for each in _boundaries(subtype, message_id) if not any(each in entity for entity in entities))
    delimiter = b"\r\n--" + boundary
    pieces = [f'Content-Type: multipart/{subtype};\r\n boundary="{boundary.decode()}"\r\n'.encode()]
    for entity in entities:
        pieces += (delimiter, b"\r\n", entity)
    return b"".join([*pieces, delimiter, b"--\r\n"])


def _boundaries(subtype: str, message_id: str) -> Iterator[bytes]:
    """Candidates from the message id alone; `=_` occurs in neither base64 nor quoted-printable."""
    for attempt in count():
        yield f"=_{subtype[:3]}{attempt}_{message_id}".encode()


def _text_entity(subtype: str, text: str, field: str) -> bytes:
    if not text or text.isspace():
        raise ContentError(field, "is blank: leave it out or write something")
    if "\0" in text or (not text.isascii() and _HALF_CHARACTER.search(text)):
        raise ContentError(field, "holds a NUL or half a surrogate pair: take it out")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    octets = (text if text[-1] == "\n" else text + "\n").replace("\n", "\r\n").encode()
    encoding, body = _transfer_encoded(octets)
    headers = f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    return headers.encode() + body


def _transfer_encoded(octets: bytes) -> tuple[str, bytes]:
    """As it is when plain; else quoted-printable, or base64 where that is clearly smaller."""
    special = len(octets.translate(None, _PLAIN_OCTETS))
    if not special and overlong_line_at(octets) is None:
        return "7bit", octets
    if (special + octets.count(b"=")) * 6 <= len(octets):  # 3 octets for each of these; base64 takes 1.37 for all
        return "quoted-printable", binascii.b2a_qp(octets, istext=True)
    return "base64", _base64_lines(octets)


def _base64_lines(octets: bytes) -> bytes:
    encoded = binascii.b2a_base64(octets, newline=False)
    width = _BASE64_LINE_CHARACTERS
    return b"\r\n".join([encoded[at : at + width] for at in range(0, len(encoded), width)]) + b"\r\n"


def _attachment_entity(attachment: Attachment, field: str) -> bytes:
    filename = checked(attachment.filename, f"{field}.filename", FILENAME_CHARACTERS_MAX)
    if not filename or filename.isspace():
        raise ContentError(f"{field}.filename", "is blank: write the name of the file")
    headers = (
        f"Content-Type: {_content_type(attachment.content_type, f'{field}.content_type')}\r\n"
        f"Content-Disposition: attachment{filename_parameter(filename)}\r\n"
        "Content-Transfer-Encoding: base64\r\n\r\n"
    )
    return headers.encode() + _base64_lines(attachment.content)


def _content_type(value: str, field: str) -> str:
    checked(value, field, CONTENT_TYPE_CHARACTERS_MAX)
    if not _CONTENT_TYPE.fullmatch(value):
        raise ContentError(field, "is no media type: write it as type/subtype, such as application/pdf")
    if value.lower().startswith(("multipart/", "message/")):  # neither may be base64 (RFC 2046, 5.1 and 5.2)
        raise ContentError(field, "cannot be multipart or message: attach it as application/octet-stream")
    return value
