"""The trace of a message: every step of its road, for the account it belongs to and for the operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import orjson

from common.http.problems import Problem
from common.security.tokens import TokenError
from common.times import now, rfc3339
from ingestion import store
from ingestion.domain import checked_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from common.postgres.pool import Pool
    from common.security.tokens import TokenVerifier
    from ingestion.domain import RulesInForce

OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who asks: an API key by its digest, or the operator (None)."""

    key_digest: bytes | None

    @classmethod
    def of(cls, authorization: str | None, operators: TokenVerifier, key_digest: Callable[[str | None], bytes]) -> Self:
        """Return who sent an Authorization header, or raise Problem."""
        try:
            if operators.principal(authorization) == OPERATOR:
                return cls(None)
        except TokenError:
            pass
        return cls(key_digest(authorization))

    async def may_see(self, account_id: str, pool: Pool, rules: RulesInForce) -> bool:
        """Tell whether an account's messages are this viewer's business; raise Problem for a key that opens nothing."""
        if self.key_digest is None:
            return True
        authority = (await store.authorities(pool, [self.key_digest], rules)).get(self.key_digest)
        return checked_key(authority, now()).account_id == account_id


async def trace(pool: Pool, message_id: str, viewer: Viewer, rules: RulesInForce) -> dict[str, Any]:
    """Return the trace document.

    Raises:
        Problem: there is no such message, or it belongs to another account (the answer is the same).
    """
    row = await store.message(pool, parsed) if (parsed := _uuid(message_id)) else None
    visible = await viewer.may_see("" if row is None else row["account_id"], pool, rules)
    if row is None or not visible:
        raise Problem(404, "unknown-message", "the account has no message with this id", field="id")
    return _document(row, await store.steps(pool, row["id"]))


def _document(row: Mapping[str, Any], steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    admitted_at = rfc3339(row["admitted_at"])
    road = [{"sequence": 0, "state": "admitted", "reason": "stored at the door", "occurred_at": admitted_at}]
    road += [{**step, "occurred_at": rfc3339(step["occurred_at"])} for step in map(dict, steps)]
    return {
        "id": row["id"],
        "account_id": row["account_id"],
        "tool": row["tool"],
        "inbox_id": row["inbox_id"],
        "recipient_token": row["recipient_token"],
        "reference": row["reference"],
        "digest": row["content_digest"],
        "state": road[-1]["state"],
        "admitted_at": admitted_at,
        "steps": road,
        "acceptance": orjson.Fragment(row["signed_instruction"]),
    }


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
