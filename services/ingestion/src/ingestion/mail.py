"""One item's e-mail as final bytes, with the refusal of what cannot be carried."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, NoReturn

from common.http.problems import Problem
from ingestion.mime import Attachment, ContentError, Email, Mailbox, compose, original, parse_address

if TYPE_CHECKING:
    from datetime import datetime

    from ingestion.domain import Inbox
    from ingestion.submission import Content, Person


class Mail(NamedTuple):
    """Final bytes, and whether a relay must speak SMTPUTF8 (RFC 6531) for them."""

    content: bytes
    smtputf8: bool


def recipient_address(text: str) -> str:
    """Return the normal form of a recipient's address, or raise the Problem with it."""
    try:
        return parse_address(text, field="recipient.address")
    except ContentError as error:
        raise Problem(
            422, "invalid-address", f"{error.field} {error.reason}", field=error.field, limit=error.limit
        ) from None


def normal_address(text: str) -> str:
    """Return the normal form of what may be an address, or the text itself."""
    try:
        return parse_address(text, field="inbox")
    except ContentError:
        return text


def final_mail(
    content: Content,
    *,
    inbox: Inbox,
    recipient: Mailbox,
    message_id: str,
    date: datetime,
    content_bytes_max: int,
    feedback_id: str | None = None,
) -> Mail:
    """Return the final bytes of a mail; from here on nobody changes one.

    Raises:
        Problem: the content cannot be carried; `field` and `limit` say where and how much.
    """
    try:
        if content.eml is not None:
            mail = _own_mail(content, inbox, content_bytes_max)
        else:
            sender = Mailbox(inbox.address, inbox.display_name)
            composed = compose(
                _email(content),
                sender=sender,
                recipient=recipient,
                message_id=message_id,
                date=date,
                content_bytes_max=content_bytes_max,
                feedback_id=feedback_id,
            )
            mail = Mail(composed.content, composed.smtputf8)
    except ContentError as error:
        _refuse(error, content_bytes_max)
    ascii_envelope = recipient.address.isascii() and inbox.address.isascii()
    return mail if ascii_envelope else mail._replace(smtputf8=True)


def _own_mail(content: Content, inbox: Inbox, content_bytes_max: int) -> Mail:
    assert content.eml is not None
    if content.model_fields_set != {"eml"}:
        raise Problem(
            422, "invalid-content", "content.eml stands alone: leave the other fields out", field="content.eml"
        )
    mail = original(content.eml, content_bytes_max=content_bytes_max)
    if mail.sender.address != inbox.address:
        raise Problem(
            422,
            "sender-is-not-the-inbox",
            "From in content.eml is not the address of the inbox: name the inbox that the mail comes from",
            field="content.eml",
        )
    return Mail(mail.content, mail.smtputf8)


def _email(content: Content) -> Email:
    if content.subject is None:
        raise Problem(
            422,
            "invalid-field",
            "content.subject: Field required, unless the whole mail is in eml",
            field="content.subject",
        )
    return Email(
        subject=content.subject,
        text=content.text,
        html=content.html,
        reply_to=None if content.reply_to is None else _mailbox(content.reply_to),
        unsubscribe_url=content.unsubscribe_url,
        attachments=tuple(Attachment(each.filename, each.content_type, each.content) for each in content.attachments),
    )


def _mailbox(person: Person) -> Mailbox:
    return Mailbox(parse_address(person.address, field="content.reply_to.address"), person.name)


def _refuse(error: ContentError, content_bytes_max: int) -> NoReturn:
    too_large = error.limit == content_bytes_max
    status, kind = (413, "content-too-large") if too_large else (422, "invalid-content")
    detail = f"{error.field} {error.reason}"
    raise Problem(status, kind, detail, field=error.field, limit=error.limit) from None
