"""Where a person's address or name could stand: in the vault, sealed, and nowhere else in a database or an event.

Every column and every member of an event whose name sounds like a person's is listed here with the reason why it holds
none; a new one fails until somebody says why.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
SOUNDS_PERSONAL = re.compile(
    r"address|mail|phone|person|name|contact|reporter|complain|recipient|sender|mailbox|^(from|to|cc|bcc|reply_to)$"
)
COLUMN = re.compile(
    r"(?:^\s+|ADD COLUMN (?:IF NOT EXISTS )?)([a-z_]+) (?:text|bytea|jsonb|citext|varchar|inet)\b", re.MULTILINE
)
SEALED = "sealed under the person's own key, or a keyed hash"
TOKEN = "a token of the vault"
COLUMNS = {
    ("vault", "address"): SEALED,
    ("vault", "name"): SEALED + "; the name of a processor in its register",
    ("vault", "phone"): SEALED,
    ("vault", "phone_index"): SEALED,
    ("vault", "postal_address"): SEALED,
    ("vault", "address_index"): SEALED + "; a table of the first vault, which is dropped",
    ("ingestion", "address"): "an account's own inbox, which stands in From of all its mails",
    ("ingestion", "display_name"): "what an account calls its inbox in From",
    ("ingestion", "name"): "the name of a business",
    ("ingestion", "recipient_token"): TOKEN,
    ("ingestion", "person_token"): TOKEN,
    ("moderation", "recipient_token"): TOKEN,
    ("routing", "recipient_token"): TOKEN,
    ("enforcement", "complainant_token"): TOKEN,
    ("enforcement", "sender_domain"): "the domain that a complained-of mail came from",
}
MEMBERS = {"recipient_token": TOKEN, "complaint_id": "an id", "mail": "the sealed mail's digests", "name": "of a model"}


def columns():
    """(service, column) of all text and binary columns in the migrations."""
    for path in sorted(CHECKOUT.glob("services/*/migrations/*.sql")):
        text = re.sub(r"--.*", "", path.read_text("utf-8"))
        for name in COLUMN.findall(text):
            yield path.parents[1].name, name


def members(schema):
    """Names of all members of an event's schema, at whatever depth."""
    if isinstance(schema, dict):
        for name, part in schema.items():
            if name == "properties":
                yield from part
            yield from members(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from members(part)


def test_no_column_outside_the_vault_is_for_a_persons_address_or_name():
    found = {(service, name) for service, name in columns() if SOUNDS_PERSONAL.search(name)}
    assert found == set(COLUMNS)


def test_the_reading_of_migrations_sees_columns():
    assert ("vault", "identity_index") in set(columns())
    assert ("ingestion", "person_token") in set(columns())


def test_no_member_of_an_event_is_for_a_persons_address_or_name():
    schemas = sorted(CHECKOUT.glob("contracts/*/schema.json"))
    assert schemas
    found = {
        (path.parent.name, name)
        for path in schemas
        for name in members(json.loads(path.read_text("utf-8")))
        if SOUNDS_PERSONAL.search(name)
    }
    assert {name for _, name in found} <= set(MEMBERS), found
