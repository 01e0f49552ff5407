"""What operators may ask: one verdict, the unauthorised records, the policy in force. Never content."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID  # noqa: TC003  FastAPI reads it at runtime

import orjson
from fastapi import APIRouter, Depends, Header, Query

from common.http.problems import Problem
from common.security.tokens import TokenError
from common.times import rfc3339
from moderation.domain import ENGINE
from moderation.store import count_unauthorised, list_unauthorised, verdict_by_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from common.postgres.pool import Pool
    from common.security.tokens import TokenVerifier
    from moderation.policy.document import Rule
    from moderation.policy.reading import Policy

OPERATOR = "operator"
UNAUTHORISED_MAX = 1000


def operator_routes(pool: Pool, policy: Policy, verifier: TokenVerifier) -> APIRouter:
    """Return the routes of the principal `operator`."""
    router = APIRouter(prefix="/v1", tags=["operator"], dependencies=[Depends(_operator_only(verifier))])

    @router.get("/verdicts/{message_id}")
    async def verdict(message_id: UUID) -> dict[str, Any]:
        """Return the verdict on a message as it was signed, with what is kept beside it."""
        row = await verdict_by_id(pool, message_id)
        if row is None:
            detail = "no verdict on this message; waystation trace tells where it stands"
            raise Problem(HTTPStatus.NOT_FOUND, "unknown-message", detail)
        return _verdict_document(row)

    @router.get("/unauthorised")
    async def unauthorised(limit: Annotated[int, Query(ge=1, le=UNAUTHORISED_MAX)] = 100) -> dict[str, Any]:
        """Return the newest records that no genuine instruction stands behind, and how many there are by reason."""
        reasons = await count_unauthorised(pool)
        rows = await list_unauthorised(pool, limit)
        items = [{**dict(row), "seen_at": rfc3339(row["seen_at"])} for row in rows]
        return {"count": sum(reasons.values()), "reasons": reasons, "items": items}

    @router.get("/policy")
    async def policy_in_force() -> dict[str, Any]:
        """Return the policy's name and its rules, without patterns and examples."""
        return {"policy": policy.name, "engine": ENGINE, "rules": [_rule_document(r) for r in policy.document.rules]}

    return router


def _operator_only(verifier: TokenVerifier) -> Callable[[str | None], None]:
    def check(authorization: Annotated[str | None, Header()] = None) -> None:
        try:
            principal = verifier.principal(authorization)
        except TokenError as error:
            raise Problem(HTTPStatus.UNAUTHORIZED, "invalid-token", str(error)) from None
        if principal != OPERATOR:
            raise Problem(HTTPStatus.FORBIDDEN, "forbidden", "only the operator may ask this")

    return check


def _verdict_document(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "message_id": row["message_id"],
        "account_id": row["account_id"],
        "action": row["action"],
        "clauses": row["clauses"],
        "degraded": row["degraded"],
        "policy": row["policy"],
        "screened_at": rfc3339(row["screened_at"]),
        "verdict": {"statement": orjson.loads(row["statement"]), "proof": orjson.loads(row["proof"])},
    }


def _rule_document(rule: Rule) -> dict[str, Any]:
    return rule.model_dump(mode="json", exclude={"match", "matches", "passes"})
