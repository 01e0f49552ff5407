"""From verdicts that hold to cases: what is kept of a message so that a person can look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.times import parse_rfc3339
from moderation.domain import ERASED
from moderation.review.cases import case_id_of, likeness_of, severity_of
from moderation.review.store import NewCase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.events.intake import VerifiedInstruction
    from moderation.policy.reading import Policy
    from moderation.review.cases import Clocks


def severities_of(policy: Policy) -> dict[str, int]:
    """Return the severity of each rule."""
    return {rule.id: rule.severity for rule in policy.document.rules}


def case_of_hold(
    verified: VerifiedInstruction, statement: Mapping[str, Any], severities: Mapping[str, int], clocks: Clocks
) -> NewCase | None:
    """Return the case of a held message; None when its content was erased, so that there is nothing to look at."""
    if ERASED in statement["degraded"]:
        return None
    instruction = verified.instruction
    opened_at = parse_rfc3339(statement["screened_at"])
    return NewCase(
        case_id=case_id_of(instruction.message_id, "hold"),
        message_id=instruction.message_id,
        kind="hold",
        account_id=instruction.account_id,
        tool=instruction.tool,
        clauses=",".join(statement["clauses"]),
        severity=severity_of(statement["rules"], severities),
        likeness=likeness_of(
            instruction.account_id, statement["rules"], [found["digest"] for found in statement["evidence"]]
        ),
        recipient_token=instruction.recipient_token,
        instruction_digest=verified.digest,
        content_digest=instruction.content_digest,
        capsule=verified.sealed.capsule,
        content=verified.sealed.content,
        due_at=clocks.due_at(statement["clauses"], opened_at, instruction.not_after),
        not_after=instruction.not_after,
        opened_at=opened_at,
    )
