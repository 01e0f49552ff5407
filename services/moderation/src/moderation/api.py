"""What operators may ask: one verdict, the unauthorised records, the policy in force. Never content."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID  # noqa: TC003  FastAPI reads it at runtime

import orjson
from fastapi import APIRouter, Depends
from pydantic import BaseModel

from common.events.screening import Action
from common.http.openapi import INVALID_FIELD, OPERATORS, Refusal, refuses
from common.http.operators import operator_only
from common.http.problems import Problem
from common.http.unauthorised import ListedMax, UnauthorisedRecords, unauthorised_records
from common.security.signing import Proof, Signed
from moderation.domain import ENGINE
from moderation.policy.document import Clause, RuleAction, RuleTool
from moderation.store import count_unauthorised, list_unauthorised, verdict_by_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.postgres.pool import Pool
    from common.security.tokens import TokenVerifier
    from moderation.policy.document import Rule
    from moderation.screening import Screener

UNKNOWN_MESSAGE = Refusal(404, "unknown-message", "there is no verdict on this message")


class KeptVerdict(BaseModel):
    """A verdict as it was signed, with what is kept beside it."""

    message_id: str
    account_id: str
    action: Action
    clauses: list[str]
    degraded: list[str]
    policy: str
    screened_at: datetime
    verdict: Signed


class RuleInForce(BaseModel):
    """One rule of the policy, without its patterns and examples."""

    id: str
    clause: Clause
    tools: list[RuleTool]
    description: str
    action: RuleAction
    severity: int
    owner: str


class PolicyInForce(BaseModel):
    """The policy's name, the matching engine and the rules, in the order of the file."""

    policy: str
    engine: str
    rules: list[RuleInForce]


def operator_routes(pool: Pool, screener: Screener, verifier: TokenVerifier) -> APIRouter:
    """Return the routes of the principal `operator`."""
    router = APIRouter(prefix="/v1", tags=["operator"], dependencies=[Depends(operator_only(verifier))])

    @router.get("/verdicts/{message_id}", responses=refuses(*OPERATORS, UNKNOWN_MESSAGE, INVALID_FIELD))
    async def get_verdict(message_id: UUID) -> KeptVerdict:
        """Return the verdict on a message as it was signed, with what is kept beside it."""
        row = await verdict_by_id(pool, message_id)
        if row is None:
            detail = "no verdict on this message; waystation trace tells where it stands"
            raise Problem(UNKNOWN_MESSAGE.status, UNKNOWN_MESSAGE.kind, detail)
        return _kept(row)

    @router.get("/unauthorised", responses=refuses(*OPERATORS, INVALID_FIELD))
    async def get_unauthorised(limit: ListedMax = 100) -> UnauthorisedRecords:
        """List the newest records that no genuine instruction stands behind, and count all of them by reason."""
        return unauthorised_records(await count_unauthorised(pool), await list_unauthorised(pool, limit))

    @router.get("/policy", responses=refuses(*OPERATORS))
    async def get_policy() -> PolicyInForce:
        """Return the policy's name and its rules, without patterns and examples."""
        policy = screener.policy
        rules = [_rule_in_force(rule) for rule in policy.document.rules]
        return PolicyInForce(policy=policy.name, engine=ENGINE, rules=rules)

    return router


def _kept(row: Mapping[str, Any]) -> KeptVerdict:
    signed = Signed(statement=orjson.loads(row["statement"]), proof=Proof(**orjson.loads(row["proof"])))
    return KeptVerdict(**{**row, "verdict": signed})


def _rule_in_force(rule: Rule) -> RuleInForce:
    return RuleInForce(**rule.model_dump(exclude={"match", "matches", "passes"}))
