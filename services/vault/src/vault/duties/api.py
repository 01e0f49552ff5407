"""The routes of the duties: what a data protection officer asks of the vault, as the operator."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel

from common.contracts.vault_people import (
    AccountCall,
    AccountEnd,
    EndCall,
    Export,
    ExportCall,
    NoticeAnswers,
    NoticesCall,
    ObjectAnswers,
    ObjectCall,
    RectifyAnswers,
    RectifyCall,
    RetentionCall,
    RetentionRun,
    RuleAnswers,
    RulesCall,
)
from common.http.openapi import INVALID_FIELD, UNAUTHENTICATED, UNAVAILABLE, answers, body_of, refuses
from common.http.openapi import Refusal as Answer
from common.http.problems import Problem
from common.security.signing import Signed  # noqa: TC001  FastAPI reads it at runtime
from vault import store
from vault.api import BODY_REFUSALS
from vault.batches import Batch, Read, read_body
from vault.domain import Access
from vault.duties import rows
from vault.duties.account_end import AccountEnds, export_account, signed_state
from vault.duties.export import export
from vault.duties.objections import finish_notices, record_objections
from vault.duties.pages import page
from vault.duties.records import Deployment, Records, Register, read_records, read_register
from vault.duties.rectify import rectify
from vault.duties.retention import Retention, set_rules
from vault.erasing import Eraser
from vault.errors import NOT_ALLOWED
from vault.finding import refuse_person_of
from vault.scope import EVERY_ACCOUNT, scope_of, scoped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from common.postgres.pool import Pool
    from common.security.signing import Signer
    from vault.erasing import RecordPublisher
    from vault.gate import Gate
    from vault.keyring import Keyring

LISTED_MAX = 1000
DATA_PROTECTION = "data-protection"
UNKNOWN_PERSON = Answer(404, "unknown-recipient", "nobody of this account is known by this, or was")
NO_SUCH_ACCOUNT = Answer(404, "no-such-account", "the vault has no keys of this account, or nobody asked for its end")
NOT_CONFIRMED = Answer(409, "not-confirmed", "the confirmation is not the one that the first step gave")
NOT_EXPORTED = Answer(409, "not-exported", "the account was not exported since its end was asked for")
_READING = (UNAUTHENTICATED, NOT_ALLOWED, UNAVAILABLE)
_PAGE_EXAMPLE = "<!doctype html><html lang=en><title>Information about a person</title>"

_ENCODER = msgspec.json.Encoder()


class RetentionRule(BaseModel):
    """A rule; account `*` is for all that have none of their own."""

    account_id: str
    kind: str
    unused_days: int
    basis_ended_days: int | None
    set_by: str
    set_at: datetime


class RetentionRules(BaseModel):
    """Every rule in force."""

    items: list[RetentionRule]


class OpenNotice(BaseModel):
    """A provider that has to be told that a person was erased, rectified or restricted."""

    id: int
    account_id: str
    recipient_token: str
    provider: str
    kind: str
    made_at: datetime
    due_at: datetime


class OpenNotices(BaseModel):
    """Notices that nobody has done, the most urgent first."""

    count: int
    items: list[OpenNotice]


class _Door:
    """What every route here does first: who calls, by the caller table; then the body."""

    def __init__(self, gate: Gate, pool: Pool, keyring: Keyring) -> None:
        self._gate = gate
        self.pool = pool
        self.keyring = keyring

    async def read(self, request: Request, operation: str, kind: Batch[Any]) -> tuple[Read[Any], Access]:
        """Return a call and its access, or raise the problem."""
        caller = await self._gate.admit(request, operation)
        read = kind.read(await read_body(request))
        access = await self._gate.check(Access(caller, operation, read.call.purpose, None, read.items))
        self._gate.need_open()
        return read, access

    async def note(self, request: Request, operation: str) -> None:
        """Let a reader in, and log that it read."""
        caller = await self._gate.admit(request, operation)
        access = Access(caller, operation, DATA_PROTECTION, None, 1)
        await store.log_access(self.pool, access, answered=1)


def duties_routes(
    gate: Gate, pool: Pool, keyring: Keyring, publisher: RecordPublisher, *, signer: Signer, deployment: Deployment
) -> APIRouter:
    """Return the routes under `/v1`."""
    router = APIRouter(prefix="/v1", tags=["data protection"])
    door, eraser = _Door(gate, pool, keyring), Eraser(publisher)
    _person_routes(router, door, deployment)
    _call_routes(router, door, eraser)
    _account_routes(router, door, eraser, signer)
    _register_routes(router, door, deployment)
    return router


def _person_routes(router: APIRouter, door: _Door, deployment: Deployment) -> None:
    reading = Batch(ExportCall, Export, export)

    @router.post(
        "/export",
        responses={**answers(Export), **refuses(*BODY_REFUSALS, UNKNOWN_PERSON)},
        response_class=Response,
        openapi_extra=body_of(ExportCall),
    )
    async def export_person(request: Request) -> Response:
        """Export a person: fields, recipients, purposes, bases, opt-outs, erasure. Purpose `data-protection`."""
        read, access = await door.read(request, "export", reading)
        return _json(await export(read.call, access, door.pool, door.keyring))

    @router.post(
        "/export/page",
        responses={**_page(), **refuses(*BODY_REFUSALS, UNKNOWN_PERSON)},
        response_class=HTMLResponse,
        openapi_extra=body_of(ExportCall),
    )
    async def export_person_page(request: Request) -> HTMLResponse:
        """Export a person as a page that people can read. Purpose `data-protection`."""
        read, access = await door.read(request, "export", reading)
        found = await export(read.call, access, door.pool, door.keyring)
        return _html(page("person.html", export=found, deployment=deployment))


def _json(answer: Any) -> Response:
    return Response(_ENCODER.encode(answer), media_type="application/json")


def _html(text: str) -> HTMLResponse:
    return HTMLResponse(text, headers={"cache-control": "no-store"})


def _page(example: str = _PAGE_EXAMPLE, media: str = "text/html") -> dict[int | str, dict[str, Any]]:
    content = {media: {"schema": {"type": "string"}, "example": example}}
    return {200: {"description": "The page.", "content": content}}


_MEANING = {
    "rectify:batch": "Rectify fields of persons; purpose `data-protection`. Look-ups and opt-outs follow.",
    "object:batch": "Object to processors for accounts, or lift that; purpose `data-protection`.",
    "notices:done": "Say that providers were told, with the evidence; purpose `data-protection`.",
    "retention-rules:batch": "Set how long persons are kept; purpose `data-protection`.",
    "retention-runs": "Run retention: a dry run unless told otherwise; purpose `data-protection`.",
}


def _call_routes(router: APIRouter, door: _Door, eraser: Eraser) -> None:

    def route(path: str, operation: str, batch: Batch[Any]) -> None:
        async def call_duty(request: Request) -> Response:
            read, access = await door.read(request, operation, batch)
            answer: Any = await batch.answer(read, access, door.pool, door.keyring)
            found = {"items": answer} if isinstance(answer, list) else answer
            return _json(found)

        router.add_api_route(
            f"/{path}",
            call_duty,
            methods=["POST"],
            name=path.replace("-", " ").replace(":", " "),
            description=_MEANING[path],
            responses={**answers(batch.answers), **refuses(*BODY_REFUSALS)},
            response_class=Response,
            openapi_extra=body_of(batch.kind),
        )

    route("rectify:batch", "rectify", Batch(RectifyCall, RectifyAnswers, rectify, refuse_person_of))
    route("object:batch", "object", Batch(ObjectCall, ObjectAnswers, record_objections))
    route("notices:done", "notify", Batch(NoticesCall, NoticeAnswers, finish_notices))
    route("retention-rules:batch", "set-retention", Batch(RulesCall, RuleAnswers, set_rules))
    route("retention-runs", "run-retention", Batch(RetentionCall, RetentionRun, Retention(eraser).run))


def _account_routes(router: APIRouter, door: _Door, eraser: Eraser, signer: Signer) -> None:
    ends = AccountEnds(eraser)
    asking, confirming = Batch(AccountCall, AccountEnd, ends.ask), Batch(EndCall, AccountEnd, ends.confirm)
    lines: dict[int | str, dict[str, Any]] = {
        200: {"description": "Persons.", "content": {"application/x-ndjson": {"schema": {}, "example": ""}}}
    }

    @router.post(
        "/account-export",
        responses={**lines, **refuses(*BODY_REFUSALS)},
        response_class=Response,
        openapi_extra=body_of(AccountCall),
    )
    async def export_an_account(request: Request) -> Response:
        """Export all persons of an account, one JSON document a line. The last line says that it is whole."""
        read, access = await door.read(request, "export-account", asking)
        scope_of([read.call.account_id])  # an error must come before the first line
        found: AsyncIterator[bytes] = export_account(read.call, access, door.pool, door.keyring)
        return StreamingResponse(found, media_type="application/x-ndjson", headers={"cache-control": "no-store"})

    @router.post(
        "/account-ends",
        responses={**answers(AccountEnd), **refuses(*BODY_REFUSALS, NO_SUCH_ACCOUNT)},
        response_class=Response,
        openapi_extra=body_of(AccountCall),
    )
    async def ask_for_the_end(request: Request) -> Response:
        """Ask for the end of an account. Nothing changes yet; the answer has the confirmation for the second step."""
        read, access = await door.read(request, "end-account", asking)
        return _json(await ends.ask(read.call, access, door.pool, door.keyring))

    @router.post(
        "/account-ends:confirm",
        responses={**answers(AccountEnd), **refuses(*BODY_REFUSALS, NO_SUCH_ACCOUNT, NOT_CONFIRMED, NOT_EXPORTED)},
        response_class=Response,
        openapi_extra=body_of(EndCall),
    )
    async def confirm_the_end(request: Request) -> Response:
        """End an account: its persons are erased, its keys destroyed. Repeat it until the state is `ended`."""
        read, access = await door.read(request, "end-account", confirming)
        return _json(await ends.confirm(read.call, access, door.pool, door.keyring))

    @router.get(
        "/account-ends/{account_id}",
        responses=refuses(*_READING, INVALID_FIELD, NO_SUCH_ACCOUNT),
    )
    async def get_the_end(request: Request, account_id: Annotated[str, Path(min_length=1, max_length=100)]) -> Signed:
        """Show how far the end of an account is, signed."""
        await door.note(request, "end-account")
        statement = await signed_state(door.pool, account_id)
        if statement is None:
            raise Problem(404, "no-such-account", "nobody asked for the end of this account")
        (signed,) = signer.sign([statement])
        return signed


def _register_routes(router: APIRouter, door: _Door, deployment: Deployment) -> None:
    @router.get("/processors", responses=refuses(*_READING))
    async def get_processors(request: Request) -> Register:
        """List the providers that may be given personal data, with their fields, countries and dates."""
        await door.note(request, "read-processors")
        return await read_register(door.pool, deployment)

    @router.get("/processors/page", responses={**_page(), **refuses(*_READING)}, response_class=HTMLResponse)
    async def get_processors_page(request: Request) -> HTMLResponse:
        """Show the register of sub-processors as a page to publish."""
        await door.note(request, "read-processors")
        return _html(page("register.html", register=await read_register(door.pool, deployment)))

    @router.get("/records", responses=refuses(*_READING))
    async def get_records(request: Request) -> Records:
        """Return the records of processing (Art. 30(2) GDPR), from the configuration and rows in force."""
        await door.note(request, "read-records")
        return await read_records(door.pool, deployment)

    @router.get("/records/page", responses={**_page(), **refuses(*_READING)}, response_class=HTMLResponse)
    async def get_records_page(request: Request) -> HTMLResponse:
        """Show the records of processing as a page."""
        await door.note(request, "read-records")
        return _html(page("records.html", records=await read_records(door.pool, deployment)))

    @router.get(
        "/records/markdown",
        responses={**_page("# Records of processing", "text/plain"), **refuses(*_READING)},
        response_class=PlainTextResponse,
    )
    async def get_records_markdown(request: Request) -> PlainTextResponse:
        """Return the records of processing as Markdown, to keep and to compare."""
        await door.note(request, "read-records")
        return PlainTextResponse(page("records.md", records=await read_records(door.pool, deployment)))

    @router.get("/retention-rules", responses=refuses(*_READING))
    async def get_retention_rules(request: Request) -> RetentionRules:
        """List how long persons are kept."""
        await door.note(request, "read-retention")
        async with scoped(door.pool, EVERY_ACCOUNT) as connection:
            found = await rows.all_rules(connection)
        return RetentionRules(items=[RetentionRule.model_validate(dict(row)) for row in found])

    @router.get("/notices", responses=refuses(*_READING, INVALID_FIELD))
    async def get_notices(
        request: Request, limit: Annotated[int, Query(ge=1, le=LISTED_MAX)] = LISTED_MAX
    ) -> OpenNotices:
        """List the providers that have to be told something about a person, the most urgent first."""
        await door.note(request, "notify")
        async with scoped(door.pool, EVERY_ACCOUNT) as connection:
            count, found = await rows.open_notices(connection, limit)
        items = [OpenNotice(recipient_token=row["token"], **_without(row, "token")) for row in found]
        return OpenNotices(count=count, items=items)


def _without(row: Any, name: str) -> dict[str, Any]:
    return {key: value for key, value in dict(row).items() if key != name}
