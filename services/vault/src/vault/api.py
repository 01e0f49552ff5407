"""The vault's HTTP interface: who calls, whether the caller table allows it, then the call."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import asyncpg
from fastapi import APIRouter, FastAPI, Query, Request, Response
from pydantic import BaseModel, ValidationError

from common.contracts.vault import (
    DiscloseAnswers,
    DiscloseCall,
    OpenAnswers,
    OpenCall,
    SealAnswers,
    SealCall,
)
from common.http.problems import Problem, install_problem_handlers, invalid_fields
from common.kafka.consumer import RETRYABLE
from common.security.tokens import TokenError, TokenVerifier
from vault import store
from vault.disclosing import disclose
from vault.domain import PURPOSES_OF_A_CASE, Access, Operation, is_allowed, may_call
from vault.errors import forbidden
from vault.opening import open_capsules
from vault.sealing import seal
from vault.store import LedgerRow

if TYPE_CHECKING:
    from common.postgres.pool import Pool
    from vault.keyring import Keyring

BODY_BYTES_MAX = 4 * 1024 * 1024

log = logging.getLogger(__name__)

Call = TypeVar("Call", SealCall, OpenCall, DiscloseCall)


class Unauthorised(BaseModel):
    """How many records were refused for want of a valid signature, in all and by reason."""

    count: int
    by_reason: dict[str, int]


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
        try:
            caller = self._verifier.principal(request.headers.get("authorization"))
        except TokenError as error:
            raise Problem(401, "unauthenticated", str(error)) from None
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
            description=kind.__doc__,
            response_model=answers,
            openapi_extra=_request_body(kind),
        )

    batch_route("seal", SealCall, SealAnswers, seal)
    batch_route("open", OpenCall, OpenAnswers, open_capsules)
    batch_route("disclose", DiscloseCall, DiscloseAnswers, disclose)

    @router.get("/disclosures")
    async def disclosures(request: Request, message_id: Annotated[str, Query(min_length=1, max_length=100)]) -> Ledger:
        """The ledger of one message, for an operator; no personal data."""
        caller = await gate.admit(request, "read-ledger")
        async with pool.acquire() as connection:
            rows = await store.disclosures_of_message(connection, message_id)
            await store.log_access(connection, Access(caller, "read-ledger", None, None, len(rows)), answered=len(rows))
        return Ledger(items=rows)

    @router.get("/unauthorised")
    async def unauthorised(request: Request) -> Unauthorised:
        """How many receipts came without a valid signature, for an operator."""
        await gate.admit(request, "read-unauthorised")
        async with pool.acquire() as connection:
            counts = await store.unauthorised_counts(connection)
        return Unauthorised(count=sum(counts.values()), by_reason=dict(counts))

    return router


Run = Callable[[Call, Access, Any, "Keyring"], Awaitable[list[Any]]]


def install_errors(app: FastAPI) -> None:
    """Make every error a problem document: 503 while the database is away, 422 for what it cannot hold."""
    install_problem_handlers(app)

    async def on_outage(_: Request, error: Exception) -> Response:
        log.warning("unavailable: %s", type(error).__name__)
        detail = "the vault's database does not answer; ask again"
        return Problem(503, "unavailable", detail, retry_after_seconds=1).response()

    async def on_unfit(_: Request, error: Exception) -> Response:
        log.info("a value does not fit: %s", type(error).__name__)
        return Problem(422, "invalid-field", "a text holds a NUL character or a number is too large").response()

    for kind in RETRYABLE:
        app.add_exception_handler(kind, on_outage)
    app.add_exception_handler(asyncpg.DataError, on_unfit)


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


def _request_body(kind: type[BaseModel]) -> dict[str, Any]:
    schema = kind.model_json_schema(mode="validation")
    inlined = _inline(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    """Return a schema with its references replaced: OpenAPI resolves none of a schema's own definitions."""
    if isinstance(node, list):
        return [_inline(part, definitions) for part in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inline(definitions[node["$ref"].rpartition("/")[2]], definitions)
    return {name: _inline(part, definitions) for name, part in node.items()}
