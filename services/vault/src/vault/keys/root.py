"""A root key from a file: 32 random bytes in base64, as they are (development) or sealed with a passphrase (age)."""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from typing import TYPE_CHECKING

import pyrage
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.errors import KeyFileError
from vault.keys.blobs import KEY_BYTES, decrypt, encrypt

if TYPE_CHECKING:
    from pathlib import Path

_AGE = b"age-encryption.org/"


class RootKey:
    """Wraps and unwraps 32-byte keys in this process; each wrap names what the key is for."""

    __slots__ = ("_cipher", "_key_id", "_told")

    def __init__(self, secret: bytes, told: str = "in memory") -> None:
        self._cipher = AESGCM(secret)
        self._key_id = int.from_bytes(sha256(b"waystation/vault/root-key-id" + secret).digest()[:4], "big")
        self._told = told

    @classmethod
    def from_file(cls, path: Path, passphrase: str | None = None) -> RootKey:
        """Load the file, unsealed with the passphrase where it is an age file; raise KeyFileError saying what is wrong.

        `age --passphrase` or `waystation vault new-root` makes such a file.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            kind = type(error).__name__
            raise KeyFileError(f"{path} cannot be read ({kind}): VAULT_ROOT_KEY_FILE names it") from None
        if content.startswith(_AGE):
            content = _unsealed(path, content, passphrase)
        try:
            secret = base64.b64decode(content.strip(), validate=True)
        except binascii.Error:
            raise KeyFileError(f"{path} is not base64: it must hold 32 random bytes in base64") from None
        if len(secret) != KEY_BYTES:
            raise KeyFileError(f"{path} holds {len(secret)} bytes: a root key has {KEY_BYTES}")
        return cls(secret, f"file {path.name}")

    def wrap(self, key: bytes, place: bytes) -> bytes:
        """Return the wrapped key."""
        return encrypt(self._cipher, self._key_id, key, place)

    def unwrap(self, blob: bytes, place: bytes) -> bytes:
        """Return the key, or raise BlobError."""
        return decrypt(self._cipher, blob, place)

    def describe(self) -> str:
        """Return where the key came from and its id."""
        return f"{self._told}, key id {self._key_id:08x}"


def _unsealed(path: Path, content: bytes, passphrase: str | None) -> bytes:
    if passphrase is None:
        raise KeyFileError(f"{path} is sealed: VAULT_ROOT_PASSPHRASE must hold its passphrase")
    try:
        return bytes(pyrage.passphrase.decrypt(content, passphrase))
    except pyrage.DecryptError:
        raise KeyFileError(f"{path} does not open with the passphrase in VAULT_ROOT_PASSPHRASE") from None
