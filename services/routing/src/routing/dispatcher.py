"""The dispatcher: leased deliveries are disclosed, begun, called and settled, each step in batches.

At most 96 attempts are begun ahead of the point of no return of their calls, and at most `attempts_open_max` are begun
and not yet settled. The journal tells after a kill which of them were calls.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from common.http.vault import VaultRefusedError
from common.kafka.consumer import RETRYABLE
from common.telemetry.measuring import Measures
from common.telemetry.metrics import HANDOVER_DURATION
from common.telemetry.tracing import OFF
from routing import store
from routing.disclosure import Lost, Ready, Withheld, disclose
from routing.domain import AttemptResult, DeliveryState, Outcome, stop
from routing.loops import new_loops
from routing.receipts import store_changes
from routing.settlement import OUTCOMES_MAX, Called, SealedReply

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from datetime import datetime

    from common.http.vault import VaultClient
    from common.loops import Loops
    from common.outbox import OutboxRelay, StoredRecord
    from common.postgres.pool import Pool
    from common.security.signing import Signer
    from common.telemetry.measuring import Durations
    from common.telemetry.tracing import Attributes, Tracer
    from routing.domain import Change, Delivery
    from routing.journal import Entry, Journal
    from routing.leases import Leased, Leases
    from routing.providers import Provider
    from routing.settlement import Settlement

# So much is disclosed at once and waits: half of it where some became stale, a little more with each batch begun.
READY_MAX = 250
READY_MIN = 16
READY_GROWTH = 2
AHEAD_MAX = 96
STALE_PAUSE_SECONDS = 0.05
WITHHELD_PAUSE_SECONDS = 30.0
_SETTLING_SECONDS = 2.0

_NOT_CALLED = Outcome(AttemptResult.UNREACHED, "the worker stopped before the call")

# A batch that waits for room is in hand meanwhile: a rebalance would wait for it.
_ROOM_WAITS_MAX = 4

log = logging.getLogger(__name__)


class Begun:
    """An attempt that is begun: `ahead` while nothing that the provider could accept has been written."""

    __slots__ = ("_freed", "ahead", "entry", "number", "ready")

    def __init__(self, ready: Ready, number: int, entry: Entry, freed: Callable[[], None]) -> None:
        self.ready = ready
        self.number = number
        self.entry = entry
        self.ahead = True
        self._freed = freed

    def beyond(self) -> None:
        """The call comes to its point of no return."""
        self.entry.beyond()
        self.done_ahead()

    def done_ahead(self) -> None:
        """The attempt is no longer ahead of its call."""
        if self.ahead:
            self.ahead = False
            self._freed()


@dataclass(slots=True)
class Dispatcher:
    """Carries leased deliveries to the provider and their outcomes back."""

    pool: Pool
    vault: VaultClient
    provider: Provider
    signer: Signer
    relay: OutboxRelay
    settlement: Settlement
    journal: Journal
    leases: Leases
    standings_are_fresh: Callable[[], bool]
    in_memory_max: int
    attempts_open_max: int
    cycle_seconds: float
    now: Callable[[], datetime]
    stop_seconds: float = 12.0
    tracer: Tracer = OFF
    measures: Measures = field(default_factory=Measures)
    attempts_open: int = 0
    attempts_ahead: int = 0
    _undisclosed: deque[Leased] = field(default_factory=deque)
    _ready: deque[Ready] = field(default_factory=deque)
    _wake_prepare: asyncio.Event = field(default_factory=asyncio.Event)
    _wake_begin: asyncio.Event = field(default_factory=asyncio.Event)
    _room: asyncio.Event = field(default_factory=asyncio.Event)
    _loops: Loops = field(default_factory=new_loops)
    _settling: Loops = field(default_factory=new_loops)
    _begun: asyncio.Queue[Begun] = field(default_factory=asyncio.Queue)
    _senders: list[asyncio.Task[None]] = field(default_factory=list)
    _calling: int = 0
    _ready_max: int = READY_MAX
    _handover_durations: Durations = field(init=False)

    def __post_init__(self) -> None:
        self._handover_durations = self.measures.durations(HANDOVER_DURATION)

    def start(self, *, renew: bool = True) -> None:
        """Begin dispatching in the background; leases that are not renewed end by themselves."""
        self.settlement.settled = self._settled
        self.settlement.enough = max(1, min(OUTCOMES_MAX, self.attempts_open_max // 2))
        self._loops.run("disclosure", self._prepare)
        self._loops.run("begin", self._begin)
        if renew:
            self._loops.run("lease renewal", self._renew, every_seconds=self.leases.lease_seconds / 8)
        self._settling.run("settlement", self.settlement.step)
        self._senders += [asyncio.create_task(self._send()) for _ in range(self.provider.calls_at_once)]

    async def stop(self) -> None:
        """Begin no more, wait for the calls under way and their outcomes, give the other leases back."""
        await self._loops.stop()
        ends = time.monotonic() + self.stop_seconds
        await _until(lambda: not self._calling and self._begun.empty(), ends - _SETTLING_SECONDS)
        while not self._begun.empty():
            self._done(self._begun.get_nowait(), _NOT_CALLED, None, at_once=True)
        await _until(lambda: not self._calling and not self.settlement.pending, ends)
        await self._settling.stop()
        for sender in self._senders:
            sender.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)
        try:
            await store.release_leases(self.pool, self.leases.epochs())
        except RETRYABLE:
            log.warning("leases could not be given back; they end by themselves")

    def take(self, leased: Iterable[Leased]) -> None:
        """Take over leases that were just committed."""
        for one in leased:
            self.leases.hold(one)
            self._undisclosed.append(one)
        self._wake_prepare.set()

    @property
    def room(self) -> int:
        """How many more leases fit into memory."""
        return max(0, self.in_memory_max - len(self.leases))

    async def oldest_seconds(self) -> float:
        """Return for how long the oldest delivery that is due has waited, leased or not."""
        return max(self.leases.oldest_seconds(), await store.oldest_due_seconds(self.pool))

    async def wait_for_room(self, deliveries: int, seconds: float) -> bool:
        """Wait until that many leases fit into memory; False when none has gone for `seconds`, or it takes too long."""
        ends = time.monotonic() + _ROOM_WAITS_MAX * seconds
        while self.room < min(deliveries, self.in_memory_max):
            self._room.clear()
            try:
                async with asyncio.timeout(min(seconds, ends - time.monotonic())):
                    await self._room.wait()
            except TimeoutError:
                return False
        return True

    async def _prepare(self) -> None:
        """Disclose a batch of leased deliveries."""
        if not self._undisclosed:
            self._wake_prepare.clear()
            await self._wake_prepare.wait()
        if len(self._ready) >= self._ready_max:
            await asyncio.sleep(self.cycle_seconds)
            return
        if not self.standings_are_fresh():
            await asyncio.sleep(STALE_PAUSE_SECONDS)
            return
        batch = [self._undisclosed.popleft() for _ in range(min(len(self._undisclosed), self._ready_max))]
        held = [leased for leased in batch if self.leases.holds(leased)]
        try:
            with self.tracer.carry(leased.traceparent for leased in held):
                answers = await disclose(self.vault, self.provider, held) if held else []
        except Exception:
            self._undisclosed.extendleft(reversed(held))
            raise
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
        """Begin attempts for disclosed deliveries, once there is room for a fair number of them."""
        if not self._ready or self._room_to_begin < min(len(self._ready), self._begin_at_least):
            self._wake_begin.clear()
            await self._wake_begin.wait()
            return
        if not self.standings_are_fresh():
            await asyncio.sleep(STALE_PAUSE_SECONDS)
            return
        if batch := self._next_ready():
            await _to_its_end(self._begin_batch(batch))

    async def _begin_batch(self, batch: Sequence[Ready]) -> None:
        """Open attempts, each with its entry in the journal first, and pass them to the senders."""
        entries = [self.journal.begin(one.leased.message_id, one.leased.epoch) for one in batch]
        try:
            numbers = await store.begin_attempts(self.pool, _wanted(batch), self.provider.name)
        except RETRYABLE:
            await self._after_lost_begin(batch, entries)
            return
        except Exception:
            for one, entry in zip(batch, entries, strict=True):
                entry.free()
                self._drop(one.leased)
            raise
        self.attempts_open += len(numbers)
        self.attempts_ahead += len(numbers)
        refused = []
        for one, entry in zip(batch, entries, strict=True):
            if (number := numbers.get(one.leased.message_id)) is not None:
                one.leased.calling = True
                self._begun.put_nowait(Begun(one, number, entry, self._one_less_ahead))
            else:
                entry.free()
                refused.append(one.leased)
        if refused:
            await self._stop(refused, None)

    @property
    def _room_to_begin(self) -> int:
        return min(AHEAD_MAX - self.attempts_ahead, self.attempts_open_max - self.attempts_open)

    @property
    def _begin_at_least(self) -> int:
        """What may be ahead less one slow call a connection: batches are large, and no call keeps others waiting."""
        unless_slow = max(AHEAD_MAX - self.provider.calls_at_once, AHEAD_MAX // 2)
        return max(1, min(unless_slow, self.attempts_open_max // 2))

    def _one_less_ahead(self) -> None:
        self.attempts_ahead -= 1
        if self._room_to_begin >= self._begin_at_least:
            self._wake_begin.set()

    def _next_ready(self) -> list[Ready]:
        """Return what is begun now. What is stale is disclosed again, and less is disclosed ahead for a while."""
        free = self._room_to_begin
        batch: list[Ready] = []
        stale: list[Leased] = []
        while self._ready and len(batch) < free:
            one = self._ready.popleft()
            if not self.leases.holds(one.leased) or time.monotonic() >= one.leased.deadline:
                self._drop(one.leased)
            elif one.is_stale:
                stale.append(one.leased)
            else:
                batch.append(one)
        if stale:
            self._undisclosed.extendleft(reversed(stale))
            self._wake_prepare.set()
            self._ready_max = max(READY_MIN, self._ready_max // 2)
        else:
            self._ready_max = min(READY_MAX, self._ready_max + READY_GROWTH)
        return batch

    async def _after_lost_begin(self, batch: Sequence[Ready], entries: Sequence[Entry]) -> None:
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
        for one, entry in zip(batch, entries, strict=True):
            if (attempt := opened.get(one.leased.message_id)) is not None:
                self.attempts_open += 1
                self.settlement.add(Called(one.leased.message_id, attempt[0], lost, leased=one.leased, entry=entry))
            else:
                entry.free()
                self._ready.appendleft(one)

    async def _send(self) -> None:
        """Make one call after another."""
        while True:
            begun = await self._begun.get()
            self._calling += 1
            try:
                await self._call(begun)
            finally:
                self._calling -= 1

    async def _call(self, begun: Begun) -> None:
        if why_not := await self._why_not_call(begun):
            self._done(begun, Outcome(AttemptResult.UNREACHED, why_not), None, at_once=True)
            return
        leased, mail = begun.ready.leased, begun.ready.mail
        started = time.monotonic()
        named: Attributes = {"waystation.provider": self.provider.name, "waystation.attempt": begun.number}
        span = self.tracer.follow(leased.traceparent, f"hand over {self.provider.name}", attributes=named)
        try:
            outcome = await self.provider.hand_over(
                leased.instruction, leased.verdict, mail, deadline=lambda: leased.deadline, beyond=begun.beyond
            )
        except Exception as error:
            log.exception("the adapter of %s failed", self.provider.name)
            outcome = Outcome(AttemptResult.DOUBT, f"adapter: {type(error).__name__}")
        result, seconds = str(outcome.result), time.monotonic() - started
        self._handover_durations.record(seconds, self.provider.name, result)
        if span is not None:
            span.end(None if outcome.result is AttemptResult.ACCEPTED else result, {"waystation.result": result})
            leased.traceparent = span.traceparent
        self._done(begun, outcome, SealedReply.of(outcome, leased.message_id, begun.number, mail.message_key))

    async def _why_not_call(self, begun: Begun) -> str | None:
        """Look at what may have changed since the attempt began; the vault is asked again where it waited too long."""
        leased = begun.ready.leased
        if leased.instruction.instruction.not_after <= self.now():
            return "the validity window ended before the call"
        if not begun.ready.is_stale:
            return None
        try:
            (answer,) = await disclose(self.vault, self.provider, [leased])
        except (*RETRYABLE, VaultRefusedError):
            return "the vault could not be asked again before the call"
        except Exception:
            log.exception("what the vault said before a call could not be used")
            return "the vault's answer before the call could not be used"
        if not isinstance(answer, Ready):
            return "the vault disclosed no more before the call"
        begun.ready = answer
        return None

    def _done(self, begun: Begun, outcome: Outcome, reply: SealedReply | None, *, at_once: bool = False) -> None:
        begun.entry.known(begun.number, outcome, reply)
        begun.done_ahead()
        leased = begun.ready.leased
        self.settlement.add(Called(leased.message_id, begun.number, outcome, reply, leased, begun.entry, at_once))

    def _settled(self, batch: Sequence[Called]) -> None:
        self.attempts_open -= len(batch)
        for called in batch:
            if called.entry is not None:
                called.entry.free()
            if called.leased is not None:
                self._drop(called.leased)
        if self._room_to_begin >= self._begin_at_least:
            self._wake_begin.set()

    async def _stop(
        self, leased: Sequence[Leased], decide: Callable[[Delivery], tuple[DeliveryState, str]] | None
    ) -> None:
        """End or hold deliveries that are still leased by us, by a decision or by screening, standing and window.

        Their leases are given up even when that fails: they end soon, and the deliveries are claimed again.
        """
        try:
            stored = await self._write_stops(leased, decide)
        finally:
            for one in leased:
                self._drop(one)
        self.relay.committed(stored)

    async def _write_stops(
        self, leased: Sequence[Leased], decide: Callable[[Delivery], tuple[DeliveryState, str]] | None
    ) -> list[StoredRecord]:
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
            blocked = await store.blocked_by_revision(connection, [delivery.message_id for delivery in mine])
            results = await store.attempt_results(connection, [delivery.message_id for delivery in mine])
            changes: list[Change] = []
            for delivery in mine:
                state, reason = decide(delivery) if decide else _why_not(delivery, blocked, standings, now)
                due_at = now + timedelta(seconds=WITHHELD_PAUSE_SECONDS if decide else 0)
                past = list(results.get(delivery.message_id, {}).values())
                if AttemptResult.OPEN not in past:
                    changes.append(stop(delivery, past, state, reason, due_at))
            return await store_changes(connection, self.signer, changes, now)

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


async def _to_its_end(step: Coroutine[None, None, None]) -> None:
    """Let a step end before its loop does: what it has begun is then known."""
    task = asyncio.create_task(step)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=_SETTLING_SECONDS)
        task.cancel()
        raise


async def _until(at_rest: Callable[[], bool], ends: float) -> None:
    while not at_rest() and time.monotonic() < ends:  # noqa: ASYNC110  the last seconds of a process
        await asyncio.sleep(0.02)


def _wanted(batch: Sequence[Ready]) -> list[tuple[str, int, str]]:
    return sorted((one.leased.message_id, one.leased.epoch, one.leased.account_id) for one in batch)


def _why_not(
    delivery: Delivery, blocked: dict[str, str], standings: dict[str, str], now: datetime
) -> tuple[DeliveryState, str]:
    if delivery.message_id in blocked:
        return DeliveryState.REFUSED, blocked[delivery.message_id]
    standing = standings.get(delivery.account_id, "good")
    if standing == "blocked":
        return DeliveryState.WITHHELD, "standing: blocked"
    if delivery.not_after <= now:
        return DeliveryState.EXPIRED, "the validity window ended"
    if standing == "suspended":
        return DeliveryState.HELD, "standing: suspended"
    return DeliveryState.PLANNED, "the standing changed while the attempt began"
