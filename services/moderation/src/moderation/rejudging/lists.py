"""Changes of lists: what was sent with something bad is named by signed revisions, a flood waits for a person.

A change, its revisions and their events are one transaction; a change that comes again finds itself taken.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from common.events.envelope import encode
from common.events.screening import ListChange, ListChanged, VerdictRevised, VerdictRevision, verified_change
from common.security.signing import SignatureError
from common.times import rfc3339
from moderation.lists import HashLists
from moderation.rejudging import store
from moderation.rejudging.store import Carrier, Cause, Entry
from moderation.review.store import close_revised, insert_outbox, insert_revisions, lock_verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from common.kafka.consumer import Received
    from common.outbox import OutboxRelay, StoredRecord
    from common.postgres.pool import Connection, Pool
    from common.security.signing import Signer, TrustedKeys
    from moderation.screening import Screener

log = logging.getLogger(__name__)

LISTS_EVERY_SECONDS = 5.0
BATCH_SECONDS_MAX = 55.0
"""How long a batch is judged by the lists that were in force when it began; most take less than one second."""
SEARCH_AGAIN_SECONDS = LISTS_EVERY_SECONDS + BATCH_SECONDS_MAX
APPROVED_MESSAGES_MAX = 1_000_000
REVISED_AT_ONCE_MAX = 1000


@dataclass(frozen=True, slots=True)
class Rejudging:
    """Takes changes of lists; one signal may revise `flood_messages_max` messages, more wait for a person."""

    pool: Pool
    verdict_keys: TrustedKeys
    signer: Signer
    relay: OutboxRelay
    flood_messages_max: int
    now: Callable[[], datetime]

    async def on_list_changed(self, batch: Sequence[Received[ListChanged]]) -> None:
        """Take changes in their order; one that nobody here signed changes nothing."""
        for received in batch:
            try:
                change = verified_change(received.event.change, self.verdict_keys)
            except SignatureError as error:
                log.warning("a change of a list was not taken: %s", error)
                continue
            async with self.pool.acquire() as connection, connection.transaction():
                stored = await self._take(connection, change)
            self.relay.committed(stored)

    async def search_again(self) -> None:
        """Search once more for what was listed a while ago: some messages were judged by the lists of before."""
        while True:
            async with self.pool.acquire() as connection, connection.transaction():
                await store.wait_for_turn(connection)
                found = await store.next_to_search(connection, self.now())
                if found is None:
                    return
                stored = await self._search(connection, *found)
                await store.note_searched(connection, found[0])
            self.relay.committed(stored or [])

    async def publish(self, change: ListChange) -> None:
        """Sign a change and give it to Kafka; every copy's group takes it from there."""
        async with self.pool.acquire() as connection, connection.transaction():
            stored = await self.store(connection, change)
        self.relay.committed(stored)

    async def store(self, connection: Connection, change: ListChange) -> list[StoredRecord]:
        """Sign a change and store its event in the outbox."""
        (signed,) = self.signer.sign([change.statement()])
        return await insert_outbox(connection, [encode(ListChanged(change=signed))])

    async def _take(self, connection: Connection, change: ListChange) -> list[StoredRecord]:
        await store.wait_for_turn(connection)
        if not await store.insert_change(connection, change.change_id, change.list, self.now()):
            return []
        await store.remove_listed(connection, change.kind, change.remove, change.list)
        cause = Cause(change.change_id, change.approved)
        listed: list[Entry] = []
        stored: list[StoredRecord] = []
        for entry in (Entry(change.list, change.kind, added, change.clause) for added in change.add):
            revised = await self._search(connection, entry, cause)
            if revised is not None:
                listed.append(entry)
                stored += revised
        now = self.now()
        search_again_at = now + timedelta(seconds=SEARCH_AGAIN_SECONDS)
        await store.insert_listed(connection, listed, cause, now, search_again_at)
        return stored

    async def _search(self, connection: Connection, entry: Entry, cause: Cause) -> list[StoredRecord] | None:
        """Name the messages that carry an entry; None when they are too many and a person has to say so."""
        bound = APPROVED_MESSAGES_MAX if cause.approved else self.flood_messages_max
        carriers = await store.carriers_of(connection, entry, bound + 1)
        if len(carriers) <= bound:
            return await self._revise(connection, entry, carriers)
        found = store.Flood(cause.change_id, len(carriers), len({one.account_id for one in carriers}))
        await store.insert_quarantine(connection, entry, found, self.now())
        log.warning("%s hits more than %d messages: it waits for a person", entry.signal, bound)
        return None

    async def _revise(self, connection: Connection, entry: Entry, carriers: Sequence[Carrier]) -> list[StoredRecord]:
        """Name the messages that carry an entry, but those that were blocked before."""
        stored: list[StoredRecord] = []
        for start in range(0, len(carriers), REVISED_AT_ONCE_MAX):
            some = carriers[start : start + REVISED_AT_ONCE_MAX]
            await lock_verdicts(connection, [one.message_id for one in some])
            while words := await self._words(connection, entry, some, len(carriers)):
                signed = self.signer.sign([word.statement() for word in words])
                rows = [(word, one, self.now()) for word, one in zip(words, signed, strict=True)]
                new = await insert_revisions(connection, rows)
                await close_revised(connection, new, self.now())
                events = [VerdictRevised(revision=one) for word, one, _ in rows if word.message_id in new]
                stored += await insert_outbox(connection, [encode(event) for event in events])
                # A number may be lost to a copy that locks no verdicts: those messages are named by the next one.
                some = [one for one in some if one.message_id not in new]
        return stored

    async def _words(
        self, connection: Connection, entry: Entry, carriers: Sequence[Carrier], exposure: int
    ) -> list[VerdictRevision]:
        """Return the next word on each message whose newest is not a block."""
        last = await store.last_revisions(connection, [one.message_id for one in carriers])
        words = []
        for one in carriers:
            revision, action = last.get(one.message_id, (0, ""))
            if action != "block":
                words.append(_word(one, entry, revision + 1, exposure, rfc3339(self.now())))
        return words


def _word(carrier: Carrier, entry: Entry, revision: int, exposure: int, screened_at: str) -> VerdictRevision:
    return VerdictRevision(
        message_id=carrier.message_id,
        account_id=carrier.account_id,
        recipient_token=carrier.recipient_token,
        instruction_digest=carrier.instruction_digest,
        revision=revision,
        action="block",
        clauses=(entry.clause,),
        cause="list",
        case_id=None,
        signal=entry.signal,
        exposure=exposure,
        screened_at=screened_at,
    )


@dataclass(slots=True)
class ListsInForce:
    """Keeps the lists that screening looks addresses and files up in at what this service's database says."""

    pool: Pool
    screener: Screener
    version: int = 0

    async def step(self) -> None:
        """Read the lists again when they have changed."""
        version = await store.version_of_lists(self.pool)
        if version == self.version:
            return
        self.screener.lists, self.version = await lists_now(self.pool), version


async def lists_now(pool: Pool) -> HashLists:
    """Return the lists that this service's database has."""
    listed = await store.read_listed(pool)
    by_kind = {
        kind: frozenset(bytes.fromhex(entry) for of, entry in listed if of == kind) for kind in ("address", "file")
    }
    return HashLists(by_kind["address"], by_kind["file"])
