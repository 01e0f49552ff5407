"""Erasure: told to the ledger outside the database first, then gone in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from common.contracts.vault_duties import EraseAnswer, EraseCall
from common.events.envelope import encode
from common.events.vault import ErasureRecorded
from common.times import now, parse_rfc3339, rfc3339
from vault import store
from vault.domain import ERASED, UNKNOWN_RECIPIENT
from vault.errors import item_problem
from vault.finding import find_tokens
from vault.scope import EVERY_ACCOUNT, hold_disclosures, scoped
from vault.store import Erasure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from common.kafka.records import Record
    from common.postgres.pool import Connection, Pool
    from vault.domain import Access
    from vault.keyring import Keyring

_AT_ONCE = 1000


class RecordPublisher(Protocol):
    """Kafka, as far as erasure needs it."""

    async def publish(self, records: Sequence[Record], /) -> None:
        """Write all records and wait for the acknowledgement, or raise."""


class Eraser:
    """Erases persons by token or address; the batch's work behind `POST /v1/erase:batch`."""

    def __init__(self, publisher: RecordPublisher) -> None:
        self._publisher = publisher

    async def erase(self, call: EraseCall, access: Access, pool: Pool, keyring: Keyring) -> list[EraseAnswer]:
        """Answer each item with the tokens erased; from the answer on they are 410 everywhere.

        The event goes out before the transaction ends: should the database be lost in between, or put back to earlier,
        the restore gate finds the erasure in Kafka and repeats it.
        """
        account_ids = {item.account_id for item in call.items}
        wanted = await find_tokens(call.items, pool, keyring)
        tokens = sorted({token for found in wanted for token in found})
        moment = now()
        async with scoped(pool, account_ids) as connection:
            held = await store.lock_persons(connection, tokens) if tokens else {}
            for item, some in zip(call.items, wanted, strict=True):  # a token of another account of the call is nobody
                some[:] = [token for token in some if held.get(token, item.account_id) == item.account_id]
            persons = {token: held[token] for some in wanted for token in some if token in held}
            await self.erase_locked(connection, persons, call.reason, access.caller, moment=moment)
            gone = await store.erased_tokens(connection, [token for token in tokens if token not in persons])
            await store.log_access(connection, access, answered=sum(map(bool, wanted)), touched=sorted(persons))
        when = rfc3339(moment)
        return [_answer(found, set(persons), gone, when) for found in wanted]

    async def erase_locked(
        self,
        connection: Connection,
        persons: Mapping[str, str],
        reason: str,
        caller: str,
        *,
        moment: datetime | None = None,
    ) -> None:
        """Erase persons that this transaction holds, accounts by token; Kafka has the events before it ends.

        The epoch is the newest while keys are held: no older copy of theirs was made in a later one.
        """
        if not persons:
            return
        at = moment or now()
        epoch, _ = await store.epoch_age(connection)
        while True:
            erasures = [Erasure(token, account, at, reason, caller, epoch) for token, account in persons.items()]
            await self._publisher.publish([encode(_event(one)) for one in erasures])
            await store.hold_keys(connection)
            newest, _ = await store.epoch_age(connection)
            if newest == epoch:
                break
            epoch = newest  # it began while Kafka was waited for, and keys may have moved to it
        await _erase(connection, erasures)


async def _erase(connection: Connection, erasures: Sequence[Erasure]) -> set[str]:
    """Erase persons that are held with their keys, with a task for each provider that was told of one until now."""
    await hold_disclosures(connection, {one.account_id for one in erasures})
    return await store.erase_persons(connection, erasures)


def _answer(found: Sequence[str], erased: set[str], gone: set[str], when: str) -> EraseAnswer:
    now_erased = [token for token in found if token in erased]
    if now_erased:
        return EraseAnswer(tokens=now_erased, erased_at=when)
    return EraseAnswer(problem=item_problem(ERASED if any(token in gone for token in found) else UNKNOWN_RECIPIENT))


def _event(erasure: Erasure) -> ErasureRecorded:
    return ErasureRecorded(
        recipient_token=erasure.token,
        account_id=erasure.account_id,
        erased_at=rfc3339(erasure.erased_at),
        reason=erasure.reason,
        asked_by=erasure.asked_by,
        epoch=erasure.epoch,
    )


async def replay(events: Sequence[ErasureRecorded], pool: Pool) -> int:
    """Repeat erasures that this database does not know, as after a restore; return how many there were."""
    repeated = 0
    for start in range(0, len(events), _AT_ONCE):
        erasures = {
            event.recipient_token: Erasure(
                event.recipient_token,
                event.account_id,
                parse_rfc3339(event.erased_at),
                event.reason,
                event.asked_by,
                event.epoch,
            )
            for event in events[start : start + _AT_ONCE]
        }
        async with scoped(pool, EVERY_ACCOUNT) as connection:
            known = await store.erased_tokens(connection, list(erasures))
            missing = [one for token, one in erasures.items() if token not in known]
            if missing:
                await store.hold_persons(connection, [one.token for one in missing])
                repeated += len(await _erase(connection, missing))
    return repeated
