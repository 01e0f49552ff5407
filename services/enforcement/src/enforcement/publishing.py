"""What is published about a standing is what holds when it is published.

The topic is compacted: of each account only the last record stays. A revision that a crash left in the outbox may be
swept after a later one was published from memory, and would then be the record that stays. So the relay's records only
say which accounts to tell about; their present revisions are read and published, by one copy at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from common.events import StandingChanged, encode
from common.times import rfc3339
from enforcement import store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.kafka.records import Record
    from common.postgres.pool import Pool
    from enforcement.domain import StandingChange


class Publishes(Protocol):
    """Writes records and returns when Kafka has them; `common.kafka.publisher.Publisher` does."""

    async def publish(self, records: Sequence[Record], /) -> None:
        """Write all records or raise."""


class LatestStandings:
    """Publishes the present standing of every account that the given records are about."""

    def __init__(self, pool: Pool, publisher: Publishes) -> None:
        self._pool = pool
        self._publisher = publisher

    async def publish(self, records: Sequence[Record]) -> None:
        """Publish one record per account; revisions on the topic never go back."""
        accounts = sorted({(record.key or b"").decode() for record in records})
        async with self._pool.acquire() as connection, connection.transaction():
            await store.lock_publishing(connection)
            present = await store.present_standings(connection, accounts)
            await self._publisher.publish([standing_record(change) for change in present])


def standing_record(change: StandingChange) -> Record:
    """Return the record of one revision."""
    return encode(
        StandingChanged(
            account_id=change.account_id,
            standing=change.standing,
            revision=change.revision,
            clause=change.clause,
            reason=change.reason,
            complaint_id=change.complaint_id,
            decided_by=change.decided_by,
            since=rfc3339(change.since),
        )
    )
