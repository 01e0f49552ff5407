"""After this database was put back: the verdicts that were published since are stored again, as they were signed.

Screening the messages a second time would give second verdicts, which routing ignores: this database would then tell
other than what was acted on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from common.events.intake import VerifiedInstruction
from common.events.screening import VerdictReached, VerifiedVerdict
from common.kafka.replay import replay
from common.security.signing import SignatureError, SignedJson, canonical, statement_digest
from common.times import parse_rfc3339
from moderation.store import NewVerdict, insert_verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.kafka.consumer import Received
    from common.kafka.settings import KafkaAccess
    from common.postgres.pool import Pool
    from common.postgres.recovery import Recovery
    from common.security.signing import TrustedKeys


@dataclass(frozen=True, slots=True)
class VerdictsAgain:
    """Stores verdicts of this service that Kafka has and the database has not."""

    pool: Pool
    access: KafkaAccess
    instruction_keys: TrustedKeys
    verdict_keys: TrustedKeys
    client_id: str

    async def __call__(self, recovery: Recovery) -> None:
        """Read what was published since the backup."""
        await replay(self.access, VerdictReached, recovery.since, self._store, client_id=f"{self.client_id}-recovery")

    async def _store(self, batch: Sequence[Received[VerdictReached]]) -> None:
        screened: dict[str, dict[str, NewVerdict]] = {}
        for received in batch:
            if (new := self._verified(received.event)) is not None:
                screened.setdefault(new.statement["screened_at"], {}).setdefault(new.message_id, new)
        async with self.pool.acquire() as connection, connection.transaction():
            for screened_at, verdicts in screened.items():
                await insert_verdicts(connection, list(verdicts.values()), parse_rfc3339(screened_at))

    def _verified(self, event: VerdictReached) -> NewVerdict | None:
        try:
            instruction = VerifiedInstruction.verify(event.message, self.instruction_keys)
            VerifiedVerdict.verify(event.verdict, instruction, self.verdict_keys)
        except SignatureError:
            return None
        statement, proof = event.verdict.statement, event.verdict.proof
        signed = SignedJson(canonical(statement), statement_digest(statement), orjson.dumps(proof.__dict__))
        return NewVerdict(instruction.instruction.account_id, statement, signed)
