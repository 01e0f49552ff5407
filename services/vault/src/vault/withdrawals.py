"""Legal bases and what ends a right to disclose: withdrawal, opt-out, restriction. In force with the commit.

A disclosure looks at all of them in the statement that writes its ledger row, so a queued message is withheld from the
moment the call is answered; the event on `vault.withdrawals` tells others, and enforces nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product
from typing import TYPE_CHECKING, NamedTuple, Protocol

from common.contracts.vault_duties import BasisCall, DoneAnswer, RestrictCall, SuppressCall, SuppressItem, WithdrawCall
from common.events.envelope import encode
from common.events.vault import WithdrawalRecorded
from common.ids import new_id
from common.times import now, parse_rfc3339, rfc3339
from vault import store
from vault.domain import FLAG_OF_TOOL, KINDS, RESTRICTED, UNKNOWN_RECIPIENT, Refusal
from vault.duties.rows import add_notices
from vault.errors import item_problem
from vault.finding import find_tokens
from vault.formats import mail_address, normal_address, normal_addresses, phone_number
from vault.scope import hold_disclosures, scoped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from common.contracts.vault_duties import BasisItem, PersonItem
    from common.outbox.relay import StoredRecord
    from common.postgres.pool import Connection, Pool
    from vault.domain import Access
    from vault.keyring import Keyring
    from vault.keys.accounts import AccountKeys

_UNKNOWN = DoneAnswer(problem=item_problem(UNKNOWN_RECIPIENT))
_NO_KEYS = Refusal(
    410, "account-ended", "the account has ended, or its keys do not open: the vault keeps nothing for it"
)
_FIELD_OF_TOOL = {"email": "address", "telephony": "phone"}


class Relay(Protocol):
    """Who publishes what was stored; the common outbox relay is one."""

    def committed(self, records: Iterable[StoredRecord], /) -> None:
        """Take over records whose rows were just committed."""


class _Address(NamedTuple):
    """An address that an opt-out is about, in the form by which it is hashed and found."""

    account_id: str
    tool: str
    normal: str


class Withdrawals:
    """The work behind the calls that record a basis, end one, or stand against disclosure."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    async def record(self, call: BasisCall, access: Access, pool: Pool, keyring: Keyring) -> list[DoneAnswer]:
        """Record bases; answer with the persons that each is for, recipients where no kind is named."""
        found = await find_tokens([item.person for item in call.items], pool, keyring, kinds=("recipient",))
        times = [_times(item) for item in call.items]
        rows: list[store.NewBasis] = []
        for item, tokens, moments in zip(call.items, found, times, strict=True):
            if not isinstance(moments, Refusal):
                rows += [_new_basis(item, token, moments, access.caller) for token in tokens]
        async with scoped(pool, {item.person.account_id for item in call.items}) as connection:
            known = await _known(connection, [item.person for item in call.items], found)
            await store.record_bases(connection, [row for row in rows if row.token in known])
            await store.log_access(connection, access, answered=sum(map(bool, found)), touched=sorted(known))
        return [
            DoneAnswer(problem=item_problem(moments)) if isinstance(moments, Refusal) else _done(tokens, known)
            for tokens, moments in zip(found, times, strict=True)
        ]

    async def withdraw(self, call: WithdrawCall, access: Access, pool: Pool, keyring: Keyring) -> list[DoneAnswer]:
        """End bases now."""
        found = await find_tokens([item.person for item in call.items], pool, keyring)
        async with scoped(pool, {item.person.account_id for item in call.items}) as connection:
            known = await _known(connection, [item.person for item in call.items], found)
            await hold_disclosures(connection, set(known.values()))
            told = [
                (known[token], token, item.purpose, item.kind)
                for item, tokens in zip(call.items, found, strict=True)
                for token in tokens
                if token in known
            ]
            await store.withdraw_bases(connection, sorted(set(told)), access.caller)
            events = [
                _event(token, account, "basis", purpose=purpose, basis=kind) for account, token, purpose, kind in told
            ]
            stored = await store.add_to_outbox(connection, [encode(event) for event in events])
            await store.log_access(connection, access, answered=sum(map(bool, found)), touched=sorted(known))
        self._relay.committed(stored)
        return [_done(tokens, known) for tokens in found]

    async def restrict(self, call: RestrictCall, access: Access, pool: Pool, keyring: Keyring) -> list[DoneAnswer]:
        """Restrict persons, or lift that."""
        found = await find_tokens([item.person for item in call.items], pool, keyring)
        async with scoped(pool, {item.person.account_id for item in call.items}) as connection:
            known = await _known(connection, [item.person for item in call.items], found)
            await hold_disclosures(connection, set(known.values()))
            flags: dict[str, bool] = {}
            for item, tokens in zip(call.items, found, strict=True):
                flags |= {token: item.restricted for token in tokens if token in known}
            await store.flag_persons(
                connection, [(token, RESTRICTED * on, RESTRICTED * (not on)) for token, on in flags.items()]
            )
            restricted = {token: known[token] for token, on in flags.items() if on}
            await add_notices(connection, restricted, "restriction")
            events = [_event(token, known[token], "restriction", in_force=on) for token, on in flags.items()]
            stored = await store.add_to_outbox(connection, [encode(event) for event in events])
            await store.log_access(connection, access, answered=sum(map(bool, found)), touched=sorted(known))
        self._relay.committed(stored)
        return [_done(tokens, known) for tokens in found]

    async def suppress(self, call: SuppressCall, access: Access, pool: Pool, keyring: Keyring) -> list[DoneAnswer]:
        """Keep or lift opt-outs of addresses, whether anybody is known by them or not."""
        read = [_read(item) for item in call.items]
        accounts = await keyring.find_or_create(pool, {item.account_id for item in call.items})
        read = [one if item.account_id in accounts else _NO_KEYS for item, one in zip(call.items, read, strict=True)]
        stored: list[StoredRecord] = []
        async with scoped(pool, accounts, "changed") as connection:
            found = await _persons_with(connection, read, accounts)
            touched = sorted({token for tokens in found for token in tokens})
            if touched:
                await store.lock_persons(connection, touched)
                await hold_disclosures(connection, accounts)
            for lift in (False, True):
                chosen = [
                    (item, one, tokens)
                    for item, one, tokens in zip(call.items, read, found, strict=True)
                    if item.lift == lift and isinstance(one, _Address)
                ]
                hashes = [
                    (
                        one.account_id,
                        accounts[one.account_id].suppression_of(one.tool, one.normal),
                        one.tool,
                        item.reason,
                    )
                    for item, one, _ in chosen
                ]
                if hashes:
                    await (store.lift_suppressions if lift else store.suppress)(connection, hashes)
                marks = {(token, one.account_id, one.tool) for _, one, tokens in chosen for token in tokens}
                stored += await self._mark(connection, sorted(marks), lift=lift)
                events = [
                    _event("", account_id, "suppression", tool=tool, in_force=not lift, opt_out=hashed, reason=reason)
                    for account_id, hashed, tool, reason in hashes
                ]
                stored += await store.add_to_outbox(connection, [encode(event) for event in events])
            answered = sum(isinstance(one, _Address) for one in read)
            await store.log_access(connection, access, answered=answered, touched=touched)
        self._relay.committed(stored)
        return [
            DoneAnswer(problem=item_problem(one)) if isinstance(one, Refusal) else DoneAnswer(tokens=tokens)
            for one, tokens in zip(read, found, strict=True)
        ]

    async def _mark(
        self, connection: Connection, marks: Sequence[tuple[str, str, str]], *, lift: bool
    ) -> list[StoredRecord]:
        bits = [(token, FLAG_OF_TOOL[tool] * (not lift), FLAG_OF_TOOL[tool] * lift) for token, _, tool in marks]
        await store.flag_persons(connection, bits)
        events = [_event(token, account, "suppression", tool=tool, in_force=not lift) for token, account, tool in marks]
        return await store.add_to_outbox(connection, [encode(event) for event in events])


