"""Outcomes of calls, written in batches.

Attempt, delivery and receipt change in one transaction (rules outcomeByAttempt, join, lattice, outbox). An outcome that
is known is kept in memory until the database has it.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from common.security.sealing import keyed_digest, seal
from routing import store
from routing.domain import AttemptResult, Outcome, backoff_seconds, settle
from routing.receipts import store_changes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from common.outbox import OutboxRelay, StoredRecord
    from common.postgres.pool import Connection, Pool
    from common.security.signing import Signer
    from routing.domain import Change
    from routing.leases import Leased

OUTCOMES_MAX = 64


@dataclass(frozen=True, slots=True)
class Called:
    """The outcome of one attempt. Without a message key (nothing was disclosed) there is no reply to keep."""

    message_id: str
    number: int
    outcome: Outcome
    message_key: bytes | None = None
    leased: Leased | None = None


@dataclass(slots=True)
class Settlement:
    """Collects outcomes and writes them."""

    pool: Pool
    signer: Signer
    relay: OutboxRelay
    provider: str
    retry_seconds_first: float
    cycle_seconds: float
    now: Callable[[], datetime]
    settled: Callable[[Sequence[Called]], None] = lambda _: None
    _outcomes: deque[Called] = field(default_factory=deque)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, called: Called) -> None:
        """Take over an outcome."""
        self._outcomes.append(called)
        self._wake.set()

    @property
    def pending(self) -> int:
        """How many outcomes are known and not yet written."""
        return len(self._outcomes)

    async def step(self) -> None:
        """Wait for outcomes, write up to 64 of them."""
        if not self._outcomes:
            self._wake.clear()
            await self._wake.wait()
            if len(self._outcomes) < OUTCOMES_MAX // 2:
                await asyncio.sleep(self.cycle_seconds)
        batch = self._batch()
        stored = await self._write(batch)
        for called in batch:
            self._outcomes.remove(called)
        self.relay.committed(stored)
        self.settled(batch)

    def _batch(self) -> list[Called]:
        """Return at most one outcome per message."""
        batch: dict[str, Called] = {}
        for called in self._outcomes:
            if len(batch) == OUTCOMES_MAX:
                break
            batch.setdefault(called.message_id, called)
        return list(batch.values())

    async def _write(self, batch: Sequence[Called]) -> list[StoredRecord]:
        async with self.pool.acquire() as connection, connection.transaction():
            return await write_outcomes(connection, batch, self)


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
            reply_digest=_reply_digest(called),
            now=now,
            wait_seconds=backoff_seconds(called.number, how.retry_seconds_first, random.random()),
        )
        if change is not None:
            changes.append(change)
    return await store_changes(connection, how.signer, changes, now)


def _settled(called: Called) -> store.SettledAttempt:
    outcome = called.outcome
    sealed = None
    if outcome.reply is not None and called.message_key is not None:
        part = f"reply.{called.number}"
        sealed = seal(called.message_key, called.message_id, part, outcome.reply.text.encode())
    code = outcome.reply.code if outcome.reply else None
    assert outcome.result is not AttemptResult.OPEN
    return store.SettledAttempt(called.message_id, called.number, str(outcome.result), outcome.reason, code, sealed)


def _reply_digest(called: Called) -> str | None:
    if called.outcome.reply is None or called.message_key is None:
        return None
    return keyed_digest(called.message_key, "reply", called.outcome.reply.text.encode())
