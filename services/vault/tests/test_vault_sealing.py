from __future__ import annotations

import os

import pytest

from common.contracts.vault import SealItem
from vault.domain import FIELDS, Refusal
from vault.formats import read_person
from vault.keys.accounts import AccountKeys, new_account_key, new_account_secrets
from vault.keys.blobs import BlobError
from vault.keys.epochs import WrappingKey
from vault.sealing import changed_fields, merge_persons, new_person
from vault.store import IdentityKey, StoredSubject

STANDING, EPOCH = WrappingKey(0, os.urandom(32)), WrappingKey(1, os.urandom(32))
ACCOUNT = AccountKeys("account-a", STANDING, new_account_secrets(STANDING, "account-a"))
ACCOUNT.add(EPOCH, new_account_key(EPOCH, "account-a"))


def item(address: str, **fields: str) -> SealItem:
    return SealItem(account_id="account-a", message_id="m", address=address, fields=fields, message_key=bytes(32))


def merged(*items: SealItem):
    read = [read_person(one) for one in items]
    assert not any(isinstance(one, Refusal) for one in read)
    places = [IdentityKey("account-a", ACCOUNT.index_of(one.kind, one.found_by, one.normal)) for one in read]
    return merge_persons(read, places)


def stored(given, *, stale=False):
    (place,) = given
    person, row = new_person(ACCOUNT, place, given[place])
    return person.keys, StoredSubject(row.token, row.epoch, row.wrapped, stale, row.fields)


def changes(keys, subject, *items: SealItem):
    (given,) = merged(*items).values()
    return changed_fields(ACCOUNT, keys, subject, given)


def opened(change):
    keys = ACCOUNT.subject(change.token, change.epoch, change.wrapped)
    blobs = zip(FIELDS, change.fields, strict=True)
    return {name: keys.open_field(name, blob) for name, blob in blobs if blob is not None}


def test_items_for_one_address_are_one_person():
    (given,) = merged(item("a@example.org"), item("A@EXAMPLE.org", name="Anna"), item("a@Example.org")).values()
    assert given.fields == {"address": "a@Example.org", "name": "Anna"}


def test_known_fields_are_not_written_again():
    keys, subject = stored(merged(item("a@example.org", name="Anna")))
    assert changes(keys, subject, item("a@example.org", name="Anna")) is None


def test_the_day_of_use_is_written_once_a_day():
    keys, subject = stored(merged(item("a@example.org")), stale=True)
    change = changes(keys, subject, item("a@example.org"))
    assert change.token == subject.token
    assert not any(change.fields)
    assert change.wrapped is None


def test_a_name_that_is_not_given_leaves_the_stored_one():
    keys, subject = stored(merged(item("a@example.org", name="Anna")))
    assert changes(keys, subject, item("a@example.org")) is None


def test_a_new_name_and_a_new_spelling_are_stored():
    keys, subject = stored(merged(item("a@example.org", name="Anna")))
    change = changes(keys, subject, item("A@example.org", name="Anne"))
    assert change.token == subject.token
    assert opened(change) == {"address": "A@example.org", "name": "Anne"}


def test_a_change_seals_every_field_anew_so_that_older_values_do_not_open():
    keys, subject = stored(merged(item("a@example.org", name="Anna", language="de")))
    change = changes(keys, subject, item("a@example.org", name="Anne"))
    assert opened(change) == {"address": "a@example.org", "name": "Anne", "language": "de"}
    later = ACCOUNT.subject(change.token, change.epoch, change.wrapped)
    for name, blob in zip(FIELDS, subject.fields, strict=True):
        if blob is not None:
            with pytest.raises(BlobError):
                later.open_field(name, blob)


def test_a_change_of_a_person_with_a_broken_field_is_refused():
    keys, subject = stored(merged(item("a@example.org", name="Anna", language="de")))
    broken = subject._replace(fields=tuple(blob and blob[:-1] + b"x" for blob in subject.fields))
    with pytest.raises(BlobError):
        changes(keys, broken, item("a@example.org", name="Anne"))


def test_a_first_phone_is_stored_beside_the_address_and_can_be_looked_up():
    keys, subject = stored(merged(item("a@example.org")))
    change = changes(keys, subject, item("a@example.org", phone="+49 30 123456"))
    assert opened(change) == {"address": "a@example.org", "phone": "+4930123456"}
    assert change.phone_index == ACCOUNT.index_of("recipient", "phone", "+4930123456")
