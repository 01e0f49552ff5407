"""At each start: what this database and the topic of standings know of each other.

Normally they agree. A database that was put back to a backup lacks revisions that the topic has: a new decision would
repeat an old number, and nobody would hear of it. A topic that lost its data lacks standings that hold. So the higher
revision wins, on either side, and nothing is decided before.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from common.events import StandingChanged
from common.kafka.consumer import RETRYABLE
from common.kafka.records import Record
from common.kafka.replay import replay
from enforcement import store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.kafka.consumer import Received
    from common.kafka.settings import KafkaAccess
    from common.postgres.pool import Pool
    from enforcement.publishing import LatestStandings

RETRY_SECONDS = 2.0
_BEGINNING = datetime.fromtimestamp(0, UTC)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Reconciliation:
    """Reads the topic once, and says when that is done."""

    pool: Pool
    access: KafkaAccess
    standings: LatestStandings
    client_id: str
    done: bool = False
    _task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin in the background; without Kafka complaints are taken all the same."""
        self._task = asyncio.create_task(self._run(), name="reconciliation of standings")

    async def stop(self) -> None:
        """Give up."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def check(self) -> str | None:
        """Return why no decision can be made yet."""
        return None if self.done else "the standings on Kafka have not been read yet"

    async def once(self) -> tuple[int, int]:
        """Compare once; return how many revisions were taken over and how many standings were told again."""
        told: dict[str, StandingChanged] = {}

        async def note(batch: Sequence[Received[StandingChanged]]) -> None:
            for event in (received.event for received in batch):
                if event.account_id not in told or told[event.account_id].revision < event.revision:
                    told[event.account_id] = event

        await replay(self.access, StandingChanged, _BEGINNING, note, client_id=f"{self.client_id}-standings")
        adopted = await store.adopt_standings(self.pool, list(told.values()))
        held = await store.revisions(self.pool)
        untold = [one for one, revision in held.items() if one not in told or told[one].revision < revision]
        await self.standings.publish([Record(StandingChanged.TOPIC, one.encode(), None, ()) for one in untold])
        return adopted, len(untold)

    async def _run(self) -> None:
        while not self.done:
            try:
                adopted, untold = await self.once()
            except RETRYABLE as error:
                log.warning("the standings on Kafka cannot be compared yet: %s", type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except Exception:
                log.exception("the standings on Kafka cannot be compared")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self.done = True
            if adopted or untold:
                log.warning("standings: %d revisions taken over from Kafka, %d told again", adopted, untold)
