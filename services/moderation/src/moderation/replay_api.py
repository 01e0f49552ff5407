"""Replays over HTTP: one verdict, or a sample of the last day now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID  # noqa: TC003  FastAPI reads it at runtime

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from common.http.openapi import INVALID_FIELD, OPERATORS, refuses
from common.http.operators import operator_only
from common.http.problems import Problem
from moderation.api import UNKNOWN_MESSAGE
from moderation.replays import NIGHT_SAMPLE, SAMPLE_MAX

if TYPE_CHECKING:
    from common.security.tokens import TokenVerifier
    from moderation.replays import Replayed, Replays

SampleMax = Annotated[int, Query(ge=1, le=SAMPLE_MAX)]


class ReplayedVerdict(BaseModel):
    """What came of one verdict.

    `outcome` is `same`, `differs`, or `not-replayed` (another engine, or its policy is gone). `content` is `compared`
    when its features were taken anew, else why not: `gone`, `erased`, `refused`, `vault-away`, `not-asked`.
    """

    message_id: str
    policy: str
    outcome: str
    content: str
    differences: list[str]


class ReplayedSample(BaseModel):
    """What came of a sample, with those that differ."""

    verdicts: int
    outcomes: dict[str, int]
    contents: dict[str, int]
    differing: list[ReplayedVerdict]


def replay_routes(replays: Replays, verifier: TokenVerifier) -> APIRouter:
    """Return the routes of the principal `operator`; no answer holds content."""
    router = APIRouter(prefix="/v1", tags=["operator"], dependencies=[Depends(operator_only(verifier))])

    @router.post("/verdicts/{message_id}/replay", responses=refuses(*OPERATORS, UNKNOWN_MESSAGE, INVALID_FIELD))
    async def replay_verdict(message_id: UUID) -> ReplayedVerdict:
        """Reach a verdict again from the features that it kept, and these from the content while it is kept."""
        found = await replays.one(message_id)
        if found is None:
            raise Problem(UNKNOWN_MESSAGE.status, UNKNOWN_MESSAGE.kind, "no verdict on this message")
        return _answer(found)

    @router.post("/replays", responses=refuses(*OPERATORS, INVALID_FIELD))
    async def replay_sample(sample: SampleMax = NIGHT_SAMPLE) -> ReplayedSample:
        """Replay verdicts of the last day, taken at random, as each night does by itself."""
        found = await replays.sample(sample)
        return ReplayedSample(
            verdicts=found.verdicts,
            outcomes=dict(found.outcomes),
            contents=dict(found.contents),
            differing=[_answer(one) for one in found.differing],
        )

    return router


def _answer(found: Replayed) -> ReplayedVerdict:
    return ReplayedVerdict(
        message_id=found.message_id,
        policy=found.policy,
        outcome=found.outcome,
        content=found.content,
        differences=list(found.differences),
    )