async def _known(connection: Connection, persons: Sequence[PersonItem], found: Sequence[list[str]]) -> dict[str, str]:
    """Return the accounts of the persons that exist, by token; take out of `found` those of another account."""
    tokens = sorted({token for tokens in found for token in tokens})
    known = dict(await store.lock_persons(connection, tokens)) if tokens else {}
    for person, some in zip(persons, found, strict=True):
        some[:] = [token for token in some if known.get(token) == person.account_id]
    return {token: known[token] for some in found for token in some}


def _done(tokens: Sequence[str], known: dict[str, str]) -> DoneAnswer:
    there = [token for token in tokens if token in known]
    return DoneAnswer(tokens=there) if there else _UNKNOWN


def _times(item: BasisItem) -> tuple[datetime, datetime | None] | Refusal:
    try:
        given = parse_rfc3339(item.given_at).astimezone(UTC)
        expires = None if item.expires_at is None else parse_rfc3339(item.expires_at).astimezone(UTC)
    except (ValueError, OverflowError):
        detail = "given_at, expires_at: a time of RFC 3339 with its zone, such as 2026-01-31T09:30:00Z"
        return Refusal(422, "invalid-field", detail, {"field": "given_at"})
    if item.kind == "consent" and not item.attested and item.text_digest is None:
        detail = "text_digest: a consent needs the text that was agreed to, or the account attests it"
        return Refusal(422, "invalid-field", detail, {"field": "text_digest"})
    return given, expires


