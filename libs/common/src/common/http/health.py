"""`/livez`: the loop turns. `/readyz`: everything this process depends on is there, each part named."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.kafka.consumer import ConsumerHealth
    from common.postgres.pool import Pool

Check = Callable[[], Awaitable[str | None]]
NOT_READY = "A part is missing, or did not answer within 2 seconds."
_CHECK_SECONDS = 2.0


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
    """Check that the database answers."""

    async def check() -> str | None:
        await pool.fetchval("SELECT 1")
        return None

    return check


def consumer_check(health: ConsumerHealth) -> Check:
    """Check that a subscription has partitions (or idles beside a copy that has them) and does not fail."""

    async def check() -> str | None:
        if health.failing_since is not None:
            return f"group {health.group} waits: {health.last_error}"
        return None if health.assigned else f"group {health.group} has no assignment yet"

    return check
