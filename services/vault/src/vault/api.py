"""The vault's HTTP interface: who calls, whether the caller table allows it, then the call."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime, BaseModel

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
from common.contracts.vault_duties import (
    BasisCall,
    DoneAnswers,
    EraseAnswers,
    EraseCall,
    FindAnswers,
    FindCall,
    RestrictCall,
    SuppressCall,
    WithdrawCall,
)
from common.http.openapi import (
    BAD_REQUEST,
    INVALID_FIELD,
    INVALID_JSON,
    UNAUTHENTICATED,
    UNAVAILABLE,
    UNKNOWN_FIELD,
    answers,
    body_of,
    refuses,
)
from common.http.problems import Problem
from common.http.unauthorised import ListedMax, UnauthorisedRecords, unauthorised_records
from vault import store
from vault.coalescing import Discloser
from vault.domain import PURPOSES_OF_A_CASE, Access
from vault.erasing import Eraser
from vault.errors import BODY_TOO_LARGE, CLOSED, NOT_ALLOWED, TOO_FAST
from vault.finding import find
from vault.opening import open_capsules
from vault.scope import EVERY_ACCOUNT, scoped
from vault.sealing import seal
from vault.store import LedgerRow
from vault.withdrawals import Withdrawals

if TYPE_CHECKING:
    from common.postgres.pool import Pool
    from vault.erasing import RecordPublisher
    from vault.gate import Gate
    from vault.keyring import Keyring
    from vault.withdrawals import Relay

BODY_BYTES_MAX = 4 * 1024 * 1024

_MEANING = {
    "seal": "Find or create persons and wrap message keys; for ingestion, purpose `intake`.",
    "open": "Unwrap message keys; for whom the caller table names, with the purpose that it names.",
    "disclose": "Disclose what a provider needs; for routing, purpose `delivery`. The ledger has the row before.",
    "find": "Find persons by address or phone; purpose `data-protection`.",
    "erase": "Erase persons; purpose `data-protection`. From the answer on every call about them is refused.",
    "record-basis": "Record legal bases with their evidence; purpose `legal-basis`.",
    "withdraw": "End legal bases now; purpose `legal-basis`.",
    "suppress": "Keep opt-outs of addresses or phones, or lift them; purpose `legal-basis`.",
    "restrict": "Restrict persons, or lift that; purpose `data-protection`.",
}
BODY_REFUSALS = (
    UNAUTHENTICATED,
    NOT_ALLOWED,
    INVALID_JSON,
    BAD_REQUEST,
    BODY_TOO_LARGE,
    INVALID_FIELD,
    UNKNOWN_FIELD,
    TOO_FAST,
    UNAVAILABLE,
    CLOSED,
)

log = logging.getLogger(__name__)

Call = TypeVar("Call", bound=msgspec.Struct)
Run = Callable[[Call, Access, "Pool", "Keyring"], Awaitable[Any]]

_ENCODER = msgspec.json.Encoder()
_PLACE = re.compile(r"(?P<text>.*) - at `(?:key in )?\$(?P<place>.*)`", re.DOTALL)
_LENGTH = re.compile(r"length (?:>=|<=) (\d+)")
_NAMED = re.compile(r"field `([^`]*)`")


class Ledger(BaseModel):
    """Disclosures of one message, oldest first."""

    items: list[LedgerRow]


class Batch(Generic[Call]):
    """A batch operation: how its call is read, and who answers it."""

    def __init__(self, kind: type[Call], answers_kind: type[msgspec.Struct], run: Run[Call]) -> None:
        self.kind = kind
        self.run = run
        self.answers = answers_kind
        self._decoder: msgspec.json.Decoder[Call] = msgspec.json.Decoder(kind)

    def read(self, body: bytes) -> Call:
        """Return the call, or raise the Problem that names the field or limit; values are never repeated."""
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise unfit(error) from None


def vault_routes(gate: Gate, pool: Pool, keyring: Keyring, publisher: RecordPublisher, relay: Relay) -> APIRouter:
    """Return the routes under `/v1`."""
    router = APIRouter(prefix="/v1")
    reading = refuses(UNAUTHENTICATED, NOT_ALLOWED, INVALID_FIELD, UNAVAILABLE)

    def batch_route(operation: str, batch: Batch[Any]) -> None:
        async def call_in_batch(request: Request) -> Response:
            caller = await gate.admit(request, operation)
            call = batch.read(await read_body(request))
            access = await gate.check(_access(caller, operation, call))
            _need_a_person(access)
            gate.need_open()
            answers = await batch.run(call, access, pool, keyring)
            return _json({"items": answers})

        router.add_api_route(
            f"/{operation}:batch",
            call_in_batch,
            methods=["POST"],
            name=f"{operation.replace('-', ' ')} batch",
            description=f"{_MEANING[operation]}\n\nLimits: {ITEMS_MAX:,} items, {BODY_BYTES_MAX:,} bytes.",
            tags=["services" if operation in {"seal", "open", "disclose"} else "duties"],
            responses={**answers(batch.answers), **refuses(*BODY_REFUSALS)},
            response_class=Response,
            openapi_extra=body_of(batch.kind),
        )

    batch_route("seal", Batch(SealCall, SealAnswers, seal))
    batch_route("open", Batch(OpenCall, OpenAnswers, open_capsules))
    batch_route("disclose", Batch(DiscloseCall, DiscloseAnswers, Discloser().disclose))

    batch_route("find", Batch(FindCall, FindAnswers, find))
    batch_route("erase", Batch(EraseCall, EraseAnswers, Eraser(publisher).erase))

    withdrawals = Withdrawals(relay)
    batch_route("record-basis", Batch(BasisCall, DoneAnswers, withdrawals.record))
    batch_route("withdraw", Batch(WithdrawCall, DoneAnswers, withdrawals.withdraw))
    batch_route("suppress", Batch(SuppressCall, DoneAnswers, withdrawals.suppress))
    batch_route("restrict", Batch(RestrictCall, DoneAnswers, withdrawals.restrict))

    @router.get("/disclosures", tags=["operator"], responses=reading)
    async def get_disclosures(
        request: Request, message_id: Annotated[str, Query(min_length=1, max_length=100)]
    ) -> Ledger:
        """List the disclosures of one message, oldest first; no personal data.

        Limits: the first 1,000 entries.
        """
        caller = await gate.admit(request, "read-ledger")
        async with scoped(pool, EVERY_ACCOUNT) as connection:
            rows = await store.disclosures_of_message(connection, message_id)
            await store.log_access(connection, Access(caller, "read-ledger", None, None, len(rows)), answered=len(rows))
        return Ledger(items=rows)

    @router.get(
        "/disclosures/unsettled",
        tags=["services"],
        responses={**answers(UnsettledAnswers), **reading},
        response_class=Response,
    )
    async def get_unsettled(request: Request, since: AwareDatetime) -> Response:
        """What this caller was given since then for messages that are not spent: after its database was put back."""
        caller = await gate.admit(request, "read-unsettled")
        async with scoped(pool, EVERY_ACCOUNT) as connection:
            items = await store.unsettled(connection, since, caller)
            access = Access(caller, "read-unsettled", None, None, len(items))
            await store.log_access(connection, access, answered=len(items))
        return _json(UnsettledAnswers(items=items))

    @router.get("/unauthorised", tags=["operator"], responses=reading)
    async def get_unauthorised(request: Request, limit: ListedMax = 100) -> UnauthorisedRecords:
        """List the newest receipts that came without a valid signature, and count all of them by reason."""
        await gate.admit(request, "read-unauthorised")
        async with pool.acquire() as connection:
            counts = await store.unauthorised_counts(connection)
            return unauthorised_records(counts, await store.list_unauthorised(connection, limit))

    return router


def _json(answer: object) -> Response:
    return Response(_ENCODER.encode(answer), media_type="application/json")


def _access(caller: str, operation: str, call: Any) -> Access:
    case_id, user_id = (call.case_id, call.user_id) if isinstance(call, OpenCall) else (None, None)
    provider = call.provider if isinstance(call, DiscloseCall) else None
    return Access(caller, operation, call.purpose, case_id, len(call.items), user_id, provider)


def _need_a_person(access: Access) -> None:
    if access.purpose in PURPOSES_OF_A_CASE and access.case_id is None:
        raise Problem(422, "invalid-field", f"case_id: purpose {access.purpose} needs a case", field="case_id")
    if access.purpose == "inbox" and access.user_id is None:
        raise Problem(422, "invalid-field", "user_id: purpose inbox needs the user who reads", field="user_id")


async def read_body(request: Request) -> bytes:
    """Return the body, or raise the problem that names its limit."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise Problem(413, "body-too-large", "send fewer items in a call", field="body", limit=BODY_BYTES_MAX)
        parts.append(part)
    return b"".join(parts)


def unfit(error: Exception) -> Problem:
    """Return the problem for a body that is no JSON, or does not fit its shape, from what the decoder told."""
    if isinstance(error, RecursionError | UnicodeDecodeError):
        return Problem(400, "bad-request", "the body is no UTF-8, or nested too deeply", field="body")
    if not isinstance(error, msgspec.ValidationError):
        return Problem(400, "invalid-json", f"the body is no JSON document: {error}", field="body")
    found = _PLACE.fullmatch(str(error))
    text, place = (found["text"], found["place"]) if found else (str(error), "")
    field = re.sub(r"\[(\d*)(?:\.\.\.)?\]", r".\1", place).strip(".")
    if named := _NAMED.search(text):
        field = f"{field}.{named[1]}".strip(".")
    limit = int(length[1]) if (length := _LENGTH.search(text)) else None
    kind = "unknown-field" if "unknown field" in text else "invalid-field"
    return Problem(422, kind, f"{field or 'body'}: {text}", field=field or "body", limit=limit)
