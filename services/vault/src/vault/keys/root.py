"""The root key: wraps what belongs to an account, and nothing else.

It comes from a file here; a key management service takes its place by offering the same two methods.
"""

from __future__ import annotations

import base64
import binascii
import os
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.errors import KeyFileError
from vault.keys.blobs import KEY_BYTES, decrypt, encrypt

if TYPE_CHECKING:
    from pathlib import Path


class RootKey:
    """Wraps and unwraps 32-byte keys; each wrap names what the key is for."""

    __slots__ = ("_cipher", "_key_id")

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(secret)
        self._key_id = int.from_bytes(sha256(b"waystation/vault/root-key-id" + secret).digest()[:4], "big")

    @classmethod
    def from_file(cls, path: Path) -> RootKey:
        """Load 32 bytes in base64; raise KeyFileError saying what is wrong with the file."""
        try:
            secret = base64.b64decode(path.read_bytes().strip(), validate=True)
        except OSError as error:
            kind = type(error).__name__
            raise KeyFileError(f"{path} cannot be read ({kind}): VAULT_ROOT_KEY_FILE names it") from None
        except binascii.Error:
            raise KeyFileError(f"{path} is not base64: it must hold 32 random bytes in base64") from None
        if len(secret) != KEY_BYTES:
            raise KeyFileError(f"{path} holds {len(secret)} bytes: a root key has {KEY_BYTES}")
        return cls(secret)

    def wrap(self, key: bytes, place: bytes) -> bytes:
        """Return the wrapped key."""
        return encrypt(self._cipher, self._key_id, key, place)

    def unwrap(self, blob: bytes, place: bytes) -> bytes:
        """Return the key, or raise BlobError."""
        return decrypt(self._cipher, blob, place)


def new_secret() -> bytes:
    """Return 256 random bits."""
    return os.urandom(KEY_BYTES)
