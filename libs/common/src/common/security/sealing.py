"""Content sealed under a message key: AES-256-GCM, bound to its message and part.

Blob: version byte 1, 12-byte nonce, ciphertext, 16-byte tag. The associated data names message and part, so a blob
cannot be moved to another message or stand for another part (NIST SP 800-38D).
"""

from __future__ import annotations

import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_VERSION = b"\x01"
_NONCE_BYTES = 12


class SealError(Exception):
    """The blob was not sealed under this key for this message and part."""


def new_message_key() -> bytes:
    """Return a fresh 256-bit key for one message."""
    return os.urandom(KEY_BYTES)


def seal(key: bytes, message_id: str, part: str, plaintext: bytes) -> bytes:
    """Encrypt one part of a message."""
    nonce = os.urandom(_NONCE_BYTES)
    return _VERSION + nonce + AESGCM(key).encrypt(nonce, plaintext, _associated(message_id, part))


def unseal(key: bytes, message_id: str, part: str, blob: bytes) -> bytes:
    """Decrypt one part of a message, or raise SealError."""
    if blob[:1] != _VERSION:
        raise SealError("unknown format version of a sealed part")
    nonce, sealed = blob[1 : 1 + _NONCE_BYTES], blob[1 + _NONCE_BYTES :]
    try:
        return AESGCM(key).decrypt(nonce, sealed, _associated(message_id, part))
    except (InvalidTag, ValueError):
        raise SealError(f"the {part} does not open under the message key") from None


def keyed_digest(key: bytes, part: str, data: bytes) -> str:
    """Return an HMAC-SHA-256 of data under a message key, hexadecimal: comparable only by who may open the message."""
    return hmac.digest(key, part.encode() + b"\x00" + data, "sha256").hex()


def _associated(message_id: str, part: str) -> bytes:
    return f"waystation/1|{message_id}|{part}".encode()
