"""Disclose: what a provider needs for one hand-over, after the ledger has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.contracts.vault import DiscloseAnswer, DiscloseCall, DiscloseItem
from vault import store
from vault.domain import (
    BAD_CAPSULE,
    CHECK_BASES,
    ERASED,
    EXPIRED_BASIS,
    FIELD_PLACES,
    INTEGRITY_FAILED,
    OBJECTED,
    TWICE_IN_CALL,
    UNKNOWN_RECIPIENT,
    WITHDRAWN,
    Refusal,
    field_set,
    refuse_fields,
    refuse_instruction,
    refuse_person,
    refuse_provider,
)
from vault.errors import item_problem
from vault.keys.blobs import BlobError
from vault.opening import report_broken, unlock
from vault.scope import scoped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.postgres.pool import Connection, Pool
    from vault.domain import Access
    from vault.keyring import Keyring
    from vault.keys.accounts import AccountKeys
    from vault.store import Disclosable

Outcome = DiscloseAnswer | Refusal


class _BrokenError(Exception):
    """Some of the entered items do not open: the ledger must not say that they were disclosed."""

    def __init__(self, refusals: dict[int, Refusal]) -> None:
        super().__init__(f"{len(refusals)} items")
        self.refusals = refusals


async def disclose(call: DiscloseCall, access: Access, pool: Pool, keyring: Keyring) -> list[DiscloseAnswer]:
    """Answer each item with its fields and message key; nothing leaves before its ledger row is committed."""
    outcomes = _refused_at_once(call)
    account_ids = {item.account_id for item in call.items}
    while True:
        asked = [number for number in range(len(call.items)) if number not in outcomes]
        try:
            async with scoped(pool, account_ids, discloses=True) as connection:
                found = await _enter(connection, call, asked, access, keyring)
            break
        except _BrokenError as broken:  # rolled back: ask again without them
            outcomes |= broken.refusals
    outcomes |= found
    return [_answer(outcomes[number]) for number in range(len(call.items))]


def _refused_at_once(call: DiscloseCall) -> dict[int, Outcome]:
    if refusal := refuse_fields(call.fields):
        return dict.fromkeys(range(len(call.items)), refusal)
    seen: set[tuple[str, str]] = set()
    outcomes: dict[int, Outcome] = {}
    for number, item in enumerate(call.items):
        key = (item.account_id, item.message_id)
        if key in seen:
            outcomes[number] = TWICE_IN_CALL
        seen.add(key)
    return outcomes


async def _enter(
    connection: Connection, call: DiscloseCall, asked: Sequence[int], access: Access, keyring: Keyring
) -> dict[int, Outcome]:
    """Write the ledger rows of all that may be disclosed, then open them; refuse the others with their reason."""
    if not asked:
        await store.log_access(connection, access)
        return {}
    items = [call.items[number] for number in asked]
    rows = await store.enter_disclosures(connection, items, field_set(call.fields), access)
    accounts = await keyring.of(connection, {(items[row.ordinal - 1].account_id, row.epoch) for row in rows})
    places = [(name, FIELD_PLACES[name]) for name in call.fields]
    found: dict[int, Outcome] = {}
    broken: dict[int, Refusal] = {}
    for row in rows:
        number = asked[row.ordinal - 1]
        item = call.items[number]
        outcome = open_item(item, places, row, accounts.get(item.account_id))
        if isinstance(outcome, Refusal):
            broken[number] = outcome
        found[number] = outcome
    if broken:
        raise _BrokenError(broken)
    if missing := [number for number in asked if number not in found]:
        found |= await _why(connection, call, missing)
    return found


def open_item(
    item: DiscloseItem, places: Sequence[tuple[str, int]], row: Disclosable, account: AccountKeys | None
) -> Outcome:
    """Return the fields that the person has of those asked for (name and place), and the message key; or why not."""
    keys = unlock(account, item.token, row.epoch, row.wrapped)
    if isinstance(keys, Refusal):
        return keys
    try:
        message_key = keys.unwrap_message_key(item.message_id, item.capsule)
    except BlobError:
        return BAD_CAPSULE
    try:
        opened: dict[str, str] = {}
        for name, place in places:
            if (blob := row.fields[place]) is not None:
                opened[name] = keys.open_field(name, blob)
    except BlobError:
        report_broken(item.token, "a field")
        return INTEGRITY_FAILED
    return DiscloseAnswer(fields=opened, message_key=message_key)


async def _why(connection: Connection, call: DiscloseCall, numbers: Sequence[int]) -> dict[int, Outcome]:
    """Return why items were not entered: the provider, the account, the person, the instruction or the basis."""
    processor = await store.processor(connection, call.provider)
    if refusal := refuse_provider(call.provider, processor, call.fields):
        return dict.fromkeys(numbers, refusal)
    assert processor is not None
    items = [call.items[number] for number in numbers]
    persons = await store.person_states(connection, {item.token for item in items})
    erased = await store.erased_tokens(connection, [item.token for item in items if item.token not in persons])
    objecting = await store.objecting_accounts(connection, call.provider, {item.account_id for item in items})
    known = await store.instructions(connection, items)
    checked = [token for token, person in persons.items() if person.flags & CHECK_BASES]
    withdrawn = await store.withdrawn_bases(connection, checked) if checked else set()
    found: dict[int, Outcome] = {}
    for number, item in zip(numbers, items, strict=True):
        person, instruction = persons.get(item.token), known.get((item.account_id, item.message_id))
        if person is None or person.account_id != item.account_id:
            found[number] = ERASED if item.token in erased else UNKNOWN_RECIPIENT
        elif item.account_id in objecting:
            found[number] = OBJECTED
        elif against := refuse_person(person.flags, processor.tool):
            found[number] = against
        elif instruction is not None and (instruction.spent_at is not None or instruction.epoch > item.epoch):
            found[number] = refuse_instruction(instruction, item.epoch)
        elif person.flags & CHECK_BASES:
            basis = (item.token, item.message_purpose, item.legal_basis.partition(":")[0])
            found[number] = WITHDRAWN if basis in withdrawn else EXPIRED_BASIS
        else:
            report_broken(item.token, "the row of the data key")
            found[number] = INTEGRITY_FAILED
    return found


def _answer(outcome: Outcome) -> DiscloseAnswer:
    return DiscloseAnswer(problem=item_problem(outcome)) if isinstance(outcome, Refusal) else outcome
