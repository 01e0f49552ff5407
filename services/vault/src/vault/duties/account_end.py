"""The end of an account (Art. 28(3)(g) GDPR): export of all its persons, then nothing of it opens any more.

Asked for, exported, confirmed: persons are erased by the erasing code, the account's keys and secrets deleted in every
epoch, then the epoch ends, so that what a backup holds of these keys opens under no key that exists. Each step may be
cut off and is taken up by asking again.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from common.contracts.vault_people import AccountCall, AccountEnd, EndCall
from common.http.problems import Problem
from common.times import now, rfc3339
from vault import store
from vault.duties import rows
from vault.duties.export import read_persons
from vault.epochs import end_epoch
from vault.scope import EVERY_ACCOUNT, scoped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from common.postgres.pool import Connection, Pool
    from vault.domain import Access
    from vault.erasing import Eraser
    from vault.keyring import Keyring

REASON = "account-end"
PERSONS_AT_ONCE = 1000
EXPORTED_AT_ONCE = 200
ENTRIES_OF_A_PERSON_MAX = 1000
_ENCODER = msgspec.json.Encoder()


class AccountEnds:
    """The work behind the calls that export and end accounts."""

    def __init__(self, eraser: Eraser) -> None:
        self._eraser = eraser

    async def ask(self, call: AccountCall, access: Access, pool: Pool, keyring: Keyring) -> AccountEnd:  # noqa: ARG002  every operation is called so
        """Begin the end: nothing changes yet; the confirmation is shown this once."""
        confirmation = secrets.token_urlsafe(16)
        async with scoped(pool, [call.account_id]) as connection:
            end = await rows.account_end(connection, call.account_id)
            if end is None and not await rows.has_account(connection, call.account_id):
                raise Problem(404, "no-such-account", "the vault has no keys of this account")
            if end is None or end["confirmed_at"] is None:
                await rows.ask_end(connection, call.account_id, access.caller, sha256(confirmation.encode()).digest())
                end = await rows.account_end(connection, call.account_id)
            else:
                confirmation = ""
            await store.log_access(connection, access, answered=1)
            assert end is not None
            return await _told(connection, end, confirmation or None)

    async def confirm(self, call: EndCall, access: Access, pool: Pool, keyring: Keyring) -> AccountEnd:
        """Erase up to the limit of persons; with the last, destroy the account's keys. Ask until it has ended."""
        async with scoped(pool, [call.account_id]) as connection:
            end = await rows.account_end(connection, call.account_id)
            _check(end, call)
            await rows.confirm_end(connection, call.account_id)
            await store.log_access(connection, access, answered=1)
        assert end is not None
        if end["ended_at"] is None and await self._erase_some(call, access, pool):
            await self._destroy(call, access, pool, keyring)
        async with scoped(pool, [call.account_id]) as connection:
            end = await rows.account_end(connection, call.account_id)
            assert end is not None
            return await _told(connection, end, None)

    async def _erase_some(self, call: EndCall, access: Access, pool: Pool) -> bool:
        """Erase persons, up to the limit; return whether none is left."""
        erased = 0
        while erased < call.limit:
            async with scoped(pool, [call.account_id]) as connection:
                wanted = min(PERSONS_AT_ONCE, call.limit - erased)
                persons = await rows.lock_some(connection, call.account_id, wanted)
                await self._eraser.erase_locked(connection, persons, REASON, access.caller)
            erased += len(persons)
            if len(persons) < wanted:
                return True
        return False

    async def _destroy(self, call: EndCall, access: Access, pool: Pool, keyring: Keyring) -> None:
        """Delete the account's keys, end the epoch, and erase whom another copy sealed meanwhile under a kept key."""
        async with scoped(pool, [call.account_id]) as connection:
            await rows.drop_account_keys(connection, call.account_id)
        keyring.forget_account(call.account_id)
        epoch = await end_epoch(pool, keyring)
        if epoch is None or not await self._erase_some(call, access, pool):
            return
        async with scoped(pool, [call.account_id]) as connection:
            await rows.finish_end(connection, call.account_id, epoch)


def _check(end: Mapping[str, Any] | None, call: EndCall) -> None:
    if end is None:
        raise Problem(404, "no-such-account", "nobody asked for the end of this account: take the first step first")
    given = sha256(call.confirmation.encode()).digest()
    if not hmac.compare_digest(given, end["confirmation"]):
        detail = "confirmation: not the one that the first step gave; take the first step again"
        raise Problem(409, "not-confirmed", detail, field="confirmation")
    if end["exported_at"] is None and end["confirmed_at"] is None and not call.without_export:
        detail = "the account was not exported since its end was asked for: export it, or say without_export"
        raise Problem(409, "not-exported", detail, field="without_export")


async def _told(connection: Connection, end: Mapping[str, Any], confirmation: str | None) -> AccountEnd:
    persons, erased = await rows.count_persons(connection, end["account_id"])
    ended_at = end["ended_at"]
    return AccountEnd(
        account_id=end["account_id"],
        state=state_of(end),
        persons=persons,
        erased=erased,
        confirmation=confirmation,
        ended_at=None if ended_at is None else rfc3339(ended_at),
    )


def state_of(end: Mapping[str, Any]) -> Any:
    """Return how far an account's end is, in a word."""
    if end["ended_at"] is not None:
        return "ended"
    if end["confirmed_at"] is not None:
        return "ending"
    return "asked" if end["exported_at"] is None else "exported"


async def export_account(call: AccountCall, access: Access, pool: Pool, keyring: Keyring) -> AsyncIterator[bytes]:
    """Yield all persons of an account, a JSON document a line, and a last line that counts them.

    Of each person the newest 1,000 disclosures are told; `more` says where an export of that person goes on.
    """
    async with scoped(pool, [call.account_id]) as connection:
        await store.log_access(connection, access, answered=1)
    began, after, persons = now(), "", 0
    while True:
        async with scoped(pool, [call.account_id]) as connection:
            tokens = await rows.tokens_of_account(connection, call.account_id, after, EXPORTED_AT_ONCE)
            found = await read_persons(
                connection, keyring, call.account_id, tokens, entries_max=ENTRIES_OF_A_PERSON_MAX
            )
        persons += len(found)
        yield b"".join(_ENCODER.encode(person) + b"\n" for person in found)
        if len(tokens) < EXPORTED_AT_ONCE:
            break
        after = tokens[-1]
    async with scoped(pool, [call.account_id]) as connection:
        await rows.mark_exported(connection, call.account_id, began)
    yield _ENCODER.encode({"account_id": call.account_id, "persons": persons, "whole": True}) + b"\n"


async def signed_state(pool: Pool, account_id: str) -> dict[str, Any] | None:
    """Return the statement of an account's end that the vault signs, or None when nobody asked for one."""
    async with scoped(pool, EVERY_ACCOUNT) as connection:
        end = await rows.account_end(connection, account_id)
        if end is None:
            return None
        _, erased = await rows.count_persons(connection, account_id)
    moments = {name: end[name] for name in ("asked_at", "exported_at", "confirmed_at", "ended_at")}
    return {
        "kind": "account-end",
        "account_id": account_id,
        "state": state_of(end),
        "persons_erased": erased,
        **{name: None if moment is None else rfc3339(moment) for name, moment in moments.items()},
        "at": rfc3339(max(moment for moment in moments.values() if moment is not None)),
    }
