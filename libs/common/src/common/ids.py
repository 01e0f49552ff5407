"""Identifiers: UUID version 7 (RFC 9562) for what has an order in time, random 128 bit for what must tell nothing."""

from __future__ import annotations

import base64
import os

import uuid_utils

CLAIMED_CHARACTERS_MAX = 100
RECIPIENT_TOKEN_PREFIX = "rt_"  # noqa: S105  a prefix that readers of logs and topics recognise, no secret


def new_id() -> str:
    """Return a new UUIDv7, text form."""
    return str(uuid_utils.uuid7())


def new_recipient_token() -> str:
    """Return a random 128-bit token for a data subject; nothing can be derived from it."""
    return RECIPIENT_TOKEN_PREFIX + base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode()


def claimed_id(claimed: object) -> str:
    """Return what an unproven record says its id is, as a database and a log can take it: ASCII, "?" for all else.

    At most 100 characters; bytes are read as UTF-8, None gives an empty text.
    """
    text = claimed.decode("utf-8", "replace") if isinstance(claimed, bytes) else str(claimed or "")
    return "".join(one if one.isascii() and one.isprintable() else "?" for one in text[:CLAIMED_CHARACTERS_MAX])
