"""A subject's keys: one for its fields, one for the keys of its messages, both from its data key (HKDF, RFC 5869)."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from vault.domain import FIELD_BITS
from vault.keys.blobs import KEY_BYTES, BlobError, decrypt, encrypt, named

GENERATION = 1
_HASH = SHA256()
_CAPSULE = named("capsule")
_FIELD = {name: named("field", name) for name in FIELD_BITS}
_FIELDS, _CONTENT = b"waystation/vault/fields", b"waystation/vault/content"


class SubjectKeys:
    """Seals and opens for one subject; lives for one item of one call."""

    __slots__ = ("_content", "_data_key", "_fields", "_place")

    def __init__(self, place: bytes, data_key: bytes) -> None:
        self._place = place
        self._data_key = data_key
        self._fields: AESGCM | None = None
        self._content: AESGCM | None = None

    def seal_field(self, field: str, value: str) -> bytes:
        """Encrypt a field of the subject."""
        return encrypt(self._for_fields(), GENERATION, value.encode(), self._place + _FIELD[field])

    def open_field(self, field: str, blob: bytes) -> str:
        """Decrypt a field, or raise BlobError."""
        return decrypt(self._for_fields(), blob, self._place + _FIELD[field]).decode()

    def wrap_message_key(self, message_id: str, key: bytes) -> bytes:
        """Return the capsule: a message's key that only this subject's key opens."""
        return encrypt(self._for_content(), GENERATION, key, self._place + _CAPSULE + named(message_id))

    def unwrap_message_key(self, message_id: str, capsule: bytes) -> bytes:
        """Return the message's key, or raise BlobError."""
        key = decrypt(self._for_content(), capsule, self._place + _CAPSULE + named(message_id))
        if len(key) != KEY_BYTES:
            raise BlobError("the capsule holds no message key")
        return key

    # HKDF's extract step is left out as RFC 5869 section 3.3 allows: a data key is uniformly random.
    def _for_fields(self) -> AESGCM:
        if self._fields is None:
            self._fields = AESGCM(HKDFExpand(_HASH, KEY_BYTES, _FIELDS).derive(self._data_key))
        return self._fields

    def _for_content(self) -> AESGCM:
        if self._content is None:
            self._content = AESGCM(HKDFExpand(_HASH, KEY_BYTES, _CONTENT).derive(self._data_key))
        return self._content
