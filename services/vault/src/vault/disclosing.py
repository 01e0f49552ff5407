"""Disclose: what a provider needs for one hand-over, after the ledger has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from common.contracts.vault import DiscloseAnswer, DiscloseCall, DiscloseItem
from vault import store
from vault.domain import (
    BAD_CAPSULE,
    INTEGRITY_FAILED,
    TWICE_IN_CALL,
    UNKNOWN_RECIPIENT,
    Refusal,
    field_set,
    refuse_instruction,
    refuse_provider,
)
from vault.errors import item_problem
from vault.keys.blobs import BlobError
from vault.opening import report_broken, unlock
from vault.store import Entry, StoredSubject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from common.postgres.pool import Connection
    from vault.domain import Access, Instruction
    from vault.keyring import Keyring
    from vault.keys.accounts import AccountKeys
    from vault.keys.subjects import SubjectKeys


class Opened(NamedTuple):
    """What would be disclosed, still inside the vault."""

    fields: dict[str, str]
    message_key: bytes


async def disclose(
    call: DiscloseCall, access: Access, connection: Connection, keyring: Keyring
) -> list[DiscloseAnswer]:
    """Answer each item with its fields and message key; nothing leaves before its ledger row is committed."""
    processor = await store.processor(connection, call.provider)
    if refusal := refuse_provider(call.provider, processor, call.fields):
        await store.log_access(connection, access)
        return [_refused(refusal) for _ in call.items]
    opened = await _open(call, connection, keyring)
    entries = [
        _entry(item, outcome) for item, outcome in zip(call.items, opened, strict=True) if isinstance(outcome, Opened)
    ]
    entered = await store.enter_disclosures(connection, entries, call.provider, access)
    late = [entry.message_id for entry in entries if entry.message_id not in entered]
    known = await store.instructions(connection, late) if late else {}
    return [_answer(item, outcome, entered, known) for item, outcome in zip(call.items, opened, strict=True)]


async def _open(call: DiscloseCall, connection: Connection, keyring: Keyring) -> list[Opened | Refusal]:
    subjects = await store.wrapped_subjects(connection, {item.token for item in call.items})
    accounts = await keyring.of_subjects(connection, subjects.values())
    opened: list[Opened | Refusal] = []
    seen: set[str] = set()
    for item in call.items:
        twice = item.message_id in seen
        seen.add(item.message_id)
        opened.append(TWICE_IN_CALL if twice else open_item(item, call.fields, subjects.get(item.token), accounts))
    return opened


def open_item(
    item: DiscloseItem,
    fields: Sequence[str],
    subject: StoredSubject | None,
    accounts: Mapping[str, AccountKeys],
) -> Opened | Refusal:
    """Return the fields that the subject has of those asked for, and the message key; or why not."""
    if subject is None or subject.account_id != item.account_id:
        return UNKNOWN_RECIPIENT
    keys = unlock(subject, accounts)
    if isinstance(keys, Refusal):
        return keys
    try:
        message_key = keys.unwrap_message_key(item.message_id, item.capsule)
    except BlobError:
        return BAD_CAPSULE
    try:
        return Opened(_open_fields(keys, subject, fields), message_key)
    except BlobError:
        report_broken(subject.token, "a field")
        return INTEGRITY_FAILED


def _open_fields(keys: SubjectKeys, subject: StoredSubject, fields: Sequence[str]) -> dict[str, str]:
    sealed = {"address": subject.address, "name": subject.name}
    return {name: keys.open_field(name, blob) for name in fields if (blob := sealed[name]) is not None}


def _entry(item: DiscloseItem, opened: Opened) -> Entry:
    return Entry(
        item.message_id,
        item.account_id,
        item.token,
        field_set(opened.fields),
        item.legal_basis,
        item.instruction_digest,
        item.epoch,
        item.attempt,
    )


def _answer(
    item: DiscloseItem, opened: Opened | Refusal, entered: set[str], known: Mapping[str, Instruction]
) -> DiscloseAnswer:
    if isinstance(opened, Refusal):
        return _refused(opened)
    if item.message_id in entered:
        return DiscloseAnswer(fields=opened.fields, message_key=opened.message_key)
    return _refused(refuse_instruction(known[item.message_id], item.epoch))


def _refused(refusal: Refusal) -> DiscloseAnswer:
    return DiscloseAnswer(problem=item_problem(refusal))
