"""What screening reads of a composed mail is what the account wrote: the two sides share no code."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.mime import Attachment, Email, Mailbox, compose
from moderation.mail import AttachmentPart, Correspondent, TextPart, read_mail

printable = st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\u2028\u2029")
values = st.text(printable, min_size=1, max_size=120).filter(lambda value: not value.isspace())
bodies = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), min_size=1, max_size=300).filter(
    lambda text: not text.isspace()
)


@given(
    subject=values, name=values, text=bodies, html=st.none() | bodies, filename=values, octets=st.binary(max_size=99)
)
@settings(max_examples=100)
def test_screening_reads_what_was_composed(*, subject, name, text, html, filename, octets):
    attachments = (Attachment(filename, "Application/PDF", octets),)
    composed = compose(
        Email(subject, text=text, html=html, reply_to=Mailbox("r@b.example", name), attachments=attachments),
        sender=Mailbox("a@b.example", name),
        recipient=Mailbox("c@d.example"),
        message_id="0197a2b4",
        date=datetime(2026, 11, 22, tzinfo=UTC),
        content_bytes_max=100_000,
    )
    parts = read_mail(composed.content)
    assert parts.subject == subject
    assert parts.texts[0] == TextPart("text", text if text.endswith("\n") else text + "\n")
    assert len(parts.texts) == (1 if html is None else 2)
    assert parts.senders == (Correspondent("a@b.example", name.strip()),)
    assert parts.reply_to == (Correspondent("r@b.example", name.strip()),)
    assert parts.attachments == (AttachmentPart(filename, "application/pdf", octets),)
    assert parts.degraded == (("unread-part",) if octets.strip() else ())
