"""A person's data key: two random keys in one wrapping, one for the keys of its messages, one for its fields.

The key of the fields belongs to one edition of them and is drawn anew whenever a field changes: an older value does not
open in the place where it once stood. Older data keys are 32 bytes that both keys are derived from (HKDF, RFC 5869), or
these with 16 bytes behind them that stand for the edition; they stay so until a field changes.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.domain import FIELD_BITS
from vault.keys.blobs import KEY_BYTES, BlobError, decrypt, encrypt, expand, named

GENERATION = 1
DATA_KEY_BYTES = 2 * KEY_BYTES
_CAPSULE = named("capsule")
_FIELD = {name: named("field", name) for name in FIELD_BITS}
_FIELDS, _CONTENT = b"waystation/vault/fields", b"waystation/vault/content"


class SubjectKeys:
    """Seals and opens for one person; lives for one item of one call."""

    __slots__ = ("_fields", "_fields_key", "_place", "content_key")

    def __init__(self, place: bytes, data_key: bytes) -> None:
        """Take a data key of 64 bytes, or an older one."""
        if len(data_key) != DATA_KEY_BYTES:
            data_key = _derived(data_key)
        self._place = place
        self.content_key = data_key[:KEY_BYTES]
        self._fields_key = data_key[KEY_BYTES:]
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
        return encrypt(AESGCM(self.content_key), GENERATION, key, self._place + _CAPSULE + named(message_id))

    def unwrap_message_key(self, message_id: str, capsule: bytes) -> bytes:
        """Return the message's key, or raise BlobError."""
        key = decrypt(AESGCM(self.content_key), capsule, self._place + _CAPSULE + named(message_id))
        if len(key) != KEY_BYTES:
            raise BlobError("the capsule holds no message key")
        return key

    def _for_fields(self) -> AESGCM:
        self._fields = AESGCM(self._fields_key)
        return self._fields


def _derived(older: bytes) -> bytes:
    """Return the data key that an older one stands for."""
    secret, edition = older[:KEY_BYTES], older[KEY_BYTES:]
    return expand(secret, _CONTENT) + expand(secret, _FIELDS + edition)
