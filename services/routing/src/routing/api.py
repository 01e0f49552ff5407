"""Routes for operators: ledger, doubts, deliveries, what came without authority."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from common.events.enforcement import Standing
from common.events.routing import DeliveryState
from common.http.openapi import INVALID_FIELD, JSON_BODY, OPERATORS, Refusal, refuses
from common.http.operators import operator_only
from common.http.problems import Problem
from common.http.unauthorised import ListedMax, UnauthorisedRecords, unauthorised_records
from common.times import now
from routing import store
from routing.domain import AttemptResult, Outcome, again
from routing.receipts import store_changes
from routing.settlement import Called, write_outcomes

if TYPE_CHECKING:
    from common.outbox import OutboxRelay, StoredRecord
    from common.postgres.pool import Connection, Pool
    from common.security.tokens import TokenVerifier
    from routing.settlement import Settlement

PRESENT_MAX = 100_000
NOT_IN_DOUBT = Refusal(404, "not-in-doubt", "no delivery of this id is in doubt")
NO_SUCH_DELIVERY = Refusal(404, "no-such-delivery", "routing has not planned a message of this id")
NO_SUCH_ACCOUNT = Refusal(404, "no-such-account", "routing has not heard of this account")


class LedgerQuestion(BaseModel):
    """Which account (all without one), and which messages that ingestion has no receipt for."""

    model_config = ConfigDict(extra="forbid")

    account_id: str | None = Field(None, max_length=100)
    waiting: list[UUID] = Field(default_factory=list, max_length=PRESENT_MAX)


class Resolution(BaseModel):
    """What a person found out about a delivery in doubt."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["handed_over", "refused", "resend"]


class LedgerAnswer(BaseModel):
    """Routing's terms of the conservation equation: deliveries by account and state, and which messages it has."""

    accounts: dict[str, dict[str, int]]
    present: list[str]
    unauthorised: int


class Doubt(BaseModel):
    """A delivery of which nobody knows whether the provider took it, with its doubtful attempt."""

    message_id: UUID
    account_id: str
    round: int
    changed_at: datetime
    number: int
    provider: str
    reason: str | None
    begun_at: datetime
    duplicates_allowed: bool


class Doubts(BaseModel):
    """Deliveries in doubt, oldest first."""

    items: list[Doubt]


class AttemptView(BaseModel):
    """One attempt to hand over; the provider's reply stays sealed."""

    number: int
    epoch: int
    round: int
    provider: str
    result: str
    reason: str | None
    reply_code: int | None
    begun_at: datetime
    settled_at: datetime | None


class DeliveryView(BaseModel):
    """One delivery with its attempts."""

    message_id: UUID
    account_id: str
    tool: str
    state: DeliveryState
    reason: str
    epoch: int
    round: int
    sequence: int
    attempts: list[AttemptView]
    due_at: datetime
    not_after: datetime
    admitted_at: datetime
    planned_at: datetime
    changed_at: datetime


class RecordedStanding(BaseModel):
    """An account's standing as routing has recorded it; `in_force_at` once no call of the account is open any more."""

    account_id: str
    standing: Standing
    revision: int
    recorded_at: datetime
    in_force_at: datetime | None


