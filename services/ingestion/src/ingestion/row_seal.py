"""What a message's row has and no event tells, sealed for the door alone, so that a lost row can be put back.

Idempotency key, fingerprint and reference are the account's own. Each record on `intake.messages` carries them in a
header, under AES-SIV (RFC 5297) with a key that is derived from the door's identity (RFC 5869), bound to the message.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, NamedTuple, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.security.signing import load_private_key

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "door_row"
_DIGEST_BYTES = 32
_KEY_BYTES = 64


class OwnFields(NamedTuple):
    """What a message's row has and its signed instruction has not."""

    idempotency_key: bytes | None
    fingerprint: bytes
    reference: str | None


class RowSeal:
    """Seals and opens those fields; every copy of the door has the same key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESSIV(key)

    @classmethod
    def from_identity(cls, path: Path) -> Self:
        """Derive the key from the door's identity key (PKCS #8 PEM)."""
        derived = HKDF(SHA256(), _KEY_BYTES, None, b"waystation/ingestion/door_row/1")
        return cls(derived.derive(load_private_key(path).private_bytes_raw()))

    def seal(self, message_id: str, fields: OwnFields) -> bytes:
        """Return the header's value, base64."""
        reference = (fields.reference or "").encode()
        plain = (fields.idempotency_key or b"").ljust(_DIGEST_BYTES, b"\0") + fields.fingerprint + reference
        return base64.b64encode(self._cipher.encrypt(plain, [message_id.encode()]))

    def open(self, message_id: str, value: bytes) -> OwnFields | None:
        """Return the fields; None when the value was not sealed by the door for this message."""
        try:
            plain = self._cipher.decrypt(base64.b64decode(value, validate=True), [message_id.encode()])
        except (InvalidTag, ValueError):
            return None
        key, fingerprint, reference = plain[:_DIGEST_BYTES], plain[_DIGEST_BYTES : 2 * _DIGEST_BYTES], plain[64:]
        return OwnFields(key if any(key) else None, fingerprint, reference.decode() or None)
