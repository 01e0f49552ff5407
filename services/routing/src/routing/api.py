"""Routes for operators: ledger, doubts, deliveries, what came without authority."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query
from pydantic import BaseModel, ConfigDict, Field

from common.http.problems import Problem
from common.security.tokens import TokenError, TokenVerifier
from common.times import now
from routing import store
from routing.domain import AttemptResult, Outcome, again
from routing.receipts import store_changes
from routing.settlement import Called, write_outcomes

if TYPE_CHECKING:
    from common.outbox import OutboxRelay, StoredRecord
    from common.postgres.pool import Connection, Pool
    from routing.settlement import Settlement

OPERATOR = "operator"
PRESENT_MAX = 100_000


class LedgerQuestion(BaseModel):
    """Which account (all without one), and which messages that ingestion has no receipt for."""

    model_config = ConfigDict(extra="forbid")

    account_id: str | None = Field(None, max_length=100)
    waiting: list[UUID] = Field(default_factory=list, max_length=PRESENT_MAX)


class Resolution(BaseModel):
    """What a person found out about a delivery in doubt."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["handed_over", "refused", "resend"]


@dataclass(frozen=True, slots=True)
class Routes:
    """The operators' routes over one database."""

    pool: Pool
    tokens: TokenVerifier
    settlement: Settlement
    relay: OutboxRelay

    def router(self) -> APIRouter:
        """Return the routes; every one needs an operator's token."""
        router = APIRouter(prefix="/v1", dependencies=[Depends(self._operator)], tags=["operators"])
        router.add_api_route("/ledger", self.ledger, methods=["POST"])
        router.add_api_route("/doubts", self.doubts, methods=["GET"])
        router.add_api_route("/doubts/{message_id}:resolve", self.resolve, methods=["POST"])
        router.add_api_route("/deliveries/{message_id}", self.delivery, methods=["GET"])
        router.add_api_route("/standings/{account_id}", self.standing, methods=["GET"])
        router.add_api_route("/unauthorised", self.unauthorised, methods=["GET"])
        return router

    async def _operator(self, authorization: Annotated[str | None, Header()] = None) -> None:
        try:
            principal = self.tokens.principal(authorization)
        except TokenError as error:
            raise Problem(401, "not-authenticated", str(error)) from None
        if principal != OPERATOR:
            raise Problem(403, "not-an-operator", "this route is for operators")

    async def ledger(self, question: LedgerQuestion) -> dict[str, Any]:
        """Count deliveries by account and state, and tell which waiting messages have a delivery, in one snapshot."""
        async with self.pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
            await connection.execute(store.QUERIES["read_everything"])
            counts = await store.ledger(connection, question.account_id)
            present = await store.present_of(connection, [str(one) for one in question.waiting])
            unauthorised = await connection.fetchval(store.QUERIES["count_unauthorised"])
        return {"accounts": counts, "present": sorted(present), "unauthorised": unauthorised}

    async def doubts(self, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        """List deliveries in doubt, oldest first."""
        rows = await self.pool.fetch(store.QUERIES["doubts"], limit)
        return {"items": [_json(row) for row in rows]}

    async def resolve(self, message_id: UUID, resolution: Resolution) -> dict[str, Any]:
        """Write what a person found out, or send once more on the person's word."""
        async with self.pool.acquire() as connection, connection.transaction():
            stored = await self._resolved(connection, str(message_id), resolution.decision)
        self.relay.committed(stored)
        return await self.delivery(message_id)

    async def _resolved(self, connection: Connection, message_id: str, decision: str) -> list[StoredRecord]:
        locked = await store.lock_deliveries(connection, [message_id])
        number = await store.doubtful_attempt(connection, message_id)
        if number is None:
            raise Problem(404, "not-in-doubt", "no delivery of this id is in doubt; see `waystation doubt list`")
        if decision == "resend":
            change = again(locked[message_id], "sent again on an operator's word", now())
            return await store_changes(connection, self.settlement.signer, [change], now())
        result = AttemptResult.ACCEPTED if decision == "handed_over" else AttemptResult.REFUSED
        called = Called(message_id, number, Outcome(result, "an operator found out"))
        return await write_outcomes(connection, [called], self.settlement)

    async def delivery(self, message_id: UUID) -> dict[str, Any]:
        """Tell one delivery with its attempts."""
        row = await self.pool.fetchrow(store.QUERIES["delivery"], message_id)
        if row is None:
            raise Problem(404, "no-such-delivery", "routing has not planned a message of this id")
        attempts = await self.pool.fetch(store.QUERIES["attempts_of"], message_id)
        return {**_json(row), "attempts": [_json(attempt) for attempt in attempts]}

    async def standing(self, account_id: str) -> dict[str, Any]:
        """Tell an account's standing as recorded here, and since when it is in force."""
        row = await self.pool.fetchrow(store.QUERIES["standing"], account_id)
        if row is None:
            raise Problem(404, "no-such-account", "routing has not heard of this account")
        return _json(row)

    async def unauthorised(self, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
        """List what came without authority, newest first."""
        rows = await self.pool.fetch(store.QUERIES["unauthorised"], limit)
        count = await self.pool.fetchval(store.QUERIES["count_unauthorised"])
        return {"count": count, "items": [_json(row) for row in rows]}


def _json(row: Any) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, UUID) else value for name, value in dict(row).items()}
