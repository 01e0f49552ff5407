"""What time and standing do to waiting deliveries.

Windows end, suspensions hold, blocks withhold, and doubts are sent again where the instruction allows it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from routing import store
from routing.domain import HELD_BY_STANDING, Change, DeliveryState, again
from routing.receipts import store_changes
from routing.stopping import Stop, stopped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from common.events.enforcement import StandingChanged
    from common.outbox import OutboxRelay
    from common.postgres.pool import Connection, Pool
    from common.security.signing import Signer

SWEPT_AT_ONCE_MAX = 500
RESENDS_MAX = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sweeps:
    """Moves waiting deliveries; safe to run in every copy at once."""

    pool: Pool
    signer: Signer
    relay: OutboxRelay
    now: Callable[[], datetime]

    async def on_standing_changed(self, events: Sequence[StandingChanged]) -> None:
        """Record standings and let them act on what waits. No attempt begins under the old one from here on."""
        if accounts := await store.record_standings(self.pool, events):
            log.info("standings of %d accounts were recorded", len(accounts))
            await self._standings()

    async def step(self) -> None:
        """Do once all sweeps that have anything to do."""
        to_sweep = await store.to_sweep(self.pool, RESENDS_MAX)
        if to_sweep.windows:
            await self._windows()
        if to_sweep.standings:
            await self._standings()
        if to_sweep.doubts:
            await self._doubts()

    async def _windows(self) -> None:
        async def expire(connection: Connection) -> list[Change]:
            deliveries = await store.ending(connection, SWEPT_AT_ONCE_MAX)
            now = self.now()
            stops = [Stop(one, DeliveryState.EXPIRED, "the validity window ended", now) for one in deliveries]
            return await stopped(connection, stops)

        await self._in_batches(expire)

    async def _standings(self) -> None:
        async def move(connection: Connection) -> list[Change]:
            rows = await store.waiting_against_standing(connection, SWEPT_AT_ONCE_MAX)
            now = self.now()
            stops = [Stop(one, *_moved_by(standing), max(now, due_at)) for one, standing, due_at in rows]
            return await stopped(connection, stops)

        await self._in_batches(move)
        for account_id in await store.put_standings_in_force(self.pool):
            log.info("the standing of account %s is in force: no call is open", account_id)

    async def _doubts(self) -> None:
        async def send_again(connection: Connection) -> list[Change]:
            deliveries = await store.resendable_doubts(connection, RESENDS_MAX, SWEPT_AT_ONCE_MAX)
            return [again(one, "in doubt; the instruction allows duplicates", self.now()) for one in deliveries]

        await self._in_batches(send_again)

    async def _in_batches(self, decide: Callable[[Connection], Awaitable[list[Change]]]) -> None:
        while True:
            async with self.pool.acquire() as connection, connection.transaction():
                changes = await decide(connection)
                stored = await store_changes(connection, self.signer, changes, self.now())
            self.relay.committed(stored)
            if len(changes) < SWEPT_AT_ONCE_MAX:
                return


def _moved_by(standing: str) -> tuple[DeliveryState, str]:
    if standing == "blocked":
        return DeliveryState.WITHHELD, f"{HELD_BY_STANDING}: blocked"
    if standing == "suspended":
        return DeliveryState.HELD, f"{HELD_BY_STANDING}: suspended"
    return DeliveryState.PLANNED, f"{HELD_BY_STANDING}: released"
