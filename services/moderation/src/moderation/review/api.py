"""The review queue over HTTP: reviewers claim, look and decide under their own names; the operator sees figures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.http.openapi import INVALID_FIELD, JSON_BODY, UNAUTHENTICATED, UNAVAILABLE, Refusal, refuses
from common.http.operators import OPERATOR, principal_of
from common.http.problems import Problem
from common.times import rfc3339
from moderation.policy.document import Clause
from moderation.review import store
from moderation.review.cases import CaseKind, ReviewDecision, agreement
from moderation.review.deciding import AlreadyDecidedError, ClaimLostError, UnknownCaseError, Word
from moderation.review.showing import ContentGoneError, open_content, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from common.postgres.pool import Pool
    from common.security.tokens import TokenVerifier
    from moderation.review.deciding import Deciding
    from moderation.review.showing import Opener

REVIEWER_PREFIX = "reviewer."
DAYS_MAX = 366
NOT_A_REVIEWER = Refusal(403, "not-a-reviewer", "the token is not a reviewer's own (principal `reviewer.NAME`)")
UNKNOWN_CASE = Refusal(404, "unknown-case", "there is no case of this id")
CLAIM_LOST = Refusal(409, "claim-lost", "the caller does not hold the case, or its lease has ended")
ALREADY_DECIDED = Refusal(409, "already-decided", "the case is closed, or the caller has decided it otherwise")
CONTENT_GONE = Refusal(410, "content-gone", "the content was erased, or is not kept any more")
REVIEWERS = (UNAUTHENTICATED, NOT_A_REVIEWER, UNAVAILABLE)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EvidenceView(_Body):
    """Where a rule matched; never the text."""

    rule: str
    part: str
    start: int
    end: int


class CaseView(_Body):
    """A case without its content; `exposure` is how many messages of the account were held for the same."""

    case_id: UUID
    message_id: UUID
    kind: CaseKind
    account_id: str
    tool: str
    clauses: list[str]
    rules: list[str]
    severity: int
    exposure: int
    degraded: list[str]
    scores: dict[str, int]
    evidence: list[EvidenceView]
    policy: str
    opened_at: datetime
    due_at: datetime
    not_after: datetime
    claim_until: datetime | None


class ClaimedCase(_Body):
    """The case that was claimed; none when nothing waits for this reviewer."""

    case: CaseView | None


class OpenBody(_Body):
    """Whether the text is to be readable; blurred without."""

    reveal: bool = False


class MarkView(_Body):
    """Characters of a part that a rule found."""

    rule: str
    start: int
    end: int


class PartView(_Body):
    """A readable part, blurred or revealed; `cut` when it goes on."""

    name: str
    text: str
    cut: bool
    marks: list[MarkView]


class FileView(_Body):
    """An attachment, never its bytes."""

    name: str
    filename: str
    content_type: str
    size_bytes: int
    sha256: str
    rules: list[str]


class ContentView(_Body):
    """A message as a reviewer sees it."""

    case_id: UUID
    revealed: bool
    parts: list[PartView]
    files: list[FileView]


class DecideBody(_Body):
    """A decision. Blocking names the clause; the reason stays in this service."""

    decision: ReviewDecision
    clause: Clause | None = None
    reason: str = Field(min_length=3, max_length=500)

    @model_validator(mode="after")
    def _names_its_clause(self) -> Self:
        if self.decision == "block" and self.clause is None:
            raise ValueError("a block names its clause")
        return self


class DecidedView(_Body):
    """The decision is written down; it takes effect within seconds."""

    case_id: UUID
    decision: ReviewDecision
    state: Literal["decided"] = "decided"


class GivenBack(_Body):
    """Whether the case waits for others again."""

    case_id: UUID
    given_back: bool


class WaitingView(_Body):
    """What waits under a clause."""

    clause: str
    waiting: int
    overdue: int
    claimed: int
    oldest_at: datetime


class DecidedFigures(_Body):
    """What was decided under a clause."""

    decision: ReviewDecision
    clause: str
    decisions: int


class AgreementView(_Body):
    """How far first and second reviewers agree; None where it cannot be told."""

    pairs: int
    agreed: int
    raw: float | None
    kappa: float | None


class DisagreementView(_Body):
    """A case on which two people differ."""

    case_id: UUID
    first: ReviewDecision
    second: ReviewDecision
    first_reviewer: str
    second_reviewer: str
    decided_at: datetime


class ReviewStats(_Body):
    """Figures of the queue."""

    since: str
    waiting: list[WaitingView]
    decided: list[DecidedFigures]
    agreement: AgreementView
    disagreements: list[DisagreementView]


@dataclass(frozen=True, slots=True)
class ReviewRoutes:
    """The routes over one database."""

    pool: Pool
    vault: Opener
    deciding: Deciding
    verifier: TokenVerifier
    lease_seconds: float
    now: Callable[[], datetime]

    def router(self) -> APIRouter:
        """Return the routes; each needs a reviewer's own token, the figures an operator's or a reviewer's."""
        router = APIRouter(prefix="/v1/review", tags=["review"])

        def add(path: str, answer: Callable[..., Any], name: str, told: Sequence[Refusal], method: str = "GET") -> None:
            own = [Depends(self._reviewer)]
            router.add_api_route(path, answer, name=name, methods=[method], dependencies=own, responses=refuses(*told))

        on_case = (*REVIEWERS, UNKNOWN_CASE, INVALID_FIELD)
        opening = (*REVIEWERS, *JSON_BODY, UNKNOWN_CASE, CLAIM_LOST, CONTENT_GONE)
        deciding = (*REVIEWERS, *JSON_BODY, UNKNOWN_CASE, CLAIM_LOST, ALREADY_DECIDED)
        add("/next", self.claim_next, "claim next case", REVIEWERS, "POST")
        add("/cases/{case_id}", self.get_case, "get case", on_case)
        add("/cases/{case_id}:open", self.open_case, "open case", opening, "POST")
        add("/cases/{case_id}:decide", self.decide, "decide case", deciding, "POST")
        add("/cases/{case_id}:return", self.give_back, "return case", (*REVIEWERS, INVALID_FIELD), "POST")
        router.add_api_route(
            "/stats",
            self.stats,
            name="get review stats",
            dependencies=[Depends(self._reader)],
            responses=refuses(*REVIEWERS, INVALID_FIELD),
        )
        return router

    async def claim_next(self, request: Request) -> ClaimedCase:
        """Claim the most urgent case for a while; a claim that runs out goes to others."""
        now = self.now()
        until = now + timedelta(seconds=self.lease_seconds)
        case_id = await store.claim_case(self.pool, self._reviewer(request), now, until)
        return ClaimedCase(case=None if case_id is None else case_view(await self._row(case_id)))

    async def get_case(self, case_id: UUID) -> CaseView:
        """Return a case without its content."""
        return case_view(await self._row(case_id))

    async def open_case(self, request: Request, case_id: UUID, body: OpenBody) -> ContentView:
        """Open a claimed case's content; the vault logs it under the case. Blurred unless it is to be revealed."""
        reviewer, row = self._reviewer(request), await self._row(case_id)
        if row["claimed_by"] != reviewer or row["claim_until"] <= self.now():
            raise _problem(CLAIM_LOST, "content is shown to who holds the case: claim it with the next one")
        try:
            content = await open_content(row, self.vault)
        except ContentGoneError as error:
            raise _problem(CONTENT_GONE, str(error)) from None
        seen = shown(content, orjson.loads(row["statement"])["evidence"], reveal=body.reveal)
        return ContentView.model_validate({"case_id": case_id, "revealed": body.reveal, **asdict(seen)})

    async def decide(self, request: Request, case_id: UUID, body: DecideBody) -> DecidedView:
        """Write down a decision on a claimed case; the same decision again changes nothing."""
        word = Word(body.decision, body.clause, body.reason)
        try:
            await self.deciding.decide(case_id, self._reviewer(request), word)
        except UnknownCaseError:
            raise _problem(UNKNOWN_CASE, UNKNOWN_CASE.when) from None
        except ClaimLostError as error:
            raise _problem(CLAIM_LOST, str(error)) from None
        except AlreadyDecidedError as error:
            raise _problem(ALREADY_DECIDED, str(error)) from None
        return DecidedView(case_id=case_id, decision=body.decision)

    async def give_back(self, request: Request, case_id: UUID) -> GivenBack:
        """Give a claim back, for others to take at once."""
        given_back = await store.give_back(self.pool, case_id, self._reviewer(request))
        return GivenBack(case_id=case_id, given_back=given_back)

    async def stats(self, days: Annotated[int, Query(ge=1, le=DAYS_MAX)] = 30) -> ReviewStats:
        """Return what waits, what was decided and how far second reviewers agree."""
        now = self.now()
        since = now - timedelta(days=days)
        looks = await store.second_looks(self.pool, since)
        told = agreement([(look["first"], look["second"]) for look in looks])
        return ReviewStats(
            since=rfc3339(since),
            waiting=[WaitingView(**row) for row in await store.queue_figures(self.pool, now)],
            decided=[DecidedFigures(**row) for row in await store.decided_figures(self.pool, since)],
            agreement=AgreementView(**told._asdict()),
            disagreements=[DisagreementView(**look) for look in looks if look["first"] != look["second"]][:100],
        )

    def _reviewer(self, request: Request) -> str:
        principal = principal_of(request, self.verifier)
        if not principal.startswith(REVIEWER_PREFIX):
            detail = f"principal {principal} is no reviewer; decisions are made under a reviewer's own name"
            raise Problem(NOT_A_REVIEWER.status, NOT_A_REVIEWER.kind, detail, field="authorization")
        return principal.removeprefix(REVIEWER_PREFIX)

    def _reader(self, request: Request) -> None:
        if principal_of(request, self.verifier) != OPERATOR:
            self._reviewer(request)

    async def _row(self, case_id: UUID) -> Mapping[str, Any]:
        row = await store.case_by_id(self.pool, case_id)
        if row is None:
            raise _problem(UNKNOWN_CASE, UNKNOWN_CASE.when)
        return row


def case_view(row: Mapping[str, Any]) -> CaseView:
    """Return a case as a reviewer sees it: the same in the first and in the second round."""
    statement = orjson.loads(row["statement"])
    own = {name: row[name] for name in CaseView.model_fields if name in row.keys()}  # noqa: SIM118  a Record
    evidence = [
        EvidenceView(rule=found["rule"], part=found["part"], start=found["start"], end=found["end"])
        for found in statement["evidence"]
    ]
    told = {name: statement.get(name, {}) for name in ("rules", "degraded", "scores")}
    return CaseView(**{**own, **told, "evidence": evidence})


def _problem(refusal: Refusal, detail: str) -> Problem:
    return Problem(refusal.status, refusal.kind, detail)
