"""An account's keys: key-encryption keys by epoch, and the key of its blind indexes."""

from __future__ import annotations

import hmac
import unicodedata
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from vault.keys.blobs import KEY_BYTES, decrypt, encrypt, named
from vault.keys.root import RootKey, new_secret
from vault.keys.subjects import SubjectKeys

if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST_EPOCH = 1
BLIND_INDEX_BYTES = 16
_ACCOUNT_KEY, _INDEX_SECRET = "account-key", "index-secret"
_DATA_KEY = named("data-key")
_HASH = SHA256()


class WrappedAccount(NamedTuple):
    """What the database holds of an account: (epoch, wrapped key) pairs and the wrapped index secret."""

    keys: Sequence[tuple[int, bytes]]
    index_secret: bytes


def new_account(root: RootKey, account_id: str) -> WrappedAccount:
    """Return fresh keys of an account, wrapped."""
    key = root.wrap(new_secret(), named(_ACCOUNT_KEY, account_id, str(FIRST_EPOCH)))
    return WrappedAccount([(FIRST_EPOCH, key)], root.wrap(new_secret(), named(_INDEX_SECRET, account_id)))


class AccountKeys:
    """Unwrapped keys of one account; they may stay in memory, a subject's data key never does."""

    __slots__ = ("_ciphers", "_index_key", "_place", "account_id", "epoch")

    def __init__(self, root: RootKey, account_id: str, wrapped: WrappedAccount) -> None:
        self.account_id = account_id
        self._place = named(account_id)
        self._ciphers = {
            epoch: AESGCM(root.unwrap(key, named(_ACCOUNT_KEY, account_id, str(epoch)))) for epoch, key in wrapped.keys
        }
        self.epoch = max(self._ciphers)
        secret = root.unwrap(wrapped.index_secret, named(_INDEX_SECRET, account_id))
        self._index_key = HKDFExpand(_HASH, KEY_BYTES, b"waystation/vault/blind-index/address").derive(secret)

    def has(self, epoch: int) -> bool:
        """Whether the key of an epoch is here."""
        return epoch in self._ciphers

    def address_index(self, address: str) -> bytes:
        """Return the 16-byte blind index under which an address is found again."""
        return hmac.digest(self._index_key, normal_address(address).encode(), "sha256")[:BLIND_INDEX_BYTES]

    def new_subject(self, token: str) -> tuple[SubjectKeys, bytes]:
        """Return the keys of a new subject, and its data key wrapped under the newest epoch."""
        data_key = new_secret()
        place = self._place + named(token)
        wrapped = encrypt(self._ciphers[self.epoch], self.epoch, data_key, _DATA_KEY + place)
        return SubjectKeys(place, data_key), wrapped

    def subject(self, token: str, epoch: int, wrapped: bytes) -> SubjectKeys:
        """Return the keys of a stored subject, or raise BlobError when the row is not this account's or subject's."""
        place = self._place + named(token)
        return SubjectKeys(place, decrypt(self._ciphers[epoch], wrapped, _DATA_KEY + place))


def normal_address(address: str) -> str:
    """Return the form under which addresses are compared: lower case as a whole, Unicode in NFC.

    RFC 5321 lets a host tell apart local parts by case; none that matters does, and one person must not become two.
    The address itself is stored as it was given.
    """
    return address.lower() if address.isascii() else unicodedata.normalize("NFC", address.lower())
