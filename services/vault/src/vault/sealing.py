"""Seal: find or create recipients by address, and wrap the keys of their messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.contracts.vault import SealAnswer, SealCall, SealItem
from common.ids import new_recipient_token
from common.kafka.consumer import RetryableError
from vault import store
from vault.domain import INTEGRITY_FAILED
from vault.errors import item_problem
from vault.keys.blobs import BlobError
from vault.opening import report_broken
from vault.store import ChangedFields, NewSubject, RecipientKey, StoredSubject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from common.postgres.pool import Connection
    from vault.domain import Access
    from vault.keyring import Keyring
    from vault.keys.accounts import AccountKeys
    from vault.keys.subjects import SubjectKeys


class Given(NamedTuple):
    """What a call says of one recipient."""

    address: str
    name: str | None


class Recipient(NamedTuple):
    """A recipient of this call with its keys; `keys` is None when the stored row does not open."""

    token: str
    keys: SubjectKeys | None


Recipients = dict[RecipientKey, Recipient]


async def seal(call: SealCall, access: Access, connection: Connection, keyring: Keyring) -> list[SealAnswer]:
    """Answer each item with its recipient's token and the capsule of its message key."""
    accounts = await keyring.find_or_create(connection, {item.account_id for item in call.items})
    places = [find_place(item, accounts) for item in call.items]
    given = merge_recipients(call.items, places)
    known = await store.find_subjects(connection, list(given))
    recipients, changes = open_known(known, given, accounts)
    if changes:
        async with connection.transaction():
            await store.update_fields(connection, changes)
            recipients |= await _create(connection, given, recipients, accounts, access)
    else:
        recipients |= await _create(connection, given, recipients, accounts, access)
    return [wrap(item, recipients[place]) for item, place in zip(call.items, places, strict=True)]


def find_place(item: SealItem, accounts: Mapping[str, AccountKeys]) -> RecipientKey:
    """Return where an item's recipient is found."""
    return RecipientKey(item.account_id, accounts[item.account_id].address_index(item.address))


def merge_recipients(items: Sequence[SealItem], places: Sequence[RecipientKey]) -> dict[RecipientKey, Given]:
    """Return one recipient per place; of several items the last address counts, and the last name that was given."""
    given: dict[RecipientKey, Given] = {}
    for item, place in zip(items, places, strict=True):
        before = given.get(place)
        given[place] = Given(item.address, item.fields.get("name", before.name if before else None))
    return given


def open_known(
    known: Mapping[RecipientKey, StoredSubject],
    given: Mapping[RecipientKey, Given],
    accounts: Mapping[str, AccountKeys],
) -> tuple[Recipients, list[ChangedFields]]:
    """Return the recipients that exist, and the fields of which the call gives another value."""
    recipients: Recipients = {}
    changes: list[ChangedFields] = []
    for place, subject in known.items():
        try:
            keys = accounts[place.account_id].subject(subject.token, subject.epoch, subject.wrapped)
            changes += changed_fields(keys, subject, given[place])
        except BlobError:
            report_broken(subject.token, "a key or field")
            recipients[place] = Recipient(subject.token, None)
        else:
            recipients[place] = Recipient(subject.token, keys)
    return recipients, changes


def changed_fields(keys: SubjectKeys, stored: StoredSubject, given: Given) -> list[ChangedFields]:
    """Return the subject's new sealed values, if any differ from what is stored."""
    address = name = None
    if stored.address is None or keys.open_field("address", stored.address) != given.address:
        address = keys.seal_field("address", given.address)
    if given.name is not None and (stored.name is None or keys.open_field("name", stored.name) != given.name):
        name = keys.seal_field("name", given.name)
    return [ChangedFields(stored.token, address, name)] if address or name else []


async def _create(
    connection: Connection,
    given: Mapping[RecipientKey, Given],
    known: Recipients,
    accounts: Mapping[str, AccountKeys],
    access: Access,
) -> Recipients:
    """Create the recipients that are not known; take those that somebody else created meanwhile as they are."""
    recipients: Recipients = {}
    rows: list[NewSubject] = []
    for place in sorted(given.keys() - known.keys()):
        recipients[place], row = new_recipient(accounts[place.account_id], place, given[place])
        rows.append(row)
    created = await store.create_subjects(connection, rows, access)
    lost = [place for place, recipient in recipients.items() if recipient.token not in created]
    if lost:
        theirs, _ = open_known(await store.find_subjects(connection, lost), given, accounts)
        if theirs.keys() != set(lost):
            raise RetryableError("a recipient was created and removed while it was sealed for")
        recipients |= theirs
    return recipients


def new_recipient(account: AccountKeys, place: RecipientKey, given: Given) -> tuple[Recipient, NewSubject]:
    """Return a new recipient with the row that stores it."""
    token = new_recipient_token()
    keys, wrapped = account.new_subject(token)
    address = keys.seal_field("address", given.address)
    name = None if given.name is None else keys.seal_field("name", given.name)
    row = NewSubject(token, place.account_id, place.address_index, address, name, account.epoch, wrapped)
    return Recipient(token, keys), row


def wrap(item: SealItem, recipient: Recipient) -> SealAnswer:
    """Return the answer to one item."""
    if recipient.keys is None:
        return SealAnswer(problem=item_problem(INTEGRITY_FAILED))
    return SealAnswer(token=recipient.token, capsule=recipient.keys.wrap_message_key(item.message_id, item.message_key))
