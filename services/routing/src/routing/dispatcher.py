"""The dispatcher: leased deliveries are disclosed, begun, called and settled, each step in batches.

At most `attempts_open_max` attempts are begun and not yet settled at any moment: a kill leaves no more in doubt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from common.kafka.consumer import RETRYABLE
from routing import store
from routing.disclosure import Lost, Ready, Withheld, disclose
from routing.domain import AttemptResult, DeliveryState, Outcome, stop
from routing.loops import Loops
from routing.receipts import store_changes
from routing.settlement import Called, SealedReply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from common.http.vault import VaultClient
    from common.outbox import OutboxRelay
    from common.postgres.pool import Pool
    from common.security.signing import Signer
    from routing.domain import Change, Delivery
    from routing.leases import Leased, Leases
    from routing.providers import Provider
    from routing.settlement import Settlement

DISCLOSED_AT_ONCE_MAX = 250
READY_MAX = 250
STALE_PAUSE_SECONDS = 0.05
WITHHELD_PAUSE_SECONDS = 30.0
_STOP_SECONDS = 12.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Dispatcher:
    """Carries leased deliveries to the provider and their outcomes back."""

    pool: Pool
    vault: VaultClient
    provider: Provider
    signer: Signer
    relay: OutboxRelay
    settlement: Settlement
    leases: Leases
    standings_are_fresh: Callable[[], bool]
    in_memory_max: int
    attempts_open_max: int
    cycle_seconds: float
    now: Callable[[], datetime]
    attempts_open: int = 0
    _fresh: deque[Leased] = field(default_factory=deque)
    _ready: deque[Ready] = field(default_factory=deque)
    _wake_prepare: asyncio.Event = field(default_factory=asyncio.Event)
    _wake_begin: asyncio.Event = field(default_factory=asyncio.Event)
    _room: asyncio.Event = field(default_factory=asyncio.Event)
    _loops: Loops = field(default_factory=Loops)
    _settling: Loops = field(default_factory=Loops)
    _calls: set[asyncio.Task[None]] = field(default_factory=set)

    def start(self, *, renew: bool = True) -> None:
        """Begin dispatching in the background; leases that are not renewed end by themselves."""
        self.settlement.settled = self._settled
        self._loops.run("disclosure", self._prepare)
        self._loops.run("begin", self._begin)
        if renew:
            self._loops.run("lease renewal", self._renew, every_seconds=self.leases.lease_seconds / 4)
        self._settling.run("settlement", self.settlement.step)

    async def stop(self) -> None:
        """Begin no more, wait for the calls under way and their outcomes, give the other leases back."""
        await self._loops.stop()
        ends = time.monotonic() + _STOP_SECONDS
        while self._calls and time.monotonic() < ends:
            await asyncio.wait(self._calls, timeout=ends - time.monotonic())
        while self.settlement.pending and time.monotonic() < ends:  # noqa: ASYNC110  the last second of a process
            await asyncio.sleep(0.02)
        await self._settling.stop()
        for call in self._calls:
            call.cancel()
        try:
            await store.release_leases(self.pool, self.leases.epochs())
        except RETRYABLE:
            log.warning("leases could not be given back; they end by themselves")

    def take(self, leased: Iterable[Leased]) -> None:
        """Take over leases that were just committed."""
        for one in leased:
            self.leases.hold(one)
            self._fresh.append(one)
        self._wake_prepare.set()

    @property
    def room(self) -> int:
        """How many more leases fit into memory."""
        return max(0, self.in_memory_max - len(self.leases))

    async def wait_for_room(self, deliveries: int, seconds: float) -> bool:
        """Wait until that many leases fit into memory; False when they do not in time."""
        try:
            async with asyncio.timeout(seconds):
                while self.room < min(deliveries, self.in_memory_max):
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            return False
        return True

    async def _prepare(self) -> None:
        """Disclose a batch of leased deliveries."""
        if not self._fresh:
            self._wake_prepare.clear()
            await self._wake_prepare.wait()
            await asyncio.sleep(self.cycle_seconds)
        if len(self._ready) >= READY_MAX:
            await asyncio.sleep(self.cycle_seconds)
            return
        batch = [self._fresh[place] for place in range(min(len(self._fresh), DISCLOSED_AT_ONCE_MAX))]
        held = [leased for leased in batch if self.leases.holds(leased)]
        answers = await disclose(self.vault, self.provider, held) if held else []
        for _ in batch:
            self._fresh.popleft()
        self._ready.extend(answer for answer in answers if isinstance(answer, Ready))
        self._wake_begin.set()
        for answer in answers:
            if isinstance(answer, Lost):
                self._drop(answer.leased)
        await self._withhold([answer for answer in answers if isinstance(answer, Withheld)])

    async def _withhold(self, withheld: Sequence[Withheld]) -> None:
        if withheld:
            wanted = {one.leased.message_id: (one.state, one.reason) for one in withheld}
            await self._stop([one.leased for one in withheld], lambda delivery: wanted[delivery.message_id])

    async def _begin(self) -> None:
        """Begin attempts for as many disclosed deliveries as slots are free, and call the provider."""
        if not self._ready or self.attempts_open >= self.attempts_open_max:
            self._wake_begin.clear()
            await self._wake_begin.wait()
            return
        if not self.standings_are_fresh():
            await asyncio.sleep(STALE_PAUSE_SECONDS)
            return
        batch = self._next_ready()
        if not batch:
            return
        try:
            numbers = await store.begin_attempts(self.pool, _wanted(batch), self.provider.name)
        except RETRYABLE:
            await self._after_lost_begin(batch)
            return
        self.attempts_open += len(numbers)
        for one in batch:
            if (number := numbers.get(one.leased.message_id)) is not None:
                one.leased.calling = True
                call = asyncio.create_task(self._call(one, number))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
        if refused := [one.leased for one in batch if one.leased.message_id not in numbers]:
            await self._stop(refused, None)

    def _next_ready(self) -> list[Ready]:
        free = self.attempts_open_max - self.attempts_open
        batch: list[Ready] = []
        while self._ready and len(batch) < free:
            one = self._ready.popleft()
            if self.leases.holds(one.leased) and time.monotonic() < one.leased.deadline:
                batch.append(one)
            else:
                self._drop(one.leased)
        return batch

    async def _after_lost_begin(self, batch: Sequence[Ready]) -> None:
        """Find out whether a begin whose answer was lost took effect: what it opened was not called, and says so."""
        held = [(one.leased.message_id, one.leased.epoch) for one in batch]
        while True:
            try:
                async with self.pool.acquire() as connection, connection.transaction():
                    await store.lock_deliveries(connection, [message_id for message_id, _ in held])
                    opened = await store.open_attempts_of(connection, held)
                break
            except RETRYABLE:
                await asyncio.sleep(0.25)
        lost = Outcome(AttemptResult.UNREACHED, "the database was lost while the attempt began")
        for one in batch:
            if (number := opened.get(one.leased.message_id)) is not None:
                self.attempts_open += 1
                self.settlement.add(Called(one.leased.message_id, number, lost, leased=one.leased))
            else:
                self._ready.appendleft(one)

    async def _call(self, ready: Ready, number: int) -> None:
        leased = ready.leased
        try:
            outcome = await self.provider.hand_over(
                leased.instruction, leased.verdict, ready.mail, deadline=leased.deadline
            )
        except Exception as error:
            log.exception("the adapter of %s failed", self.provider.name)
            outcome = Outcome(AttemptResult.DOUBT, f"adapter: {type(error).__name__}")
        reply = SealedReply.of(outcome, leased.message_id, number, ready.mail.message_key)
        self.settlement.add(Called(leased.message_id, number, outcome, reply, leased))

    def _settled(self, batch: Sequence[Called]) -> None:
        self.attempts_open -= len(batch)
        for called in batch:
            if called.leased is not None:
                self._drop(called.leased)
        self._wake_begin.set()

    async def _stop(
        self, leased: Sequence[Leased], decide: Callable[[Delivery], tuple[DeliveryState, str]] | None
    ) -> None:
        """End or hold deliveries that are still leased by us, by a decision or by standing and window."""
        now = self.now()
        async with self.pool.acquire() as connection, connection.transaction():
            locked = await store.lock_deliveries(connection, [one.message_id for one in leased])
            mine = [
                locked[one.message_id]
                for one in leased
                if one.message_id in locked
                and locked[one.message_id].state is DeliveryState.HANDING
                and locked[one.message_id].epoch == one.epoch
            ]
            standings = await store.standings_of(connection, sorted({delivery.account_id for delivery in mine}))
            results = await store.attempt_results(connection, [delivery.message_id for delivery in mine])
            changes: list[Change] = []
            for delivery in mine:
                state, reason = decide(delivery) if decide else _why_not(delivery, standings, now)
                due_at = now + timedelta(seconds=WITHHELD_PAUSE_SECONDS if decide else 0)
                past = list(results.get(delivery.message_id, {}).values())
                if AttemptResult.OPEN not in past:
                    changes.append(stop(delivery, past, state, reason, due_at))
            stored = await store_changes(connection, self.signer, changes, now)
        self.relay.committed(stored)
        for one in leased:
            self._drop(one)

    async def _renew(self) -> None:
        asked_at = time.monotonic()
        held = self.leases.ending(asked_at)
        if held:
            kept = await store.renew_leases(self.pool, sorted(held), self.leases.lease_seconds)
            self.leases.renewed(held, kept, asked_at)
            self._room.set()

    def _drop(self, leased: Leased) -> None:
        self.leases.drop(leased)
        self._room.set()


def _wanted(batch: Sequence[Ready]) -> list[tuple[str, int, str]]:
    return sorted((one.leased.message_id, one.leased.epoch, one.leased.account_id) for one in batch)


def _why_not(delivery: Delivery, standings: dict[str, str], now: datetime) -> tuple[DeliveryState, str]:
    standing = standings.get(delivery.account_id, "good")
    if standing == "blocked":
        return DeliveryState.WITHHELD, "standing: blocked"
    if delivery.not_after <= now:
        return DeliveryState.EXPIRED, "the validity window ended"
    if standing == "suspended":
        return DeliveryState.HELD, "standing: suspended"
    return DeliveryState.PLANNED, "the standing changed while the attempt began"
