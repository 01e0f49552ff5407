"""E-mail content: composed once from an account's words, or taken as a person's own mail."""

from ingestion.mime.address import parse_address
from ingestion.mime.compose import compose
from ingestion.mime.content import Attachment, Composed, ContentError, Email, Mailbox, Original
from ingestion.mime.original import original

__all__ = [
    "Attachment",
    "Composed",
    "ContentError",
    "Email",
    "Mailbox",
    "Original",
    "compose",
    "original",
    "parse_address",
]
