"""Outcomes of calls, written in batches.

Attempt, delivery and receipt change in one transaction (rules outcomeByAttempt, join, lattice, outbox). An outcome that
is known is kept in memory until the database has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self

from common.security.sealing import keyed_digest, seal
from common.telemetry.measuring import Measures
from common.telemetry.metrics import ATTEMPTS, ROAD_DURATION
from common.times import rfc3339
from routing import store
from routing.domain import AttemptResult, DeliveryState, Outcome, backoff_seconds, settle
from routing.receipts import signed_records, statement, store_changes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from common.outbox import OutboxRelay, StoredRecord
    from common.postgres.pool import Connection, Pool
    from common.security.signing import Signer, Statement
    from routing.domain import Change
    from routing.journal import Entry
    from routing.leases import Leased
    from routing.receipts import Traces

OUTCOMES_MAX = 192


@dataclass(slots=True, eq=False)
class Called:
    """The outcome of one attempt, its reply sealed.

    `leased` is the lease under which this worker made the call, `entry` its slot in the journal. `at_once`: where the
    outcome lets it be tried again, that needs no pause.
    """

    message_id: str
    number: int
    outcome: Outcome
    reply: SealedReply | None = None
    leased: Leased | None = None
    entry: Entry | None = None
    at_once: bool = False


class SealedReply(NamedTuple):
    """A provider's reply under the message key, where it was kept, and its digest under the same key."""

    sealed: bytes | None
    digest: str

    @classmethod
    def of(cls, outcome: Outcome, message_id: str, number: int, message_key: bytes) -> Self | None:
        """Seal the text of the outcome's reply, if there is one."""
        if outcome.reply is None:
            return None
        text = outcome.reply.text.encode()
        sealed = seal(message_key, message_id, f"reply.{number}", text)
        return cls(sealed, keyed_digest(message_key, "reply", text))


@dataclass(slots=True)
class Settlement:
    """Collects outcomes for `cycle_seconds`, or until `enough` are known, and writes them."""

    pool: Pool
    signer: Signer
    relay: OutboxRelay
    provider: str
    retry_seconds_first: float
    cycle_seconds: float
    now: Callable[[], datetime]
    settled: Callable[[Sequence[Called]], None] = lambda _: None
    enough: int = OUTCOMES_MAX
    measures: Measures = field(default_factory=Measures)
    _outcomes: deque[Called] = field(default_factory=deque)
    _any: asyncio.Event = field(default_factory=asyncio.Event)
    _enough: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, called: Called) -> None:
        """Take over an outcome."""
        self._outcomes.append(called)
        self._any.set()
        if len(self._outcomes) >= self.enough:
            self._enough.set()

    @property
    def pending(self) -> int:
        """How many outcomes are known and not yet written."""
        return len(self._outcomes)

    async def step(self) -> None:
        """Wait for outcomes, write up to 192 of them."""
        if not self._outcomes:
            self._any.clear()
            await self._any.wait()
        if len(self._outcomes) < self.enough:
            self._enough.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.cycle_seconds):
                    await self._enough.wait()
        batch = self._batch()
        stored = await self._write(batch)
        written = set(batch)
        self._outcomes = deque(called for called in self._outcomes if called not in written)
        self.relay.committed(stored)
        self._measure(batch)
        self.settled(batch)

    def _measure(self, batch: Sequence[Called]) -> None:
        attempts, road, now = self.measures.counts(ATTEMPTS), self.measures.durations(ROAD_DURATION), self.now()
        for called in batch:
            attempts.add(1, self.provider, called.outcome.result)
            if called.outcome.result is AttemptResult.ACCEPTED and called.leased is not None:
                instruction = called.leased.instruction.instruction
                road.record((now - max(instruction.admitted_at, instruction.not_before)).total_seconds())

    def _batch(self) -> list[Called]:
        """Return at most one outcome per message."""
        batch: dict[str, Called] = {}
        for called in self._outcomes:
            if len(batch) == OUTCOMES_MAX:
                break
            batch.setdefault(called.message_id, called)
        return sorted(batch.values(), key=_message_id)

    async def _write(self, batch: Sequence[Called]) -> list[StoredRecord]:
        """Write accepted calls by one statement; all else, and what changed since its call began, under locks."""
        accepted = [called for called in batch if called.outcome.result is AttemptResult.ACCEPTED and called.leased]
        moved, stored = await self._write_accepted(accepted) if accepted else (set(), [])
        if others := [called for called in batch if called.message_id not in moved]:
            async with self.pool.acquire() as connection, connection.transaction():
                stored += await write_outcomes(connection, others, self)
        return stored

    async def _write_accepted(self, accepted: Sequence[Called]) -> tuple[set[str], list[StoredRecord]]:
        occurred_at = rfc3339(self.now())
        rows = [_accepted(called) for called in accepted]
        statements = [_handed_over(called, self.provider, occurred_at) for called in accepted]
        return await store.settle_accepted(self.pool, rows, signed_records(self.signer, statements, _traces(accepted)))


