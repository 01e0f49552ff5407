"""Seal: find or create persons by address, store their fields, and wrap the keys of their messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from common.contracts.vault import SealAnswer, SealCall, SealItem
from common.ids import new_recipient_token
from common.kafka.consumer import RetryableError
from vault import store
from vault.domain import (
    ACCOUNT_ENDED,
    FIELD_PLACES,
    FIELDS,
    INTEGRITY_FAILED,
    KIND_OF_ANOTHER_PURPOSE,
    KINDS_OF_PURPOSE,
    Refusal,
)
from vault.errors import item_problem
from vault.formats import Given, normal_address, read_person
from vault.keys.blobs import BlobError
from vault.opening import report_broken
from vault.scope import scoped
from vault.store import ChangedFields, IdentityKey, NewSubject, StoredSubject

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from common.postgres.pool import Connection, Pool
    from vault.domain import Access
    from vault.keyring import Keyring
    from vault.keys.accounts import AccountKeys
    from vault.keys.subjects import SubjectKeys


class Person(NamedTuple):
    """A person of this call with its keys; `keys` is None when the stored row does not open."""

    token: str
    keys: SubjectKeys | None


Persons = dict[IdentityKey, Person]


async def seal(call: SealCall, access: Access, pool: Pool, keyring: Keyring) -> list[SealAnswer]:
    """Answer each item with its person's token and the capsule of its message key."""
    read = read_persons(call)
    account_ids = {item.account_id for item in call.items}
    for _ in range(2):
        found = await keyring.find_or_create(pool, account_ids)
        accounts = {account_id: found.get(account_id) for account_id in account_ids}
        ended = await ended_accounts(pool, account_ids - found.keys())
        try:
            allowed = _refuse_ended(call.items, read, ended)
            return await _seal(call.items, allowed, access, pool, keyring, accounts=accounts)
        except asyncpg.CheckViolationError:  # another process has ended the epoch whose key this one still had
            keyring.forget(())
    raise RetryableError("the epoch changed twice while a batch was sealed")


def read_persons(call: SealCall) -> list[Given | Refusal]:
    """Return the person that each item describes, or why it describes none that the purpose is for."""
    read = [read_person(item) for item in call.items]
    kinds = KINDS_OF_PURPOSE.get(call.purpose)
    if kinds is None:
        return read
    return [KIND_OF_ANOTHER_PURPOSE if isinstance(one, Given) and one.kind not in kinds else one for one in read]


async def ended_accounts(pool: Pool, without_keys: Collection[str]) -> set[str]:
    """Return which of some accounts have no keys because they ended."""
    if not without_keys:
        return set()
    async with scoped(pool, without_keys) as connection:
        return await store.ended_accounts(connection, without_keys)


def _refuse_ended(items: Sequence[SealItem], read: list[Given | Refusal], ended: set[str]) -> Sequence[Given | Refusal]:
    if not ended:
        return read
    return [ACCOUNT_ENDED if item.account_id in ended else one for item, one in zip(items, read, strict=True)]


async def _seal(
    items: Sequence[SealItem],
    read: Sequence[Given | Refusal],
    access: Access,
    pool: Pool,
    keyring: Keyring,
    *,
    accounts: Mapping[str, AccountKeys | None],
) -> list[SealAnswer]:
    places = [_place(item, given, accounts) for item, given in zip(items, read, strict=True)]
    given = merge_persons(read, places)
    async with scoped(pool, accounts, "read") as connection:
        persons, changes = await _find(connection, list(given), given, keyring)
        if any(change.wrapped is not None for change in changes):
            persons, changes = await _hold(connection, persons, changes, given, keyring)
        if changes:
            await store.update_fields(connection, changes)
        if len(persons) < len(given):
            persons |= await _create(connection, given, persons, keyring, accounts)
        answers = [_answer(item, place, persons) for item, place in zip(items, places, strict=True)]
        answered = sum(answer.problem is None for answer in answers)
        await store.log_access(connection, access, answered=answered)
    return answers


def _place(item: SealItem, given: Given | Refusal, accounts: Mapping[str, AccountKeys | None]) -> IdentityKey | Refusal:
    if isinstance(given, Refusal):
        return given
    account = accounts[item.account_id]
    if account is None:
        return INTEGRITY_FAILED
    return IdentityKey(item.account_id, account.index_of(given.kind, given.found_by, given.normal))


def merge_persons(read: Sequence[Given | Refusal], places: Sequence[IdentityKey | Refusal]) -> dict[IdentityKey, Given]:
    """Return one person per place; of several items the last value of a field counts."""
    given: dict[IdentityKey, Given] = {}
    for one, place in zip(read, places, strict=True):
        if isinstance(one, Refusal) or isinstance(place, Refusal):
            continue
        before = given.get(place)
        given[place] = one if before is None else one._replace(fields={**before.fields, **one.fields})
    return given


async def _find(
    connection: Connection,
    places: Sequence[IdentityKey],
    given: Mapping[IdentityKey, Given],
    keyring: Keyring,
) -> tuple[Persons, list[ChangedFields]]:
    """Return the persons that exist at some places, and what the call changes of them."""
    known = await store.find_subjects(connection, places) if places else {}
    needed = {(place.account_id, subject.epoch) for place, subject in known.items()}
    return open_known(known, given, await keyring.of(connection, needed))


