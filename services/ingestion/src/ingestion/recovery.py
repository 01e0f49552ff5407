"""After this database was put back: admitted messages are taken from Kafka again, with what the instruction lacks.

An account that repeats a request must find its message, also when the row was lost after the answer: else the
repetition would be a second mail.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import orjson

from common.events.intake import Instruction, MessageAdmitted
from common.events.routing import SentReceipt
from common.kafka.replay import replay
from common.security.signing import SignatureError, TrustedKeys
from ingestion import store
from ingestion.handlers import on_receipts
from ingestion.row_seal import HEADER, OwnFields, RowSeal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.kafka.consumer import Received
    from common.kafka.settings import KafkaAccess
    from common.postgres.pool import Pool
    from common.postgres.recovery import Recovery

log = logging.getLogger(__name__)


@dataclass(slots=True)
class MessagesAgain:
    """Puts back messages that Kafka has and the database has not, and what routing told about all of them."""

    pool: Pool
    access: KafkaAccess
    instruction_keys: TrustedKeys
    receipt_keys: TrustedKeys
    seal: RowSeal
    client_id: str
    unsealed: int = field(default=0, init=False)

    async def __call__(self, recovery: Recovery) -> None:
        """Read what was admitted and told since the backup."""
        client_id = f"{self.client_id}-recovery"
        await replay(self.access, MessageAdmitted, recovery.since, self._put_back, client_id=client_id)
        told = partial(on_receipts, pool=self.pool, keys=self.receipt_keys)
        await replay(self.access, SentReceipt, recovery.since, told, client_id=client_id)
        if self.unsealed:
            log.error("%d messages came back without their idempotency keys: their repetition is new", self.unsealed)

    async def _put_back(self, batch: Sequence[Received[MessageAdmitted]]) -> None:
        rows = [row for received in batch if (row := self._row(received)) is not None]
        if rows:
            await store.put_back(self.pool, rows)

    def _row(self, received: Received[MessageAdmitted]) -> store.LostMessage | None:
        signed = received.event.instruction
        try:
            digest = self.instruction_keys.verify(signed)
            instruction = Instruction.model_validate(signed.statement)
        except (SignatureError, ValueError):
            return None
        value = next((value for name, value in received.record.headers if name == HEADER), None) or b""
        own = self.seal.open(instruction.message_id, value)
        self.unsealed += own is None
        signed_text = orjson.dumps({"statement": signed.statement, "proof": signed.proof.__dict__}).decode()
        return store.LostMessage(instruction, digest, signed_text, *(own or OwnFields(None, b"", None)))
