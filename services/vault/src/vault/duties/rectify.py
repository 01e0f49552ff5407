"""Rectification (Art. 16 GDPR): new values of fields; blind indexes and opt-outs follow, providers are to be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from common.contracts.vault_people import Rectified, RectifyCall
from common.kafka.consumer import RetryableError
from vault import store
from vault.domain import ERASED, FIELDS, FLAG_OF_TOOL, INTEGRITY_FAILED, UNKNOWN_RECIPIENT, Refusal
from vault.duties import rows
from vault.duties.export import open_fields
from vault.duties.rows import RectifiedRow
from vault.errors import item_problem
from vault.finding import find_tokens
from vault.formats import normal_address, read_fields
from vault.scope import hold_disclosures, scoped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from common.postgres.pool import Connection, Pool
    from vault.domain import Access
    from vault.duties.rows import PersonRow
    from vault.keyring import Keyring
    from vault.keys.accounts import AccountKeys
    from vault.store import WrappedKey

ADDRESS_TAKEN = Refusal(
    409, "address-taken", "another person of this account and kind has this address: erase one of the two first"
)
_SEVERAL = Refusal(
    409, "several-persons", "several persons have this address or phone: name one by its token or its kind"
)
_TWICE = Refusal(422, "invalid-field", "person: name a person once in a call", {"field": "person"})
_NEEDED = Refusal(422, "invalid-field", "fields: a person keeps an address or a phone", {"field": "fields"})
_TOOLS = {"address": "email", "phone": "telephony"}


class _Change(NamedTuple):
    """A person's new row, and the opt-outs that its new address or phone takes over: (account, hash, tool, reason)."""

    account_id: str
    row: RectifiedRow
    carried: list[tuple[str, bytes, str, str]]


async def rectify(call: RectifyCall, access: Access, pool: Pool, keyring: Keyring) -> list[Rectified]:
    """Answer each item with the person changed; the others are not held up by one that is refused."""
    found = await find_tokens([item.person for item in call.items], pool, keyring)
    for _ in range(3):
        try:
            return await _rectify(call, found, access, pool, keyring)
        except asyncpg.UniqueViolationError:  # somebody took an address in between: now it is seen
            continue
    raise RetryableError("addresses changed hands while a batch was rectified")


async def _rectify(
    call: RectifyCall, found: Sequence[Sequence[str]], access: Access, pool: Pool, keyring: Keyring
) -> list[Rectified]:
    account_ids = {item.person.account_id for item in call.items}
    async with scoped(pool, account_ids, "changed") as connection:
        tokens = sorted({token for some in found for token in some})
        await store.hold_persons(connection, tokens)
        await hold_disclosures(connection, account_ids)
        persons = await rows.persons(connection, tokens)
        gone = await store.erased_tokens(connection, [token for token in tokens if token not in persons])
        keys = {(one.account_id, one.key.epoch) for one in persons.values() if one.key is not None}
        accounts = await keyring.of(connection, keys)
        changes: dict[int, _Change | Refusal] = {}
        for number, (item, some) in enumerate(zip(call.items, found, strict=True)):
            theirs = [one for one in some if one in persons and persons[one].account_id == item.person.account_id]
            if theirs:
                changes[number] = _change(item.fields, [persons[one] for one in theirs], accounts)
            else:
                changes[number] = ERASED if any(token in gone for token in some) else UNKNOWN_RECIPIENT
        outcomes = await _refuse_taken(connection, _refuse_twice(changes))
        made = [one for one in outcomes.values() if isinstance(one, _Change)]
        if made:
            await _store(connection, made)
        touched = [one.row.token for one in made]
        await store.log_access(connection, access, answered=len(made), touched=touched)
    return [_answer(outcomes[number]) for number in range(len(call.items))]


def _change(
    fields: Mapping[str, str | None], known: Sequence[PersonRow], accounts: Mapping[str, AccountKeys]
) -> _Change | Refusal:
    """Return the new row of the one person that an item names, or why there is none."""
    if len(known) > 1:
        return _SEVERAL
    formed = read_fields(fields)
    if isinstance(formed, Refusal):
        return formed
    (person,) = known
    opened, unreadable = open_fields(person, accounts)
    if unreadable or person.key is None:
        return INTEGRITY_FAILED
    after = {name: value for name, value in {**opened, **formed}.items() if value is not None}
    if "address" not in after and "phone" not in after:
        return _NEEDED
    return _new_row(person, person.key, opened, after, accounts[person.account_id])


def _new_row(
    person: PersonRow, key: WrappedKey, before: Mapping[str, str], after: Mapping[str, str], account: AccountKeys
) -> _Change:
    keys, wrapped = account.new_edition(person.token, key.epoch, key.wrapped)
    blobs = {name: keys.seal_field(name, value) for name, value in after.items()}
    found_by = "address" if "address" in after else "phone"
    normal = normal_address(after["address"]) if found_by == "address" else after["phone"]
    phone_index = account.index_of(person.kind, "phone", after["phone"]) if "phone" in after else None
    carried = [
        (person.account_id, account.suppression_of(tool, _normal(name, after[name])), tool, "rectified")
        for name, tool in _TOOLS.items()
        if name in after and before.get(name) != after[name]
    ]
    row = RectifiedRow(
        person.token,
        account.index_of(person.kind, found_by, normal),
        phone_index,
        person.flags,
        key.epoch,
        wrapped,
        tuple(map(blobs.get, FIELDS)),
    )
    return _Change(person.account_id, row, carried)


def _normal(name: str, value: str) -> str:
    return normal_address(value) if name == "address" else value


def _refuse_twice(changes: Mapping[int, _Change | Refusal]) -> dict[int, _Change | Refusal]:
    seen: set[str] = set()
    outcomes: dict[int, _Change | Refusal] = {}
    for number, one in changes.items():
        if isinstance(one, _Change):
            outcomes[number] = _TWICE if one.row.token in seen else one
            seen.add(one.row.token)
        else:
            outcomes[number] = one
    return outcomes


async def _refuse_taken(connection: Connection, changes: dict[int, _Change | Refusal]) -> dict[int, _Change | Refusal]:
    """Refuse addresses that other persons have, those of this batch included."""
    made = [one for one in changes.values() if isinstance(one, _Change)]
    taken = dict(await rows.holders(connection, [one.row.identity_index for one in made]))
    for number, one in changes.items():
        if isinstance(one, _Change):
            holder = taken.setdefault((one.account_id, one.row.identity_index), one.row.token)
            if holder != one.row.token:
                changes[number] = ADDRESS_TAKEN
    return changes


async def _store(connection: Connection, made: Sequence[_Change]) -> None:
    """Write the rows. Who opted out stays so under a new address, and an address that was opted out stays that."""
    hashes = [carried for one in made for carried in one.carried]
    standing = await rows.opt_outs(connection, [one[1] for one in hashes])
    ready: list[RectifiedRow] = []
    new: list[tuple[str, bytes, str, str]] = []
    for one in made:
        flags = 0
        for carried in one.carried:
            bit = FLAG_OF_TOOL[carried[2]]
            if carried[1] in standing:
                flags |= bit
            elif one.row.flags & bit:
                new.append(carried)
        ready.append(one.row._replace(flags=flags))
    await rows.rectify(connection, ready)
    if new:
        await store.suppress(connection, new)
    await rows.add_notices(connection, {one.row.token: one.account_id for one in made}, "rectification")


def _answer(outcome: _Change | Refusal) -> Rectified:
    if isinstance(outcome, Refusal):
        return Rectified(problem=item_problem(outcome))
    return Rectified(tokens=[outcome.row.token])
