"""The vault's HTTP interface: who calls, whether the caller table allows it, then the call."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ValidationError

from common.contracts.vault import (
    ITEMS_MAX,
    DiscloseAnswers,
    DiscloseCall,
    OpenAnswers,
    OpenCall,
    SealAnswers,
    SealCall,
    UnsettledAnswers,
)
from common.http.openapi import (
    INVALID_FIELD,
    INVALID_JSON,
    UNAUTHENTICATED,
    UNAVAILABLE,
    UNKNOWN_FIELD,
    body_of,
    refuses,
)
from common.http.operators import principal_of
from common.http.problems import Problem, invalid_fields
from common.http.unauthorised import ListedMax, UnauthorisedRecords, unauthorised_records
from vault import store
from vault.disclosing import disclose
from vault.domain import PURPOSES_OF_A_CASE, Access, Operation, is_allowed, may_call
from vault.errors import BODY_TOO_LARGE, NOT_ALLOWED, forbidden
from vault.opening import open_capsules
from vault.sealing import seal
from vault.store import LedgerRow

if TYPE_CHECKING:
    from common.postgres.pool import Pool
    from common.security.tokens import TokenVerifier
    from vault.keyring import Keyring

BODY_BYTES_MAX = 4 * 1024 * 1024

_MEANING: dict[Operation, str] = {
    "seal": "Find or create recipients and wrap message keys; for ingestion, purpose `intake`.",
    "open": "Unwrap message keys; for whom the caller table names, with the purpose that it names.",
    "disclose": "Disclose what a provider needs; for routing, purpose `delivery`. The ledger has the row before.",
}

log = logging.getLogger(__name__)

Call = TypeVar("Call", SealCall, OpenCall, DiscloseCall)


class Ledger(BaseModel):
    """Disclosures of one message, oldest first."""

    items: list[LedgerRow]


class Gate:
    """Lets calls in by the caller table, and logs those it turns away."""

    def __init__(self, verifier: TokenVerifier, pool: Pool) -> None:
        self._verifier = verifier
        self._pool = pool

    async def admit(self, request: Request, operation: Operation) -> str:
        """Return the principal, or answer 401, or 403 when it may not use the operation at all."""
        caller = principal_of(request, self._verifier)
        if not may_call(caller, operation):
            await self._turn_away(Access(caller, operation, None, None, 0))
        return caller

    async def check(self, access: Access) -> Access:
        """Return the access when the table has its row."""
        if not is_allowed(access.caller, access.operation, access.purpose):
            await self._turn_away(access)
        return access

    async def parse(self, caller: str, operation: Operation, kind: type[Call], body: bytes) -> Call:
        """Return the call, or the problem that names the field or limit; another purpose is a matter of the table."""
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["loc"] == ("purpose",) and first["type"] == "literal_error":
                await self._turn_away(Access(caller, operation, "another purpose", None, 0))
            raise invalid_fields(error) from None

    async def _turn_away(self, access: Access) -> None:
        await store.log_access(self._pool, access, refused=True)
        log.warning("refused: %s asked for %s", access.caller, access.operation)
        raise forbidden(access.caller, access.operation, access.purpose)


def vault_routes(gate: Gate, pool: Pool, keyring: Keyring) -> APIRouter:
    """Return the routes under `/v1`."""
    router = APIRouter(prefix="/v1")
    reading = refuses(UNAUTHENTICATED, NOT_ALLOWED, INVALID_FIELD, UNAVAILABLE)

    def batch_route(operation: Operation, kind: type[Call], answers: type[BaseModel], run: Run[Call]) -> None:
        async def call_in_batch(request: Request) -> Response:
            caller = await gate.admit(request, operation)
            call = await gate.parse(caller, operation, kind, await _body(request))
            case_id = call.case_id if isinstance(call, OpenCall) else None
            access = await gate.check(Access(caller, operation, call.purpose, case_id, len(call.items)))
            _need_case(access)
            async with pool.acquire() as connection:
                items = await run(call, access, connection, keyring)
            made = answers.model_construct(items=items)
            content = made.__pydantic_serializer__.to_json(made, exclude_none=True)
            return Response(content, media_type="application/json")

        router.add_api_route(
            f"/{operation}:batch",
            call_in_batch,
            methods=["POST"],
            name=f"{operation} batch",
            description=f"{_MEANING[operation]}\n\nLimits: {ITEMS_MAX:,} items, {BODY_BYTES_MAX:,} bytes.",
            tags=["services"],
            response_model=answers,
            responses=refuses(
                UNAUTHENTICATED, NOT_ALLOWED, INVALID_JSON, BODY_TOO_LARGE, INVALID_FIELD, UNKNOWN_FIELD, UNAVAILABLE
            ),
            openapi_extra=body_of(kind),
        )

    batch_route("seal", SealCall, SealAnswers, seal)
    batch_route("open", OpenCall, OpenAnswers, open_capsules)
    batch_route("disclose", DiscloseCall, DiscloseAnswers, disclose)

    @router.get("/disclosures", tags=["operator"], responses=reading)
    async def get_disclosures(
        request: Request, message_id: Annotated[str, Query(min_length=1, max_length=100)]
    ) -> Ledger:
        """List the disclosures of one message, oldest first; no personal data.

        Limits: the first 1,000 entries.
        """
        caller = await gate.admit(request, "read-ledger")
        async with pool.acquire() as connection:
            rows = await store.disclosures_of_message(connection, message_id)
            await store.log_access(connection, Access(caller, "read-ledger", None, None, len(rows)), answered=len(rows))
        return Ledger(items=rows)

    @router.get("/disclosures/unsettled", tags=["services"], responses=reading)
    async def get_unsettled(request: Request, since: datetime) -> UnsettledAnswers:
        """What this caller was given since then for messages that are not spent: after its database was put back."""
        caller = await gate.admit(request, "read-unsettled")
        async with pool.acquire() as connection:
            items = await store.unsettled(connection, since, caller)
            access = Access(caller, "read-unsettled", None, None, len(items))
            await store.log_access(connection, access, answered=len(items))
        return UnsettledAnswers(items=items)

    @router.get("/unauthorised", tags=["operator"], responses=reading)
    async def get_unauthorised(request: Request, limit: ListedMax = 100) -> UnauthorisedRecords:
        """List the newest receipts that came without a valid signature, and count all of them by reason."""
        await gate.admit(request, "read-unauthorised")
        async with pool.acquire() as connection:
            counts = await store.unauthorised_counts(connection)
            return unauthorised_records(counts, await store.list_unauthorised(connection, limit))

    return router


Run = Callable[[Call, Access, Any, "Keyring"], Awaitable[list[Any]]]


def _need_case(access: Access) -> None:
    if access.purpose in PURPOSES_OF_A_CASE and access.case_id is None:
        raise Problem(422, "invalid-field", f"case_id: purpose {access.purpose} needs a case", field="case_id")


async def _body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise Problem(413, "body-too-large", "send fewer items in a call", field="body", limit=BODY_BYTES_MAX)
        parts.append(part)
    return b"".join(parts)