async def _hold(
    connection: Connection,
    persons: Persons,
    changes: Sequence[ChangedFields],
    given: Mapping[IdentityKey, Given],
    keyring: Keyring,
) -> tuple[Persons, list[ChangedFields]]:
    """Look again at those who change, now that nobody else can change them: an edition is written whole."""
    tokens = [change.token for change in changes]
    await store.hold_persons(connection, tokens)
    seen = set(tokens)
    places = [place for place, person in persons.items() if person.token in seen]
    again, changes = await _find(connection, places, given, keyring)
    return {place: one for place, one in persons.items() if one.token not in seen} | again, list(changes)


def open_known(
    known: Mapping[IdentityKey, StoredSubject],
    given: Mapping[IdentityKey, Given],
    accounts: Mapping[str, AccountKeys],
) -> tuple[Persons, list[ChangedFields]]:
    """Return the persons that exist, and those of whom the call gives another value."""
    persons: Persons = {}
    changes: list[ChangedFields] = []
    for place, subject in known.items():
        account = accounts.get(place.account_id)
        if account is None:
            persons[place] = Person(subject.token, None)
            continue
        try:
            keys = account.subject(subject.token, subject.epoch, subject.wrapped)
            if changed := changed_fields(account, keys, subject, given[place]):
                changes.append(changed)
        except BlobError:
            report_broken(subject.token, "a key or field")
            persons[place] = Person(subject.token, None)
        else:
            persons[place] = Person(subject.token, keys)
    return persons, changes


def changed_fields(
    account: AccountKeys, keys: SubjectKeys, stored: StoredSubject, given: Given
) -> ChangedFields | None:
    """Return the person in a new edition, if a value differs from what is stored; or that it was not used today."""
    changed = {name for name, value in given.fields.items() if _opened(keys, stored, name) != value}
    if not changed:
        unchanged = ChangedFields(stored.token, None, (None,) * len(FIELDS), stored.epoch, None)
        return unchanged if stored.is_stale else None
    values = {name: _opened(keys, stored, name) for name in FIELDS} | given.fields
    renewed, wrapped = account.new_edition(stored.token, stored.epoch, stored.wrapped)
    blobs = tuple(None if value is None else renewed.seal_field(name, value) for name, value in values.items())
    if "phone" not in changed:
        return ChangedFields(stored.token, None, blobs, stored.epoch, wrapped)
    phone = given.fields["phone"]
    phone_index, phone_hash = account.index_of(given.kind, "phone", phone), account.suppression_of("telephony", phone)
    return ChangedFields(stored.token, phone_index, blobs, stored.epoch, wrapped, phone_hash)


def _opened(keys: SubjectKeys, stored: StoredSubject, name: str) -> str | None:
    blob = stored.fields[FIELD_PLACES[name]]
    return None if blob is None else keys.open_field(name, blob)


async def _create(
    connection: Connection,
    given: Mapping[IdentityKey, Given],
    known: Persons,
    keyring: Keyring,
    accounts: Mapping[str, AccountKeys | None],
) -> Persons:
    """Create the persons that are not known; take those that somebody else created meanwhile as they are."""
    persons: Persons = {}
    rows: list[NewSubject] = []
    for place in sorted(given.keys() - known.keys()):
        account = accounts[place.account_id]
        assert account is not None
        persons[place], row = new_person(account, place, given[place])
        rows.append(row)
    created = await store.create_subjects(connection, rows)
    lost = [place for place, person in persons.items() if person.token not in created]
    if lost:
        theirs, _ = await _find(connection, lost, given, keyring)
        if theirs.keys() != set(lost):
            raise RetryableError("a person was created and removed while it was sealed for")
        persons |= theirs
    return persons


def new_person(account: AccountKeys, place: IdentityKey, given: Given) -> tuple[Person, NewSubject]:
    """Return a new person with the row that stores it."""
    token = new_recipient_token()
    keys, wrapped = account.new_subject(token)
    fields = given.fields
    phone_index = account.index_of(given.kind, "phone", fields["phone"]) if "phone" in fields else None
    blobs = {name: keys.seal_field(name, value) for name, value in fields.items()}
    row = NewSubject(
        token,
        place.account_id,
        given.kind,
        place.identity_index,
        phone_index,
        account.epoch,
        wrapped,
        tuple(map(blobs.get, FIELDS)),
        account.suppression_of("email", normal_address(fields["address"])) if "address" in fields else None,
        account.suppression_of("telephony", fields["phone"]) if "phone" in fields else None,
    )
    return Person(token, keys), row


def _answer(item: SealItem, place: IdentityKey | Refusal, persons: Persons) -> SealAnswer:
    if isinstance(place, Refusal):
        return SealAnswer(problem=item_problem(place))
    person = persons[place]
    if person.keys is None:
        return SealAnswer(problem=item_problem(INTEGRITY_FAILED))
    if item.message_key is None:
        return SealAnswer(token=person.token)
    return SealAnswer(token=person.token, capsule=person.keys.wrap_message_key(item.message_id, item.message_key))
