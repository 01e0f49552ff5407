"""`/livez`: the loop turns. `/readyz`: everything this process depends on is there, each part named."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from common.kafka.consumer import RETRYABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.kafka.consumer import Subscription
    from common.kafka.table import TableReader
    from common.postgres.pool import Pool

Check = Callable[[], Awaitable[str | None]]
NOT_READY = "A part is missing, or did not answer within 2 seconds."
STUCK_SECONDS = 30.0
COMMITS_REFUSED_MAX = 7
_CHECK_SECONDS = 2.0
_ASK_SECONDS = 1.5


class Liveness(BaseModel):
    """The process turns."""

    status: Literal["alive"]


class Readiness(BaseModel):
    """Whether everything this process depends on is there; `wrong` names each part that is not, with the reason."""

    status: Literal["ready", "not ready"]
    wrong: dict[str, str]


def health_routes(checks: Mapping[str, Check]) -> APIRouter:
    """Return the two routes; a check returns None when all is well, else what is wrong."""
    router = APIRouter(tags=["health"])

    @router.get("/livez")
    async def livez() -> Liveness:
        """Tell that the process turns."""
        return Liveness(status="alive")

    @router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": NOT_READY}})
    async def readyz() -> JSONResponse:
        """Tell whether everything this process depends on is there, each part named."""
        answers = await asyncio.gather(*(_answer(check) for check in checks.values()))
        wrong = {name: answer for name, answer in zip(checks, answers, strict=True) if answer is not None}
        status = {"status": "not ready" if wrong else "ready", "wrong": wrong}
        return JSONResponse(status, 503 if wrong else 200)

    return router


async def _answer(check: Check) -> str | None:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await check()
    except Exception as error:  # noqa: BLE001  a check that fails is an answer
        return type(error).__name__


def postgres_check(pool: Pool) -> Check:
    """Check that the database answers, and takes writes."""

    async def check() -> str | None:
        read_only = await pool.fetchval("SELECT current_setting('transaction_read_only')::bool")
        return "the database takes no writes" if read_only else None

    return check


def consumer_check(subscription: Subscription[Any]) -> Check:
    """Check that a subscription has partitions (or idles beside a copy that has them), does not fail, and moves.

    Offsets that Kafka does not take for some twenty seconds are told: after a rebalance their records come again.
    It is stuck when records have waited for half a minute while none was handled; who does not ask often enough to see
    that is told by the batch in hand.
    """
    health = subscription.health

    async def check() -> str | None:
        if health.failing_since is not None:
            return f"group {health.group} waits: {health.last_error}"
        if not health.assigned:
            return f"group {health.group} has no assignment yet"
        if health.commits_refused >= COMMITS_REFUSED_MAX:
            return (
                f"group {health.group} cannot commit what it handled: {health.commit_error}; does another process run"
                " under this INSTANCE?"
            )
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                lag = await subscription.lag()
        except RETRYABLE as error:
            return f"group {health.group}: Kafka does not tell its lag: {type(error).__name__}"
        if (seconds := health.stuck_seconds()) > STUCK_SECONDS:
            return f"group {health.group} is stuck: {lag} records wait and none was handled for {seconds:.0f} s"
        return None

    return check


def table_check(reader: TableReader[Any]) -> Check:
    """Check that a reader of a compacted topic knows everything as of a second ago."""

    async def check() -> str | None:
        if reader.fresh:
            return None
        if math.isinf(reader.stale_seconds):
            return f"the reader of {reader.topic} has not read to its end yet"
        return f"the reader of {reader.topic} is {reader.stale_seconds:.1f} s old"

    return check