async def write_outcomes(connection: Connection, batch: Sequence[Called], how: Settlement) -> list[StoredRecord]:
    """Write outcomes of different messages in the caller's transaction; return the receipts to relay."""
    now = how.now()
    deliveries = await store.lock_deliveries(connection, [called.message_id for called in batch])
    written = await store.settle_attempts(connection, [_settled(called) for called in batch])
    results = await store.attempt_results(connection, [message_id for message_id, _ in written])
    changes: list[Change] = []
    for called in batch:
        if (called.message_id, called.number) not in written:
            continue
        change = settle(
            deliveries[called.message_id],
            list(results[called.message_id].values()),
            called.outcome,
            attempt=called.number,
            provider=how.provider,
            reply_digest=called.reply.digest if called.reply else None,
            now=now,
            wait_seconds=0.0
            if called.at_once
            else backoff_seconds(called.number, how.retry_seconds_first, random.random()),
        )
        if change is not None:
            changes.append(change)
    return await store_changes(connection, how.signer, changes, now, _traces(batch))


def _settled(called: Called) -> store.SettledAttempt:
    outcome = called.outcome
    assert outcome.result is not AttemptResult.OPEN
    code = outcome.reply.code if outcome.reply else None
    sealed = called.reply.sealed if called.reply else None
    return store.SettledAttempt(called.message_id, called.number, str(outcome.result), outcome.reason, code, sealed)


def _accepted(called: Called) -> store.AcceptedCall:
    leased, outcome = called.leased, called.outcome
    assert leased is not None
    return store.AcceptedCall(
        called.message_id,
        leased.epoch,
        leased.sequence + 1,
        called.number,
        outcome.reason,
        outcome.reply.code if outcome.reply else None,
        called.reply.sealed if called.reply else None,
    )


def _handed_over(called: Called, provider: str, occurred_at: str) -> Statement:
    """The receipt of an accepted call, if the delivery is as it was when the call began."""
    leased, outcome = called.leased, called.outcome
    assert leased is not None
    instruction = leased.instruction.instruction
    return statement(
        message_id=instruction.message_id,
        account_id=instruction.account_id,
        recipient_token=instruction.recipient_token,
        instruction_digest=leased.instruction.digest,
        content_digest=instruction.content_digest,
        sequence=leased.sequence + 1,
        state=DeliveryState.HANDED_OVER.value,
        reason=outcome.reason,
        attempt=called.number,
        provider=provider,
        reply_code=outcome.reply.code if outcome.reply else None,
        reply_digest=called.reply.digest if called.reply else None,
        occurred_at=occurred_at,
    )


def _traces(batch: Sequence[Called]) -> Traces:
    return {called.message_id: called.leased.traceparent for called in batch if called.leased is not None}


def _message_id(called: Called) -> str:
    return called.message_id
