"""The one form of ciphertext in the vault: AES-256-GCM, bound to its place.

Blob: version byte 1, 4-byte key id (big endian), 12-byte nonce, ciphertext, 16-byte tag. The associated data are the
version, the key id and the names of what is sealed (kind, account, subject, field), each with its length before it, so
that no two places share them (NIST SP 800-38D).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_VERSION = b"\x01"
_HEADER_BYTES = 5
_NONCE_END = _HEADER_BYTES + 12


class BlobError(Exception):
    """The blob was not sealed under this key for this place."""


def encrypt(cipher: AESGCM, key_id: int, plaintext: bytes, place: bytes) -> bytes:
    """Seal a value for a place, as `named` gives it."""
    header = _VERSION + key_id.to_bytes(4, "big")
    nonce = os.urandom(12)
    return header + nonce + cipher.encrypt(nonce, plaintext, header + place)


def decrypt(cipher: AESGCM, blob: bytes, place: bytes) -> bytes:
    """Open a value sealed for the same place, or raise BlobError."""
    if blob[:1] != _VERSION:
        raise BlobError("unknown format version")
    try:
        return cipher.decrypt(blob[_HEADER_BYTES:_NONCE_END], blob[_NONCE_END:], blob[:_HEADER_BYTES] + place)
    except (InvalidTag, ValueError):
        raise BlobError("the blob does not open here") from None


def key_id_of(blob: bytes) -> int:
    """Return the id of the key a blob was sealed under."""
    return int.from_bytes(blob[1:_HEADER_BYTES], "big")


def named(*names: str) -> bytes:
    """Return the names of a place, each with its length before it; joined places name a place again."""
    return "".join([f"{len(name)}:{name}|" for name in names]).encode()
