"""Keys outside the database: one per epoch, and the standing key; each a small file, wrapped by the root.

A database backup without these files opens nothing. When an epoch ends its file is overwritten and removed, and every
copy of a data key that was wrapped in that epoch, in whatever backup, is dead. Keep the folder on storage that takes no
snapshots; its only backup should follow the epochs.

    standing.key    wraps what lives as long as an account: index and suppression secrets, the log's signing key
    epoch-000007.key   wraps the key-encryption keys that accounts have in epoch 7
"""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.errors import KeyFileError
from vault.keys.blobs import BlobError, decrypt, encrypt, named, new_secret

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

STANDING = 0
_FILE = re.compile(r"epoch-(\d{6})\.key")


class Root(Protocol):
    """The root key, wherever it lives. It wraps 32-byte keys; `place` names what a key is for and is authenticated."""

    def wrap(self, key: bytes, place: bytes) -> bytes:
        """Return the wrapped key."""

    def unwrap(self, blob: bytes, place: bytes) -> bytes:
        """Return the key, or raise BlobError when it was wrapped by another root or for another place."""

    def describe(self) -> str:
        """Return what an operator may read about where the root lives."""


class WrappingKey:
    """The key of an epoch (`number` from 1) or the standing key (0), unwrapped."""

    __slots__ = ("_cipher", "number")

    def __init__(self, number: int, secret: bytes) -> None:
        self.number = number
        self._cipher = AESGCM(secret)

    def wrap(self, key: bytes, place: bytes) -> bytes:
        """Return the wrapped key."""
        return encrypt(self._cipher, self.number, key, place)

    def unwrap(self, blob: bytes, place: bytes) -> bytes:
        """Return the key, or raise BlobError."""
        return decrypt(self._cipher, blob, place)


class KeyFolder:
    """The folder of wrapped keys. Its calls reach the disk and the root: not for the hot path."""

    def __init__(self, folder: Path, root: Root) -> None:
        self._folder = folder
        self._root = root

    def epochs(self) -> list[int]:
        """Return the epochs whose keys exist, oldest first."""
        return sorted(int(found[1]) for path in self._folder.iterdir() if (found := _FILE.fullmatch(path.name)))

    def load(self, number: int) -> WrappingKey:
        """Return a key that exists.

        Raises:
            KeyFileError: there is no such file, or another root wrapped it.
        """
        path = self._path(number)
        try:
            return WrappingKey(number, self._root.unwrap(path.read_bytes(), _place(number)))
        except FileNotFoundError:
            raise KeyFileError(f"{path} does not exist: what it wrapped cannot be opened any more") from None
        except BlobError:
            raise KeyFileError(
                f"{path} does not open under this root key ({self._root.describe()}): it was wrapped by another one"
            ) from None

    def load_or_make(self, number: int) -> WrappingKey:
        """Return a key, made now when it does not exist; of several processes one makes it."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(number)
        if not path.exists():
            draft = path.with_suffix(f".{os.getpid()}")
            _write(draft, self._root.wrap(new_secret(), _place(number)))
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
            _sync(self._folder)
        return self.load(number)

    def destroy(self, number: int) -> None:
        """Overwrite and remove a key; once it is gone this does nothing."""
        path = self._path(number)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return
        with path.open("r+b") as file:
            file.write(os.urandom(size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink(missing_ok=True)
        _sync(self._folder)

    def describe_root(self) -> str:
        """Return where the root lives and which it is."""
        return self._root.describe()

    def rewrap(self) -> list[int]:
        """Wrap all keys anew by the present root, each file replaced whole; return their numbers."""
        if not self._folder.exists():
            return []
        numbers = [*([STANDING] if self._path(STANDING).exists() else []), *self.epochs()]
        for number in numbers:
            path, place = self._path(number), _place(number)
            try:
                secret = self._root.unwrap(path.read_bytes(), place)
            except BlobError:
                raise KeyFileError(f"{path} opens under neither {self._root.describe()}") from None
            draft = path.with_suffix(f".{os.getpid()}")
            _write(draft, self._root.wrap(secret, place))
            draft.replace(path)
        _sync(self._folder)
        log.warning("%d keys are wrapped anew, for the root %s", len(numbers), self._root.describe())
        return numbers

    def _path(self, number: int) -> Path:
        return self._folder / ("standing.key" if number == STANDING else f"epoch-{number:06d}.key")


def _place(number: int) -> bytes:
    return named("standing-key") if number == STANDING else named("epoch-key", str(number))


def _write(path: Path, blob: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
