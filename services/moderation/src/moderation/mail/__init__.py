"""A mail as screening reads it."""

from moderation.mail.parts import AttachmentPart, Correspondent, Degradation, Link, MailParts, TextPart
from moderation.mail.read import can_be_addresses, read_mail

__all__ = [
    "AttachmentPart",
    "Correspondent",
    "Degradation",
    "Link",
    "MailParts",
    "TextPart",
    "can_be_addresses",
    "read_mail",
]
