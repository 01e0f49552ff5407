"""Persons, their fields and data keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vault.store.columns import SQL, Blobs, columns_of, field_columns, joined, sparse
from vault.store.epochs import WrappedKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from common.postgres.pool import Connection


class IdentityKey(NamedTuple):
    """How a person is found: account and blind index of the address or phone."""

    account_id: str
    identity_index: bytes


class StoredSubject(NamedTuple):
    """A person as stored: wrapped data key and sealed fields; stale when it was not used today."""

    token: str
    epoch: int
    wrapped: bytes
    is_stale: bool
    fields: Blobs


class NewSubject(NamedTuple):
    """A person to create."""

    token: str
    account_id: str
    kind: str
    identity_index: bytes
    phone_index: bytes | None
    epoch: int
    wrapped: bytes
    fields: Blobs
    email_hash: bytes | None
    telephony_hash: bytes | None


class ChangedFields(NamedTuple):
    """A person that was used; all its fields sealed anew with the wrapped data key that opens them, or none.

    `phone_hash` is that of a phone that is new, as an opt-out of it would stand.
    """

    token: str
    phone_index: bytes | None
    fields: Blobs
    epoch: int
    wrapped: bytes | None
    phone_hash: bytes | None = None


class PersonState(NamedTuple):
    """What stands against a disclosure, as a bit set."""

    account_id: str
    flags: int


async def find_subjects(
    connection: Connection, identities: Sequence[IdentityKey]
) -> Mapping[IdentityKey, StoredSubject]:
    """Return the persons that exist, by account and blind index."""
    accounts, indexes = joined([one.account_id for one in identities]), [one.identity_index for one in identities]
    rows = await connection.fetch(SQL["find_subjects"], accounts, indexes)
    return {IdentityKey(row[0], row[1]): StoredSubject(row[2], row[3], row[4], row[5], row[6:]) for row in rows}


async def create_subjects(connection: Connection, subjects: Sequence[NewSubject]) -> set[str]:
    """Create persons; return the tokens of those that did not exist."""
    columns = (
        joined([one.token for one in subjects]),
        joined([one.account_id for one in subjects]),
        joined([one.kind for one in subjects]),
        [one.identity_index for one in subjects],
        sparse([one.phone_index for one in subjects]),
        *field_columns([one.fields for one in subjects]),
        joined([str(one.epoch) for one in subjects]),
        [one.wrapped for one in subjects],
        sparse([one.email_hash for one in subjects]),
        sparse([one.telephony_hash for one in subjects]),
    )
    return {row[0] for row in await connection.fetch(SQL["create_subjects"], *columns)}


async def update_fields(connection: Connection, changes: Sequence[ChangedFields]) -> None:
    """Replace stored fields and data keys."""
    columns = (
        joined([one.token for one in changes]),
        sparse([one.phone_index for one in changes]),
        *field_columns([one.fields for one in changes]),
        joined([str(one.epoch) for one in changes]),
        sparse([one.wrapped for one in changes]),
        sparse([one.phone_hash for one in changes]),
    )
    await connection.execute(SQL["update_fields"], *columns)


async def wrapped_keys(connection: Connection, tokens: Iterable[str]) -> Mapping[str, WrappedKey]:
    """Return wrapped data keys by token."""
    return {row[0]: WrappedKey(*row) for row in await connection.fetch(SQL["wrapped_keys"], joined(list(tokens)))}


async def flag_persons(connection: Connection, bits: Sequence[tuple[str, int, int]]) -> None:
    """Set and clear bits of what stands against disclosures: (token, set, clear)."""
    if bits:
        await connection.execute(SQL["flag_persons"], *columns_of(bits, 3))


async def person_states(connection: Connection, tokens: Iterable[str]) -> Mapping[str, PersonState]:
    """Return what stands against disclosures to persons, by token."""
    return {row[0]: PersonState(row[1], row[2]) for row in await connection.fetch(SQL["person_states"], list(tokens))}


async def find_tokens(
    connection: Connection, wanted: Sequence[tuple[str, bytes, bytes | None]]
) -> Sequence[tuple[int, str]]:
    """Return (place in the list from 0, token) of persons by account, identity index and phone index."""
    accounts, identities, phones = zip(*wanted, strict=True)
    rows = await connection.fetch(SQL["find_tokens"], joined(accounts), list(identities), sparse(list(phones)))
    return [(row[0] - 1, row[1]) for row in rows]
