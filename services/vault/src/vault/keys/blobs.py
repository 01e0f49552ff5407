"""The one form of ciphertext in the vault: AES-256-GCM, bound to its place.

Blob: version byte 1, 4-byte key id (big endian), 12-byte nonce, ciphertext, 16-byte tag. The associated data are the
version, the key id and the names of what is sealed (kind, account, subject, field), each with its length before it, so
that no two places share them (NIST SP 800-38D).
"""

from __future__ import annotations

import os
from hashlib import sha256
from struct import Struct
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_VERSION = b"\x01"
_HEADER_BYTES = 5
_header = Struct(">cI").pack
_NONCE_BYTES = 12
_NONCE_END = _HEADER_BYTES + _NONCE_BYTES
_NONCES_AT_ONCE = 256
_REST_OF_BLOCK = bytes(64 - KEY_BYTES)
_INNER, _OUTER = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))

Pads = tuple[bytes, bytes]


def _random_nonces() -> Iterator[bytes]:
    """Yield random 96-bit nonces, drawn 256 at a time: a system call each costs more than the cipher."""
    while True:
        drawn = os.urandom(_NONCE_BYTES * _NONCES_AT_ONCE)
        for start in range(0, len(drawn), _NONCE_BYTES):
            yield drawn[start : start + _NONCE_BYTES]


_next_nonce = _random_nonces().__next__


class BlobError(Exception):
    """The blob was not sealed under this key for this place."""


def encrypt(cipher: AESGCM, key_id: int, plaintext: bytes, place: bytes) -> bytes:
    """Seal a value for a place, as `named` gives it."""
    header = _header(_VERSION, key_id)
    nonce = _next_nonce()
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


def pads(secret: bytes) -> Pads:
    """Return a 32-byte key in the two forms in which HMAC hashes it (RFC 2104: K XOR ipad, K XOR opad)."""
    block = secret + _REST_OF_BLOCK
    return block.translate(_INNER), block.translate(_OUTER)


def mac(key: Pads, text: bytes) -> bytes:
    """Return HMAC-SHA-256 (RFC 2104).

    The libraries' one-shot calls look up the digest by its name each time, which costs twice the two hashes.
    """
    inner, outer = key
    return sha256(outer + sha256(inner + text).digest()).digest()


def expand(secret: bytes, info: bytes) -> bytes:
    """Return 32 bytes of HKDF-Expand with SHA-256 (RFC 5869 section 2.3, one block).

    The extract step is left out as section 3.3 allows: every secret here is uniformly random.
    """
    return mac(pads(secret), info + b"\x01")


def new_secret() -> bytes:
    """Return 256 random bits."""
    return os.urandom(KEY_BYTES)


def named(*names: str) -> bytes:
    """Return the names of a place, each with its length before it; joined places name a place again."""
    place = ""
    for name in names:
        place += f"{len(name)}:{name}|"
    return place.encode()
