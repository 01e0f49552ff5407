"""A person's decision: stored with the signed revision and its event in one transaction, published by the relay.

A process that dies after the commit leaves the event in the outbox; one that dies before it leaves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from common.events.envelope import encode
from common.events.screening import VerdictRevised, VerdictRevision
from common.times import rfc3339
from moderation.review import store
from moderation.review.cases import SECOND_HOURS, is_sampled

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from uuid import UUID

    from common.outbox import OutboxRelay, StoredRecord
    from common.postgres.pool import Connection, Pool
    from common.security.signing import Signer
    from moderation.review.cases import ReviewDecision
    from moderation.review.store import Decided


class UnknownCaseError(Exception):
    """There is no such case."""


class ClaimLostError(Exception):
    """The reviewer does not hold the case now; the text says what to do."""


class AlreadyDecidedError(Exception):
    """The case is decided, by another word than this one, or not to be decided any more; the text says which."""


class Word(NamedTuple):
    """What a reviewer says of a case."""

    decision: ReviewDecision
    clause: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Deciding:
    """Writes decisions; safe in several copies at once."""

    pool: Pool
    signer: Signer
    relay: OutboxRelay
    second_share: float
    now: Callable[[], datetime]

    async def decide(self, case_id: UUID, reviewer: str, word: Word) -> None:
        """Write down what a reviewer says of a case that he holds; the same word again changes nothing.

        Raises:
            UnknownCaseError, ClaimLostError, AlreadyDecidedError: nothing was written.
        """
        now = self.now()
        async with self.pool.acquire() as connection, connection.transaction():
            row = await store.lock_case(connection, case_id)
            if row is None:
                raise UnknownCaseError
            if _said_before(await store.decisions_of(connection, case_id), reviewer, word):
                return
            _require_claim(row, reviewer, now)
            stored = await self._write(connection, row, reviewer, word, now)
        self.relay.committed(stored)

    async def _write(
        self, connection: Connection, row: Mapping[str, Any], reviewer: str, word: Word, now: datetime
    ) -> list[StoredRecord]:
        first = row["state"] == "waiting"
        decided = store.Decided(1 if first else 2, reviewer, word.decision, word.clause, word.reason, now)
        await store.insert_decision(connection, row["case_id"], decided)
        if first and is_sampled(row["case_id"], self.second_share):
            due_at = now + timedelta(hours=SECOND_HOURS)
            await store.wait_for_second(connection, row["case_id"], reviewer, due_at)
        else:
            await store.close_case(connection, row["case_id"], reviewer, now)
        if not first or (row["kind"] == "report" and word.decision == "release"):
            return []
        return await self._revise(connection, row, word, now)

    async def _revise(
        self, connection: Connection, row: Mapping[str, Any], word: Word, now: datetime
    ) -> list[StoredRecord]:
        word_of = partial(
            VerdictRevision,
            message_id=str(row["message_id"]),
            account_id=row["account_id"],
            recipient_token=row["recipient_token"],
            instruction_digest=row["instruction_digest"],
            action="allow" if word.decision == "release" else "block",
            clauses=() if word.clause is None else (word.clause,),
            cause="person",
            case_id=str(row["case_id"]),
            signal=None,
            exposure=row["exposure"],
            screened_at=rfc3339(now),
        )
        while True:
            revision = word_of(revision=await store.last_revision(connection, row["message_id"]) + 1)
            (signed,) = self.signer.sign([revision.statement()])
            if await store.insert_revisions(connection, [(revision, signed, now)]):
                break  # else a copy that locks no verdicts took the number
        return await store.insert_outbox(connection, [encode(VerdictRevised(revision=signed))])


def _said_before(decisions: list[Decided], reviewer: str, word: Word) -> bool:
    for decided in decisions:
        if decided.reviewer == reviewer:
            if (decided.decision, decided.clause) == (word.decision, word.clause):
                return True
            raise AlreadyDecidedError(f"you have decided this case: {decided.decision}")
    return False


def _require_claim(row: Mapping[str, Any], reviewer: str, now: datetime) -> None:
    if row["state"] not in {"waiting", "second"}:
        raise AlreadyDecidedError("the case is closed: it was decided, or its message's validity window has ended")
    if row["claimed_by"] != reviewer or row["claim_until"] <= now:
        raise ClaimLostError("you do not hold this case, or no longer; claim the next one")
    if row["state"] == "waiting" and row["kind"] == "hold" and row["not_after"] <= now:
        raise AlreadyDecidedError("the message's validity window has ended, nothing can be released or blocked")
