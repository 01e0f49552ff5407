from __future__ import annotations

import os

from common.contracts.vault import SealItem
from vault.keys.accounts import AccountKeys, new_account
from vault.keys.root import RootKey
from vault.sealing import changed_fields, find_place, merge_recipients, new_recipient
from vault.store import StoredSubject

ROOT = RootKey(os.urandom(32))
ACCOUNT = AccountKeys(ROOT, "account-a", new_account(ROOT, "account-a"))


def item(address: str, **fields: str) -> SealItem:
    return SealItem(account_id="account-a", message_id="m", address=address, fields=fields, message_key=bytes(32))


def merged(*items: SealItem):
    return merge_recipients(items, [find_place(one, {"account-a": ACCOUNT}) for one in items])


def stored(given):
    (place,) = given
    recipient, row = new_recipient(ACCOUNT, place, given[place])
    return recipient.keys, StoredSubject(row.token, "account-a", row.epoch, row.wrapped, row.address, row.name)


def test_items_for_one_address_are_one_recipient():
    (given,) = merged(item("a@example.org"), item("A@EXAMPLE.org", name="Anna"), item("a@Example.org")).values()
    assert given == ("a@Example.org", "Anna")


def test_known_fields_are_not_written_again():
    given = merged(item("a@example.org", name="Anna"))
    keys, subject = stored(given)
    assert changed_fields(keys, subject, *given.values()) == []


def test_a_name_that_is_not_given_leaves_the_stored_one():
    keys, subject = stored(merged(item("a@example.org", name="Anna")))
    assert changed_fields(keys, subject, *merged(item("a@example.org")).values()) == []


def test_a_new_name_and_a_new_spelling_are_stored():
    keys, subject = stored(merged(item("a@example.org", name="Anna")))
    (change,) = changed_fields(keys, subject, *merged(item("A@example.org", name="Anne")).values())
    assert change.token == subject.token
    assert keys.open_field("address", change.address) == "A@example.org"
    assert keys.open_field("name", change.name) == "Anne"


def test_a_first_name_is_stored_beside_the_address():
    keys, subject = stored(merged(item("a@example.org")))
    (change,) = changed_fields(keys, subject, *merged(item("a@example.org", name="Anna")).values())
    assert change.address is None
    assert keys.open_field("name", change.name) == "Anna"
