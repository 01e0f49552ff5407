"""What the operator's command asks of the door, with a token of the principal `operator`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID  # noqa: TC003  FastAPI reads it when the routes are made

from fastapi import APIRouter, Depends, Query, Request

from common.http.problems import Problem, ProblemDocument
from common.security.tokens import TokenError
from common.times import rfc3339
from ingestion import store
from ingestion.accounts import (
    AccountSummary,
    CreatedAccount,
    LedgerTerms,
    NewAccount,
    RulesAcceptance,
    accept_rules,
    create_account,
    ledger,
    list_accounts,
)
from ingestion.trace import OPERATOR

if TYPE_CHECKING:
    from common.postgres.pool import Pool
    from common.security.tokens import TokenVerifier
    from ingestion.domain import RulesInForce

UNAUTHORISED_MAX = 1000
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemDocument} for status in (401, 403, 404, 409, 422)
}


def operator_routes(pool: Pool, rules: RulesInForce, verifier: TokenVerifier) -> APIRouter:
    """Return the routes; each answers the operator only."""

    def operator(request: Request) -> None:
        try:
            principal = verifier.principal(request.headers.get("authorization"))
        except TokenError as error:
            raise Problem(401, "no-token", str(error), field="authorization") from None
        if principal != OPERATOR:
            raise Problem(
                403, "operator-only", f"{principal} may not do this: it is the operator's", field="authorization"
            )

    router = APIRouter(prefix="/v1", tags=["operator"], dependencies=[Depends(operator)], responses=_PROBLEMS)

    @router.post("/accounts", status_code=201)
    async def post_account(wanted: NewAccount) -> CreatedAccount:
        """Create an account with its administrator; the answer holds the API keys, which are shown this once."""
        return await create_account(pool, wanted, rules)

    @router.get("/accounts")
    async def get_accounts() -> dict[str, list[AccountSummary]]:
        """List all accounts."""
        return {"items": list(await list_accounts(pool, rules))}

    @router.post("/accounts/{account_id}/rules-acceptances", status_code=201)
    async def post_acceptance(account_id: UUID, acceptance: RulesAcceptance) -> dict[str, str]:
        """Record that an account's administrator accepted the rules in force."""
        await accept_rules(pool, account_id, acceptance.version, rules)
        return {"account_id": str(account_id), "version": rules.version, "text_digest": rules.text_digest}

    @router.get("/ledger")
    async def get_ledger(account_id: UUID | None = None) -> LedgerTerms:
        """Count what was admitted and what waits for its first receipt, all at one moment."""
        return await ledger(pool, account_id)

    @router.get("/unauthorised")
    async def get_unauthorised(
        limit: Annotated[int, Query(ge=1, le=UNAUTHORISED_MAX)] = 100,
    ) -> dict[str, Any]:
        """List the newest records that could not prove where they come from; `count` is all of them."""
        rows = await store.list_unauthorised(pool, limit)
        return {
            "count": await store.count_unauthorised(pool),
            "items": [{**row, "seen_at": rfc3339(row["seen_at"])} for row in map(dict, rows)],
        }

    return router