@dataclass(frozen=True, slots=True)
class Routes:
    """The operators' routes over one database."""

    pool: Pool
    tokens: TokenVerifier
    settlement: Settlement
    relay: OutboxRelay

    def router(self) -> APIRouter:
        """Return the routes; every one needs an operator's token."""
        router = APIRouter(prefix="/v1", dependencies=[Depends(operator_only(self.tokens))], tags=["operators"])
        asked = refuses(*OPERATORS, INVALID_FIELD)
        router.add_api_route(
            "/ledger", self.ledger, name="get ledger", methods=["POST"], responses=refuses(*OPERATORS, *JSON_BODY)
        )
        router.add_api_route("/doubts", self.doubts, name="list doubts", methods=["GET"], responses=asked)
        resolving = refuses(*OPERATORS, *JSON_BODY, NOT_IN_DOUBT)
        router.add_api_route(
            "/doubts/{message_id}:resolve", self.resolve, name="resolve doubt", methods=["POST"], responses=resolving
        )
        telling = refuses(*OPERATORS, NO_SUCH_DELIVERY, INVALID_FIELD)
        router.add_api_route(
            "/deliveries/{message_id}", self.delivery, name="get delivery", methods=["GET"], responses=telling
        )
        telling = refuses(*OPERATORS, NO_SUCH_ACCOUNT, INVALID_FIELD)
        router.add_api_route(
            "/standings/{account_id}", self.standing, name="get standing", methods=["GET"], responses=telling
        )
        router.add_api_route(
            "/unauthorised", self.unauthorised, name="get unauthorised", methods=["GET"], responses=asked
        )
        return router

    async def ledger(self, question: LedgerQuestion) -> LedgerAnswer:
        """Count deliveries by account and state, and tell which waiting messages have a delivery, in one snapshot.

        Limits: 100,000 waiting messages in one question.
        """
        async with self.pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
            await connection.execute(store.QUERIES["read_everything"])
            counts = await store.ledger(connection, question.account_id)
            present = await store.present_of(connection, [str(one) for one in question.waiting])
            unauthorised = await connection.fetchval(store.QUERIES["count_unauthorised"])
        return LedgerAnswer.model_validate(
            {"accounts": counts, "present": sorted(present), "unauthorised": unauthorised}
        )

    async def doubts(self, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Doubts:
        """List deliveries in doubt, oldest first."""
        rows = await self.pool.fetch(store.QUERIES["doubts"], limit)
        return Doubts(items=[Doubt(**row) for row in rows])

    async def resolve(self, message_id: UUID, resolution: Resolution) -> DeliveryView:
        """Write what a person found out, or send once more on the person's word."""
        async with self.pool.acquire() as connection, connection.transaction():
            stored = await self._resolved(connection, str(message_id), resolution.decision)
        self.relay.committed(stored)
        return await self.delivery(message_id)

    async def _resolved(self, connection: Connection, message_id: str, decision: str) -> list[StoredRecord]:
        locked = await store.lock_deliveries(connection, [message_id])
        number = await store.doubtful_attempt(connection, message_id)
        if number is None:
            raise Problem(
                NOT_IN_DOUBT.status,
                NOT_IN_DOUBT.kind,
                "no delivery of this id is in doubt; see `waystation doubt list`",
            )
        if decision == "resend":
            change = again(locked[message_id], "sent again on an operator's word", now())
            return await store_changes(connection, self.settlement.signer, [change], now())
        result = AttemptResult.ACCEPTED if decision == "handed_over" else AttemptResult.REFUSED
        called = Called(message_id, number, Outcome(result, "an operator found out"))
        return await write_outcomes(connection, [called], self.settlement)

    async def delivery(self, message_id: UUID) -> DeliveryView:
        """Tell one delivery with its attempts."""
        row = await self.pool.fetchrow(store.QUERIES["delivery"], message_id)
        if row is None:
            raise Problem(
                NO_SUCH_DELIVERY.status, NO_SUCH_DELIVERY.kind, "routing has not planned a message of this id"
            )
        attempts = await self.pool.fetch(store.QUERIES["attempts_of"], message_id)
        return DeliveryView(**{**row, "attempts": [AttemptView(**attempt) for attempt in attempts]})

    async def standing(self, account_id: Annotated[str, Path(max_length=100)]) -> RecordedStanding:
        """Tell an account's standing as recorded here, and since when it is in force."""
        row = await self.pool.fetchrow(store.QUERIES["standing"], account_id)
        if row is None:
            raise Problem(NO_SUCH_ACCOUNT.status, NO_SUCH_ACCOUNT.kind, "routing has not heard of this account")
        return RecordedStanding(**row)

    async def unauthorised(self, limit: ListedMax = 100) -> UnauthorisedRecords:
        """List the newest records that came without authority, and count all of them by reason."""
        counts = await self.pool.fetch(store.QUERIES["unauthorised_counts"])
        rows = await self.pool.fetch(store.QUERIES["unauthorised"], limit)
        return unauthorised_records({row["reason"]: row["records"] for row in counts}, rows)
