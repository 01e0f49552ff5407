"""After this database was put back: verdicts published since, and what was said of them later, are stored again.

They are stored as they were signed; the cases of held messages are open again. Screening the messages a second time
would give second verdicts, which routing ignores: this database would then tell other than what was acted on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from common.events.intake import VerifiedInstruction
from common.events.screening import VerdictReached, VerdictRevised, VerifiedVerdict, verified_revision
from common.kafka.replay import replay
from common.security.signing import SignatureError, SignedJson, canonical, statement_digest
from common.times import now, parse_rfc3339
from moderation.review.opening import case_of_hold
from moderation.review.store import close_revised, insert_cases, insert_revisions
from moderation.store import NewVerdict, insert_verdicts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from common.kafka.consumer import Received
    from common.kafka.settings import KafkaAccess
    from common.postgres.pool import Pool
    from common.postgres.recovery import Recovery
    from common.security.signing import TrustedKeys
    from moderation.review.cases import Clocks
    from moderation.review.store import NewCase


@dataclass(frozen=True, slots=True)
class VerdictsAgain:
    """Stores verdicts of this service that Kafka has and the database has not."""

    pool: Pool
    access: KafkaAccess
    instruction_keys: TrustedKeys
    verdict_keys: TrustedKeys
    client_id: str
    severities: Mapping[str, int]
    clocks: Clocks

    async def __call__(self, recovery: Recovery) -> None:
        """Read what was published since the backup."""
        client_id = f"{self.client_id}-recovery"
        await replay(self.access, VerdictReached, recovery.since, self._store, client_id=client_id)
        await replay(self.access, VerdictRevised, recovery.since, self._store_revisions, client_id=client_id)

    async def _store(self, batch: Sequence[Received[VerdictReached]]) -> None:
        screened: dict[str, dict[str, NewVerdict]] = {}
        cases: dict[str, NewCase] = {}
        for received in batch:
            if (verified := self._verified(received.event)) is None:
                continue
            new, instruction = verified
            screened.setdefault(new.statement["screened_at"], {}).setdefault(new.message_id, new)
            if new.statement["action"] == "hold":
                case = case_of_hold(instruction, new.statement, self.severities, self.clocks)
                cases |= {} if case is None else {new.message_id: case}
        async with self.pool.acquire() as connection, connection.transaction():
            for screened_at, verdicts in screened.items():
                await insert_verdicts(connection, list(verdicts.values()), parse_rfc3339(screened_at))
            await insert_cases(connection, list(cases.values()))

    async def _store_revisions(self, batch: Sequence[Received[VerdictRevised]]) -> None:
        """Store revisions as they were signed; their cases are closed. Who decided, and why, was not published."""
        words = []
        for received in batch:
            try:
                word = verified_revision(received.event.revision, self.verdict_keys)
            except SignatureError:
                continue
            words.append((word, received.event.revision, parse_rfc3339(word.screened_at)))
        if not words:
            return
        async with self.pool.acquire() as connection, connection.transaction():
            await insert_revisions(connection, words)
            await close_revised(connection, {word.message_id for word, _, _ in words}, now())

    def _verified(self, event: VerdictReached) -> tuple[NewVerdict, VerifiedInstruction] | None:
        try:
            instruction = VerifiedInstruction.verify(event.message, self.instruction_keys)
            VerifiedVerdict.verify(event.verdict, instruction, self.verdict_keys)
        except SignatureError:
            return None
        statement, proof = event.verdict.statement, event.verdict.proof
        signed = SignedJson(canonical(statement), statement_digest(statement), orjson.dumps(proof.__dict__))
        return NewVerdict(instruction.instruction.account_id, statement, signed), instruction
