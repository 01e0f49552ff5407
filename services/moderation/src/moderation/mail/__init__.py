"""A mail as screening reads it."""

from moderation.mail.parts import AttachmentPart, Correspondent, Degradation, Link, MailParts, TextPart
from moderation.mail.read import read_mail

__all__ = [
    "AttachmentPart",
    "Correspondent",
    "Degradation",
    "Link",
    "MailParts",
    "TextPart",
    "read_mail",
]
