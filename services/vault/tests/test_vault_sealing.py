from __future__ import annotations

import os

from common.contracts.vault import SealItem
from vault.domain import FIELDS, Refusal
from vault.formats import read_person
from vault.keys.accounts import AccountKeys, new_account_key, new_account_secrets
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


def field(change, name):
    return change.fields[FIELDS.index(name)]


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


def test_a_name_that_is_not_given_leaves_the_stored_one():
    keys, subject = stored(merged(item("a@example.org", name="Anna")))
    assert changes(keys, subject, item("a@example.org")) is None


def test_a_new_name_and_a_new_spelling_are_stored():
    keys, subject = stored(merged(item("a@example.org", name="Anna")))
    change = changes(keys, subject, item("A@example.org", name="Anne"))
    assert change.token == subject.token
    assert keys.open_field("address", field(change, "address")) == "A@example.org"
    assert keys.open_field("name", field(change, "name")) == "Anne"


def test_a_first_phone_is_stored_beside_the_address_and_can_be_looked_up():
    keys, subject = stored(merged(item("a@example.org")))
    change = changes(keys, subject, item("a@example.org", phone="+49 30 123456"))
    assert field(change, "address") is None
    assert keys.open_field("phone", field(change, "phone")) == "+4930123456"
    assert change.phone_index == ACCOUNT.index_of("recipient", "phone", "+4930123456")
