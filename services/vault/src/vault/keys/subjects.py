"""A person's keys: one for its fields, one for the keys of its messages, both from its data key (HKDF, RFC 5869).

The key of the fields is also derived from their edition, 128 random bits that are wrapped with the data key and drawn
anew whenever a field changes: an older value does not open in the place where it once stood.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.domain import FIELD_BITS
from vault.keys.blobs import KEY_BYTES, BlobError, decrypt, encrypt, expand, named

GENERATION = 1
_CAPSULE = named("capsule")
_FIELD = {name: named("field", name) for name in FIELD_BITS}
_FIELDS, _CONTENT = b"waystation/vault/fields", b"waystation/vault/content"


class SubjectKeys:
    """Seals and opens for one person; lives for one item of one call."""

    __slots__ = ("_edition", "_fields", "_place", "data_key")

    def __init__(self, place: bytes, secret: bytes) -> None:
        """Take a data key with the edition of the fields behind it; one of before there were editions has none."""
        self._place = place
        self.data_key = secret[:KEY_BYTES]
        self._edition = secret[KEY_BYTES:]
        self._fields: AESGCM | None = None

    def seal_field(self, field: str, value: str) -> bytes:
        """Encrypt a field of the person."""
        cipher = self._fields or self._for_fields()
        return encrypt(cipher, GENERATION, value.encode(), self._place + _FIELD[field])

    def open_field(self, field: str, blob: bytes) -> str:
        """Decrypt a field, or raise BlobError."""
        return decrypt(self._fields or self._for_fields(), blob, self._place + _FIELD[field]).decode()

    def wrap_message_key(self, message_id: str, key: bytes) -> bytes:
        """Return the capsule: a message's key that only this person's key opens."""
        cipher = AESGCM(expand(self.data_key, _CONTENT))
        return encrypt(cipher, GENERATION, key, self._place + _CAPSULE + named(message_id))

    def unwrap_message_key(self, message_id: str, capsule: bytes) -> bytes:
        """Return the message's key, or raise BlobError."""
        cipher = AESGCM(expand(self.data_key, _CONTENT))
        key = decrypt(cipher, capsule, self._place + _CAPSULE + named(message_id))
        if len(key) != KEY_BYTES:
            raise BlobError("the capsule holds no message key")
        return key

    def _for_fields(self) -> AESGCM:
        self._fields = AESGCM(expand(self.data_key, _FIELDS + self._edition))
        return self._fields
