"""The vault's HTTP interface: who calls, whether the caller table allows it, then the call."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

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
from vault.batches import BODY_BYTES_MAX, Batch, Read, read_body
from vault.coalescing import Discloser
from vault.domain import PURPOSES_OF_A_CASE, Access
from vault.erasing import Eraser
from vault.errors import BODY_TOO_LARGE, CLOSED, NOT_ALLOWED, TOO_FAST
from vault.finding import find, refuse_person_item, refuse_person_of
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

_MEANING = {
    "seal": (
        "Find or create persons and wrap message keys; for ingestion, purpose `intake`, and for enforcement, purpose"
        " `complaints`, which takes complainants alone."
    ),
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

_ENCODER = msgspec.json.Encoder()


class Ledger(BaseModel):
    """Disclosures of one message, oldest first."""

    items: list[LedgerRow]


def vault_routes(gate: Gate, pool: Pool, keyring: Keyring, publisher: RecordPublisher, relay: Relay) -> APIRouter:
    """Return the routes under `/v1`."""
    router = APIRouter(prefix="/v1")
    reading = refuses(UNAUTHENTICATED, NOT_ALLOWED, INVALID_FIELD, UNAVAILABLE)

    def batch_route(operation: str, batch: Batch[Any]) -> None:
        async def call_in_batch(request: Request) -> Response:
            caller = await gate.admit(request, operation)
            read = batch.read(await read_body(request))
            access = await gate.check(_access(caller, operation, read))
            _need_a_person(access)
            gate.need_open()
            answers = await batch.answer(read, access, pool, keyring)
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

    batch_route("find", Batch(FindCall, FindAnswers, find, refuse_person_item))
    batch_route("erase", Batch(EraseCall, EraseAnswers, Eraser(publisher).erase, refuse_person_item))

    withdrawals = Withdrawals(relay)
    batch_route("record-basis", Batch(BasisCall, DoneAnswers, withdrawals.record, refuse_person_of))
    batch_route("withdraw", Batch(WithdrawCall, DoneAnswers, withdrawals.withdraw, refuse_person_of))
    batch_route("suppress", Batch(SuppressCall, DoneAnswers, withdrawals.suppress))
    batch_route("restrict", Batch(RestrictCall, DoneAnswers, withdrawals.restrict, refuse_person_of))

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


def _access(caller: str, operation: str, read: Read[Any]) -> Access:
    call = read.call
    case_id, user_id = (call.case_id, call.user_id) if isinstance(call, OpenCall) else (None, None)
    provider = call.provider if isinstance(call, DiscloseCall) else None
    return Access(caller, operation, call.purpose, case_id, read.items, user_id, provider)


def _need_a_person(access: Access) -> None:
    if access.purpose in PURPOSES_OF_A_CASE and access.case_id is None:
        raise Problem(422, "invalid-field", f"case_id: purpose {access.purpose} needs a case", field="case_id")
    if access.purpose == "inbox" and access.user_id is None:
        raise Problem(422, "invalid-field", "user_id: purpose inbox needs the user who reads", field="user_id")
