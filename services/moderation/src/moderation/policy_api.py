"""Policies over HTTP: what is in force, what the shadow would change, and what operators decide about them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from common.events.envelope import encode
from common.events.screening import PolicyState, PolicyStatus
from common.http.openapi import INVALID_FIELD, JSON_BODY, OPERATORS, Refusal, refuses
from common.http.operators import operator_only
from common.http.problems import Problem
from common.security.signing import Proof, Signed
from moderation.policies import PolicyRefusedError
from moderation.policy.life import newest_first

if TYPE_CHECKING:
    from common.security.tokens import TokenVerifier
    from moderation.comparing import Backtest
    from moderation.policies import Policies, RecordPublisher
    from moderation.store import PolicyShelf
    from moderation.watching import Watch

HISTORY_MAX = 50
REFUSED_POLICY = Refusal(
    422,
    "refused-policy",
    "the statement is not genuine, the policy is broken (`detail` has line and column), or it cannot follow now",
)


UNKNOWN_POLICY = Refusal(404, "unknown-policy", "no policy of that name was ever here")


class PolicyProof(BaseModel):
    """That an operator signed the statement: as `common.security.signing.Proof`, within bounds."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(max_length=64)
    signature: str = Field(max_length=128)
    size: int = Field(ge=1, le=2**32)
    index: int = Field(ge=0, le=2**32)
    path: str = Field(max_length=2048)


class PolicyCall(BaseModel):
    """A statement about a policy with its proof."""

    model_config = ConfigDict(extra="forbid")

    statement: PolicyState
    proof: PolicyProof


class PolicyText(BaseModel):
    """A policy with its text, as its name is the digest of."""

    policy: str
    text: str


class PolicyChange(BaseModel):
    """One decision about a policy."""

    policy: str
    revision: int
    status: PolicyStatus
    reason: str
    decided_by: str
    changed_at: datetime


class Difference(BaseModel):
    """Messages of a clause whose outcome would be another one."""

    clause: str
    messages: int


class ShadowCounts(BaseModel):
    """What this copy counted since both policies are beside each other."""

    messages: int
    newly_stopped: list[Difference]
    newly_passed: list[Difference]


class PoliciesInForce(BaseModel):
    """Policies as this copy has them. `revision` is the highest so far: the next statement takes one more."""

    active: str
    active_from: str
    shadow: str | None
    revision: int
    differences: ShadowCounts
    refused: dict[str, int]
    states: list[PolicyChange]
    history: list[PolicyChange]


class PolicyTaken(BaseModel):
    """The statement is in the topic; every copy follows within moments."""

    policy: str
    status: PolicyStatus
    revision: int


def policy_routes(
    policies: Policies, shelf: PolicyShelf, watch: Watch, publisher: RecordPublisher, verifier: TokenVerifier
) -> APIRouter:
    """Return the routes of the principal `operator`."""
    router = APIRouter(prefix="/v1", tags=["operator"], dependencies=[Depends(operator_only(verifier))])

    @router.get("/policies", responses=refuses(*OPERATORS))
    async def get_policies() -> PoliciesInForce:
        """Tell what is in force and in shadow, what the shadow would change, and what was decided."""
        history = [PolicyChange(**row) for row in await shelf.states(HISTORY_MAX)]
        stated = policies.table.states.get(policies.active.name)
        return PoliciesInForce(
            active=policies.active.name,
            active_from="topic" if stated is not None and stated.status == "active" else "file",
            shadow=None if policies.shadow is None else policies.shadow.name,
            revision=policies.table.revision,
            differences=_counts(watch.comparison),
            refused=dict(policies.refusals),
            states=[_change(state) for state in newest_first(policies.table)][:HISTORY_MAX],
            history=history,
        )

    @router.get("/policies/{policy}", responses=refuses(*OPERATORS, UNKNOWN_POLICY, INVALID_FIELD))
    async def get_policy_text(policy: str) -> PolicyText:
        """Return the text of a policy that is or was in force or in shadow here."""
        state = policies.table.states.get(policy)
        text = state.text if state is not None else await shelf.text(policy)
        if text is None:
            raise Problem(UNKNOWN_POLICY.status, UNKNOWN_POLICY.kind, "no policy of that name was ever here")
        return PolicyText(policy=policy, text=text)

    @router.post("/policies", responses=refuses(*OPERATORS, *JSON_BODY, REFUSED_POLICY))
    async def state_policy(call: PolicyCall) -> PolicyTaken:
        """Put a policy in shadow or in force, or take it back; the statement is signed with the purpose `policy`."""
        signed = Signed(statement=call.statement.statement(), proof=Proof(**call.proof.model_dump()))
        try:
            event = await policies.checked(signed)
        except PolicyRefusedError as error:
            raise Problem(REFUSED_POLICY.status, REFUSED_POLICY.kind, str(error)) from None
        await publisher.publish([encode(event)])
        said = call.statement
        return PolicyTaken(policy=event.key, status=said.status, revision=said.revision)

    return router


def _change(state: PolicyState) -> PolicyChange:
    return PolicyChange.model_validate(state.model_dump(exclude={"text"}))


def _counts(comparison: Backtest) -> ShadowCounts:
    return ShadowCounts(
        messages=comparison.messages,
        newly_stopped=_by_clause(comparison.newly_stopped),
        newly_passed=_by_clause(comparison.newly_passed),
    )


def _by_clause(counts: dict[tuple[str, str], int]) -> list[Difference]:
    clauses: dict[str, int] = {}
    for (clause, _account), count in counts.items():
        clauses[clause] = clauses.get(clause, 0) + count
    return [Difference(clause=clause, messages=count) for clause, count in sorted(clauses.items())]