def _new_basis(item: BasisItem, token: str, moments: tuple[datetime, datetime | None], caller: str) -> store.NewBasis:
    given, expires = moments
    return store.NewBasis(
        item.person.account_id,
        token,
        item.purpose,
        item.kind,
        item.attested,
        item.text_digest,
        item.language,
        item.source,
        given,
        expires,
        caller,
    )


def _read(item: SuppressItem) -> _Address | Refusal:
    if item.tool == "email":
        formed = mail_address(item.address or "")
        return formed if isinstance(formed, Refusal) else _Address(item.account_id, "email", normal_address(formed))
    formed = phone_number(item.phone or "")
    return formed if isinstance(formed, Refusal) else _Address(item.account_id, "telephony", formed)


async def _persons_with(
    connection: Connection, read: Sequence[_Address | Refusal], accounts: Mapping[str, AccountKeys]
) -> list[list[str]]:
    """Return the tokens of all persons, of whatever kind, that have each address."""
    wanted: list[tuple[str, bytes, bytes | None]] = []
    places: list[int] = []
    for place, one in enumerate(read):
        if isinstance(one, Refusal):
            continue
        forms = normal_addresses(one.normal) if one.tool == "email" else [one.normal]
        for kind, form in product(KINDS, forms):
            index = accounts[one.account_id].index_of(kind, _FIELD_OF_TOOL[one.tool], form)
            wanted.append((one.account_id, index, index if one.tool == "telephony" else None))
            places.append(place)
    found: list[list[str]] = [[] for _ in read]
    for number, token in await store.find_tokens(connection, wanted) if wanted else ():
        found[places[number]].append(token)
    return found


def _event(
    token: str,
    account_id: str,
    kind: str,
    *,
    purpose: str | None = None,
    tool: str | None = None,
    in_force: bool = True,
    basis: str | None = None,
    opt_out: bytes | None = None,
    reason: str | None = None,
) -> WithdrawalRecorded:
    return WithdrawalRecorded.model_validate(
        {
            "withdrawal_id": new_id(),
            "recipient_token": token,
            "account_id": account_id,
            "kind": kind,
            "purpose": purpose,
            "tool": tool,
            "in_force": in_force,
            "recorded_at": rfc3339(now()),
            "basis": basis,
            "opt_out_hash": None if opt_out is None else opt_out.hex(),
            "reason": reason,
        }
    )
