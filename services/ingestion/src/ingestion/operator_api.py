"""What the operator's command asks of the door, with a token of the principal `operator`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID  # noqa: TC003  FastAPI reads it when the routes are made

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from common.http.openapi import INVALID_FIELD, JSON_BODY, OPERATORS, refuses
from common.http.operators import operator_only
from common.http.unauthorised import ListedMax, UnauthorisedRecords, unauthorised_records
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
from ingestion.errors import ACCOUNT_EXISTS, INVALID_ADDRESS, UNKNOWN_ACCOUNT, VERSION_NOT_IN_FORCE

if TYPE_CHECKING:
    from common.postgres.pool import Pool
    from common.security.tokens import TokenVerifier
    from ingestion.admission import Sealer
    from ingestion.domain import RulesInForce


class AccountList(BaseModel):
    """All accounts, by name."""

    items: list[AccountSummary]


class AcceptedRules(BaseModel):
    """The version of the rules that an account has accepted; `text_digest` is the SHA-256 of its text."""

    account_id: str
    version: str
    text_digest: str


def operator_routes(pool: Pool, rules: RulesInForce, verifier: TokenVerifier, sealer: Sealer) -> APIRouter:
    """Return the routes; each answers the operator only."""
    router = APIRouter(prefix="/v1", tags=["operator"], dependencies=[Depends(operator_only(verifier))])

    @router.post(
        "/accounts",
        status_code=201,
        responses=refuses(*OPERATORS, *JSON_BODY, ACCOUNT_EXISTS, INVALID_ADDRESS, VERSION_NOT_IN_FORCE),
    )
    async def post_account(wanted: NewAccount) -> CreatedAccount:
        """Create an account with its administrator; the answer holds the API keys, which are shown this once.

        Limits: 100 inboxes and 100 users at creation.
        """
        return await create_account(pool, wanted, rules, sealer)

    @router.get("/accounts", responses=refuses(*OPERATORS))
    async def get_accounts() -> AccountList:
        """List all accounts."""
        return AccountList(items=list(await list_accounts(pool, rules)))

    @router.post(
        "/accounts/{account_id}/rules-acceptances",
        status_code=201,
        responses=refuses(*OPERATORS, *JSON_BODY, UNKNOWN_ACCOUNT, VERSION_NOT_IN_FORCE),
    )
    async def post_acceptance(account_id: UUID, acceptance: RulesAcceptance) -> AcceptedRules:
        """Record that an account's administrator accepted the rules in force."""
        await accept_rules(pool, account_id, acceptance.version, rules)
        return AcceptedRules(account_id=str(account_id), version=rules.version, text_digest=rules.text_digest)

    @router.get("/ledger", responses=refuses(*OPERATORS, INVALID_FIELD, UNKNOWN_ACCOUNT))
    async def get_ledger(account_id: UUID | None = None, after: UUID | None = None) -> LedgerTerms:
        """Count what was admitted and list what waits for its first receipt, all at one moment.

        Limits: 100,000 waiting messages are listed in one answer, in the order of their ids.
        """
        return await ledger(pool, account_id, after)

    @router.get("/unauthorised", responses=refuses(*OPERATORS, INVALID_FIELD))
    async def get_unauthorised(limit: ListedMax = 100) -> UnauthorisedRecords:
        """List the newest records that could not prove where they come from, and count all of them by reason."""
        return unauthorised_records(await store.count_unauthorised(pool), await store.list_unauthorised(pool, limit))

    return router
