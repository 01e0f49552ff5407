"""An account's keys: key-encryption keys by epoch, and the secrets behind its blind indexes and suppression list."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vault.keys.blobs import BlobError, decrypt, encrypt, expand, mac, named, new_secret, pads
from vault.keys.subjects import DATA_KEY_BYTES, SubjectKeys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vault.keys.epochs import WrappingKey

BLIND_INDEX_BYTES = 16
_ACCOUNT_KEY, _INDEX_SECRET, _SUPPRESSION_SECRET = "account-key", "index-secret", "suppression-secret"
_DATA_KEY = named("data-key")


class AccountSecrets(NamedTuple):
    """What does not change with the epochs, wrapped by the standing key."""

    index_secret: bytes
    suppression_secret: bytes


def new_account_secrets(standing: WrappingKey, account_id: str) -> AccountSecrets:
    """Return fresh secrets of an account, wrapped."""
    return AccountSecrets(
        standing.wrap(new_secret(), named(_INDEX_SECRET, account_id)),
        standing.wrap(new_secret(), named(_SUPPRESSION_SECRET, account_id)),
    )


def new_account_key(epoch: WrappingKey, account_id: str) -> bytes:
    """Return a fresh key-encryption key of an account, wrapped by the key of its epoch."""
    return epoch.wrap(new_secret(), named(_ACCOUNT_KEY, account_id, str(epoch.number)))


class AccountKeys:
    """Unwrapped keys of one account; they may stay in memory, a person's data key never does."""

    __slots__ = ("_ciphers", "_index_keys", "_place", "_suppression_key", "account_id", "epoch")

    def __init__(self, account_id: str, standing: WrappingKey, secrets: AccountSecrets) -> None:
        self.account_id = account_id
        self.epoch = 0
        self._place = named(account_id)
        self._ciphers: dict[int, AESGCM] = {}
        index = standing.unwrap(secrets.index_secret, named(_INDEX_SECRET, account_id))
        self._index_keys = {
            field: pads(expand(index, b"waystation/vault/blind-index/" + field.encode()))
            for field in ("address", "phone")
        }
        suppression = standing.unwrap(secrets.suppression_secret, named(_SUPPRESSION_SECRET, account_id))
        self._suppression_key = pads(expand(suppression, b"waystation/vault/suppression"))

    def add(self, epoch: WrappingKey, wrapped: bytes) -> None:
        """Take the account's key of an epoch, or raise BlobError."""
        key = epoch.unwrap(wrapped, named(_ACCOUNT_KEY, self.account_id, str(epoch.number)))
        self._ciphers[epoch.number] = AESGCM(key)
        self.epoch = max(self._ciphers)

    def has(self, epoch: int) -> bool:
        """Whether the key of an epoch is here."""
        return epoch in self._ciphers

    def forget_all_but(self, epochs: Mapping[int, object]) -> None:
        """Drop the keys of epochs that have ended."""
        for epoch in self._ciphers.keys() - epochs.keys():
            del self._ciphers[epoch]
        self.epoch = max(self._ciphers, default=0)

    def index_of(self, kind: str, field: str, normal: str) -> bytes:
        """Return the 16-byte blind index under which a person of a kind is found again by an address or phone."""
        text = f"{kind}|{normal}".encode()
        return mac(self._index_keys[field], text)[:BLIND_INDEX_BYTES]

    def suppression_of(self, tool: str, normal: str) -> bytes:
        """Return the keyed hash under which an opt-out stands, which tells nothing of the blind index."""
        return mac(self._suppression_key, f"{tool}|{normal}".encode())

    def new_subject(self, token: str) -> tuple[SubjectKeys, bytes]:
        """Return the keys of a new person, and its data key wrapped under the newest epoch."""
        return self._wrapped(token, self.epoch, os.urandom(DATA_KEY_BYTES))

    def new_edition(self, token: str, epoch: int, wrapped: bytes) -> tuple[SubjectKeys, bytes]:
        """Return a stored person's keys, the fields' one drawn anew, since all are sealed again; and them wrapped."""
        return self._wrapped(token, epoch, self.subject(token, epoch, wrapped).content_key + new_secret())

    def subject(self, token: str, epoch: int, wrapped: bytes) -> SubjectKeys:
        """Return the keys of a stored person, or raise BlobError when the row is not this account's or person's."""
        place = self._place + named(token)
        cipher = self._ciphers.get(epoch)
        if cipher is None:
            raise BlobError("the key of its epoch is gone")
        return SubjectKeys(place, decrypt(cipher, wrapped, _DATA_KEY + place))

    def rewrap(self, token: str, epoch: int, wrapped: bytes) -> bytes:
        """Return a data key of an older epoch wrapped under the newest one, or raise BlobError."""
        place = _DATA_KEY + self._place + named(token)
        cipher = self._ciphers.get(epoch)
        if cipher is None:
            raise BlobError("the key of its epoch is gone")
        return encrypt(self._ciphers[self.epoch], self.epoch, decrypt(cipher, wrapped, place), place)

    def _wrapped(self, token: str, epoch: int, data_key: bytes) -> tuple[SubjectKeys, bytes]:
        place = self._place + named(token)
        return SubjectKeys(place, data_key), encrypt(self._ciphers[epoch], epoch, data_key, _DATA_KEY + place)
