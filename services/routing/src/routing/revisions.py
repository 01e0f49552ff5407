"""Later words on verdicts: what a person released goes on its way, what was found bad is refused where it still can be.

A revision travels behind its verdict on the same partition, so its delivery is known here as a rule; one that comes
first waits for it. The signed words are kept: what screening held is handed over only with one that says `allow`
(`Claims`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import orjson

from common.events.screening import VerdictRevised, verified_revision
from common.ids import claimed_id
from common.kafka.replay import replay
from common.security.signing import SignatureError
from routing import store
from routing.domain import HELD_BY_SCREENING, revise
from routing.receipts import store_changes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from common.events.screening import VerdictRevision
    from common.kafka.consumer import Received
    from common.kafka.settings import KafkaAccess
    from common.outbox import OutboxRelay
    from common.postgres.pool import Connection, Pool
    from common.security.signing import Signer, TrustedKeys
    from routing.domain import Change, Delivery

OTHER_INSTRUCTION = "revision: it is about another instruction than the one that was planned"
APPLIED_AT_ONCE_MAX = 500
_WHO = {"person": "review", "list": "a list"}


class _Heard(NamedTuple):
    """A genuine revision with the record that carried it."""

    received: Received[VerdictRevised]
    word: VerdictRevision


@dataclass(frozen=True, slots=True)
class Revisions:
    """Records revisions and moves the deliveries they are about; safe to run in every copy at once."""

    pool: Pool
    verdict_keys: TrustedKeys
    signer: Signer
    relay: OutboxRelay
    now: Callable[[], datetime]

    async def on_verdict_revised(self, batch: Sequence[Received[VerdictRevised]]) -> None:
        """Record a batch with what follows from it; a revision that comes again changes nothing."""
        newest, unauthorised = self._verify(batch)
        async with self.pool.acquire() as connection, connection.transaction():
            deliveries = await store.lock_deliveries(connection, newest)
            genuine = {}
            for message_id, heard in newest.items():
                delivery = deliveries.get(message_id)
                if delivery is None or delivery.instruction_digest == heard.word.instruction_digest:
                    genuine[message_id] = heard
                else:
                    unauthorised.append(_unauthorised(heard.received, OTHER_INSTRUCTION))
            rows = [_row(heard, planned=message_id in deliveries) for message_id, heard in genuine.items()]
            new = await store.record_revisions(connection, rows)
            words = {message_id: genuine[message_id].word for message_id in new if message_id in deliveries}
            changes = await self._changes(connection, deliveries, words)
            await store.insert_unauthorised(connection, unauthorised)
            stored = await store_changes(connection, self.signer, changes, self.now())
        self.relay.committed(stored)

    async def step(self) -> None:
        """Apply what could not be applied at once: a block during a call, a word that came before its delivery."""
        while await store.any_revision_waits(self.pool):
            now = self.now()
            async with self.pool.acquire() as connection, connection.transaction():
                waiting = await store.revised_and_waiting(connection, APPLIED_AT_ONCE_MAX)
                results = await store.attempt_results(connection, [one.message_id for one, *_ in waiting])
                moved = [
                    revise(one, list(results.get(one.message_id, {}).values()), action, reason, max(now, due_at))
                    for one, action, reason, due_at in waiting
                ]
                changes = [change for change in moved if change is not None]
                stored = await store_changes(connection, self.signer, changes, now)
                await store.settle_revisions(connection)
            self.relay.committed(stored)
            if len(waiting) < APPLIED_AT_ONCE_MAX:
                return

    async def recover(self, access: KafkaAccess, since: datetime, client_id: str) -> None:
        """Read again what was revised since then, after this database was put back."""
        await replay(access, VerdictRevised, since, self.on_verdict_revised, client_id=client_id)

    def _verify(self, batch: Sequence[Received[VerdictRevised]]) -> tuple[dict[str, _Heard], list[store.Unauthorised]]:
        """Return the newest genuine word on each message, and what is no genuine one."""
        newest: dict[str, _Heard] = {}
        unauthorised = []
        for received in batch:
            try:
                word = verified_revision(received.event.revision, self.verdict_keys)
            except SignatureError as error:
                unauthorised.append(_unauthorised(received, str(error)))
                continue
            if word.message_id not in newest or newest[word.message_id].word.revision < word.revision:
                newest[word.message_id] = _Heard(received, word)
        return newest, unauthorised

    async def _changes(
        self, connection: Connection, deliveries: Mapping[str, Delivery], words: Mapping[str, VerdictRevision]
    ) -> list[Change]:
        results = await store.attempt_results(connection, words)
        waits = await store.waits_of(connection, words)
        changes = []
        for message_id, word in words.items():
            held_for, due_at = waits[message_id]
            if word.action == "allow" and not held_for.startswith(HELD_BY_SCREENING):
                continue
            outcomes = list(results.get(message_id, {}).values())
            due_at = max(self.now(), due_at)
            if change := revise(deliveries[message_id], outcomes, word.action, reason_of(word), due_at):
                changes.append(change)
        return changes


def reason_of(word: VerdictRevision) -> str:
    """Return why a delivery moved, as receipts tell it."""
    done = "released" if word.action == "allow" else "blocked"
    clauses = f" ({', '.join(word.clauses)})" if word.clauses else ""
    return f"{HELD_BY_SCREENING}: {done} by {_WHO[word.cause]}{clauses}"


def _row(heard: _Heard, *, planned: bool) -> store.RecordedRevision:
    word, signed = heard.word, heard.received.event.revision
    text = orjson.dumps({"statement": signed.statement, "proof": signed.proof.__dict__}).decode()
    return store.RecordedRevision(
        word.message_id,
        word.instruction_digest,
        word.revision,
        word.action,
        reason_of(word),
        text,
        applied=planned and word.action == "allow",
    )


def _unauthorised(received: Received[VerdictRevised], reason: str) -> store.Unauthorised:
    record = received.record
    claimed = claimed_id(received.event.revision.statement.get("message_id"))
    return store.Unauthorised(record.topic, record.partition, record.offset, claimed, reason)
