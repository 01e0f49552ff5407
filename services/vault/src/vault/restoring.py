"""The restore gate: the vault stays closed until its database knows every erasure that Kafka knows.

The compacted topic `vault.erasures` is the erasure ledger outside the database. It is read whole at each start; what
the database does not know, because it was put back to earlier, is erased again before anything is answered. A database
that is put back under a running vault knows fewer erasures than this process has seen: then the gate closes and the
topic is read again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from common.events.vault import ErasureRecorded
from common.kafka.table import TableReader
from vault import store
from vault.erasing import replay
from vault.scope import EVERY_ACCOUNT, scoped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.kafka.settings import KafkaAccess
    from common.postgres.pool import Pool

log = logging.getLogger(__name__)


class RestoreGate:
    """Opens when the erasure ledger has been replayed to its head."""

    def __init__(self, access: KafkaAccess, pool: Pool, *, client_id: str) -> None:
        self._access = access
        self._pool = pool
        self._client_id = client_id
        self._reader = self._new_reader()
        self._seen = 0
        self._is_open = False

    def _new_reader(self) -> TableReader[ErasureRecorded]:
        return TableReader(self._access, ErasureRecorded, self._apply, client_id=f"{self._client_id}.erasures")

    def start(self) -> None:
        """Begin to read the ledger."""
        self._reader.start()

    async def stop(self) -> None:
        """Stop reading."""
        await self._reader.stop()

    def closed(self) -> str | None:
        """Return why the vault answers nothing, or None."""
        if not self._is_open and self._reader.fresh:
            self._is_open = True
            log.info("the erasure ledger is replayed: the vault opens")
        return None if self._is_open else "the erasure ledger is not replayed to its end yet"

    async def look(self) -> None:
        """Close when the database knows fewer erasures than it did, and read the ledger again."""
        async with scoped(self._pool, EVERY_ACCOUNT) as connection:
            known = await store.erasure_count(connection)
        if known < self._seen:
            log.error("the database was put back to earlier: the vault is closed until erasures are repeated")
            self._is_open = False
            await self._reader.stop()
            self._reader = self._new_reader()
            self._reader.start()
        self._seen = known

    async def _apply(self, events: Sequence[ErasureRecorded]) -> None:
        repeated = await replay(events, self._pool)
        if repeated:
            log.warning("%d erasures were repeated: the database did not know them", repeated)
