"""HTTP: the open door for complaints, and what operators do with them."""

from __future__ import annotations

import re
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from common.events.enforcement import Standing
from common.http.openapi import INVALID_FIELD, JSON_BODY, OPERATORS, UNAVAILABLE, refuses
from common.http.operators import require_operator
from common.http.problems import Problem, invalid_fields
from common.ids import new_id
from common.times import rfc3339
from enforcement import decisions, errors, store
from enforcement.arf import REPORT_BYTES_MAX, ArfError, FeedbackReport, FeedbackType, parse_report
from enforcement.bodies import REPORTS_PATH
from enforcement.complainants import Complainant, Sealer, seal_complainant
from enforcement.decisions import Bench
from enforcement.domain import (
    Category,
    Clause,
    Complaint,
    ComplaintState,
    Decider,
    Origin,
    Outcome,
    StandingChange,
    grounds,
)
from enforcement.errors import (
    ACCOUNT_KNOWN,
    ACCOUNT_UNKNOWN,
    BODY_TOO_LARGE,
    COMPLAINT_DECIDED,
    INVALID_COMPLAINANT,
    KEY_REUSED,
    MALFORMED_REPORT,
    NOT_A_COMPLAINT,
    NOT_A_MAIL,
    TOO_MANY_COMPLAINTS,
    UNKNOWN_COMPLAINT,
)

if TYPE_CHECKING:
    from fastapi import FastAPI, Response

    from enforcement.store import ComplaintRow, Filed

PAGE_MAX = 500
CHANGES_MAX = 50
COMPLAINTS_PATH = "/v1/complaints"
MAIL = "message/rfc822"
NO_FREE_TEXT = (
    "a complaint holds no free text; it takes account_id, clause, category, origin and, if it is about one message,"
    " message_id; who complains may be said in complainant (address, name, language)"
)

AccountId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$", max_length=100)]
_REACHES_A_PERSON = re.compile(r"[^\s@]@[^\s@]|\+\d[\d ().-]{5,}\d")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _reason(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("one line without control characters")
    if _REACHES_A_PERSON.search(text):
        raise ValueError("a reason is published: no mail address and no telephone number, name the complaint instead")
    return text


Reason = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_reason)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ComplaintCall(_Body):
    """A complaint about an account, or about one of its messages."""

    account_id: AccountId
    clause: Clause
    category: Category
    origin: Origin
    message_id: UUID | None = None
    complainant: Complainant | None = None


class ComplaintReceipt(_Body):
    """The complaint is stored and will be looked at."""

    id: str
    state: Literal["received"] = "received"
    received_at: str


class FeedbackReceipt(_Body):
    """The report is stored as a complaint. `matched` tells whether it is known whose message it is about."""

    id: str
    state: Literal["received"] = "received"
    received_at: str
    matched: bool
    account_id: str | None
    message_id: str | None
    sender_domain: str | None


class AssignCall(_Body):
    """Whose message a complaint is about."""

    account_id: AccountId


class ConfirmCall(_Body):
    """What the account's standing shall be at least."""

    standing: Literal["warned", "limited", "suspended", "blocked"]
    reason: Reason


class DismissCall(_Body):
    """Why nothing follows from a complaint."""

    reason: Reason = "unfounded"


class StandingCall(_Body):
    """What an account's standing shall be."""

    standing: Standing
    clause: Clause | None = None
    reason: Reason


class DecisionView(_Body):
    """How a complaint ended: what was asked for, what came of it, and what held afterwards."""

    decided_at: str
    reason: str
    asked: Standing | None
    outcome: Outcome | None
    standing: Standing | None
    revision: int | None


class ReportView(_Body):
    """What a feedback report said about the mail; `original_digest` is the SHA-256 of its Message-ID, hexadecimal."""

    feedback_type: FeedbackType
    incidents: int
    arrived_at: str | None
    sender_domain: str | None
    original_digest: str | None


class ComplaintView(_Body):
    """A complaint as operators see it; without an account it waits for somebody to say whose message it is about.

    `complainant` is the token of who complained: a person of account `complainants` in the vault, until erased there.
    """

    id: str
    account_id: str | None
    clause: Clause
    category: Category
    origin: Origin
    message_id: str | None
    complainant: str | None
    state: ComplaintState
    received_at: str
    report: ReportView | None
    decision: DecisionView | None


class ComplaintPage(_Body):
    """Complaints, oldest first; `next` continues the list as `after`."""

    complaints: list[ComplaintView]
    next: str | None


class ChangeView(_Body):
    """One revision of a standing."""

    revision: int
    standing: Standing
    outcome: Outcome
    decided_by: Decider
    clause: Clause | None
    reason: str
    complaint_id: str | None
    since: str


class StandingView(_Body):
    """What holds for an account, with its newest changes, newest first; an account never heard of is good."""

    account_id: str
    standing: Standing
    revision: int
    changes: list[ChangeView]


def _operator(request: Request) -> None:
    require_operator(request, request.app.state.verifier)


async def _bench(request: Request) -> Bench:
    bench: Bench = request.app.state.bench
    return bench


async def _key_digest(
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> bytes | None:
    return None if idempotency_key is None else sha256(idempotency_key.encode()).digest()


async def _sealer(request: Request) -> Sealer:
    sealer: Sealer = request.app.state.sealer
    return sealer


BenchOf = Annotated[Bench, Depends(_bench)]
SealerOf = Annotated[Sealer, Depends(_sealer)]
KeyDigest = Annotated[bytes | None, Depends(_key_digest)]

_MAIL_BODY = {
    "requestBody": {
        "required": True,
        "content": {MAIL: {"schema": {"type": "string", "maxLength": REPORT_BYTES_MAX}}},
    }
}
_DECIDING = refuses(*OPERATORS, *JSON_BODY, BODY_TOO_LARGE, UNKNOWN_COMPLAINT, COMPLAINT_DECIDED)
_CONFIRMING = refuses(*OPERATORS, *JSON_BODY, BODY_TOO_LARGE, UNKNOWN_COMPLAINT, COMPLAINT_DECIDED, ACCOUNT_UNKNOWN)

public = APIRouter(tags=["complaints"])
operators = APIRouter(tags=["operators"], dependencies=[Depends(_operator)])


@public.post(
    COMPLAINTS_PATH,
    status_code=202,
    responses=refuses(*JSON_BODY, BODY_TOO_LARGE, KEY_REUSED, INVALID_COMPLAINANT, TOO_MANY_COMPLAINTS, UNAVAILABLE),
)
async def file_complaint(
    call: ComplaintCall, bench: BenchOf, sealer: SealerOf, key_digest: KeyDigest
) -> ComplaintReceipt:
    """Take a complaint from anybody; an operator decides what follows.

    Who complains may stay unsaid. `complainant` is kept in the vault, where he may be exported, rectified and erased as
    any person; the account complained about never learns who he is. A repeat with the same Idempotency-Key gives the
    first answer, whoever `complainant` names: nothing of him is kept here to compare it with.
    """
    complaint = Complaint(
        new_id(),
        call.account_id,
        call.clause,
        call.category,
        call.origin,
        None if call.message_id is None else str(call.message_id),
        "received",
        bench.now(),
    )
    digest = _request_digest(call)
    if call.complainant is None:
        filed = await _file(bench, complaint, key_digest, digest)
    else:
        filed = await _file_by_person(bench, sealer, complaint, call.complainant, key_digest=key_digest, digest=digest)
    assert filed.id is not None
    return ComplaintReceipt(id=filed.id, received_at=rfc3339(filed.received_at))


@public.post(
    REPORTS_PATH,
    status_code=202,
    responses=refuses(
        BODY_TOO_LARGE,
        NOT_A_MAIL,
        MALFORMED_REPORT,
        NOT_A_COMPLAINT,
        KEY_REUSED,
        TOO_MANY_COMPLAINTS,
        INVALID_FIELD,
        UNAVAILABLE,
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {MAIL: {"schema": {"type": "string", "maxLength": REPORT_BYTES_MAX}}},
        }
    },
)
async def file_feedback_report(request: Request, bench: BenchOf, key_digest: KeyDigest) -> FeedbackReceipt:
    """Take a feedback report (ARF, RFC 5965) from anybody, as the mail that it is.

    What is kept is about the mail complained about: type, incidents, time of arrival, our ids in it, its sender's
    domain, a digest of its Message-ID. Nothing is kept about who complains, and the mail itself is not. A report that
    names no message of ours is kept without an account, for a person. The same mail again is the same complaint.

    Limits: 1 MiB, 64 KiB of it header; 10,000 undecided reports without an account.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != MAIL:
        raise errors.not_a_mail()
    raw = await request.body()
    try:
        report = parse_report(raw)
    except ArfError as error:
        raise errors.malformed_report(error) from None
    clause, category = grounds(report.feedback_type)
    complaint = Complaint(
        new_id(), report.account_id, clause, category, "provider", report.message_id, "received", bench.now(), report
    )
    digest = sha256(raw).digest()
    filed = await _file(bench, complaint, key_digest or sha256(b"feedback-report\x00" + digest).digest(), digest)
    assert filed.id is not None
    return FeedbackReceipt(
        id=filed.id,
        received_at=rfc3339(filed.received_at),
        matched=report.account_id is not None,
        account_id=report.account_id,
        message_id=report.message_id,
        sender_domain=report.sender_domain,
    )


def _request_digest(call: ComplaintCall) -> bytes:
    """Return what a repeat is known by: whether somebody says who he is counts, who he is does not.

    A digest of an address could be found out by guessing.
    """
    text = call.model_dump_json(exclude={"complainant"}) + ("" if call.complainant is None else "complainant")
    return sha256(text.encode()).digest()


async def _file_by_person(
    bench: Bench, sealer: Sealer, complaint: Complaint, person: Complainant, *, key_digest: bytes | None, digest: bytes
) -> Filed:
    filed = await store.insert_complaint(
        bench.pool, complaint, idempotency_digest=key_digest, request_digest=digest, storing=False
    )
    if filed is not None:  # before the vault: what is known or refused makes no person there
        return _accepted(complaint, filed)
    token = await seal_complainant(sealer, complaint.id, person)
    return await _file(bench, replace(complaint, complainant_token=token), key_digest, digest)


async def _file(bench: Bench, complaint: Complaint, key_digest: bytes | None, digest: bytes) -> Filed:
    filed = None
    while filed is None:
        filed = await store.insert_complaint(
            bench.pool, complaint, idempotency_digest=key_digest, request_digest=digest
        )
    return _accepted(complaint, filed)


def _accepted(complaint: Complaint, filed: Filed) -> Filed:
    """Return what became of a complaint, or refuse it."""
    if filed.key_reused:
        raise errors.key_reused()
    if filed.id is None:
        if not filed.account_is_full:
            raise errors.all_is_full()
        raise errors.unmatched_are_full() if complaint.account_id is None else errors.account_is_full()
    return filed


@operators.get(COMPLAINTS_PATH, responses=refuses(*OPERATORS, INVALID_FIELD))
async def list_complaints(
    bench: BenchOf,
    *,
    state: ComplaintState | None = None,
    account_id: AccountId | None = None,
    unmatched: bool | None = None,
    after: UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
) -> ComplaintPage:
    """List complaints, oldest first."""
    rows = await store.list_complaints(
        bench.pool,
        state=state,
        account_id=account_id,
        unmatched=unmatched,
        after=None if after is None else str(after),
        limit=limit,
    )
    return ComplaintPage(
        complaints=[_complaint_view(row) for row in rows],
        next=rows[-1].complaint.id if len(rows) == limit else None,
    )


@operators.post(
    COMPLAINTS_PATH + "/{complaint_id}:assign",
    responses=refuses(*OPERATORS, *JSON_BODY, BODY_TOO_LARGE, UNKNOWN_COMPLAINT, ACCOUNT_KNOWN),
)
async def assign_complaint(complaint_id: UUID, call: AssignCall, bench: BenchOf) -> ComplaintView:
    """Say which account a complaint is about that came without one."""
    return _complaint_view(await decisions.assign_complaint(bench, str(complaint_id), call.account_id))


@operators.post(COMPLAINTS_PATH + "/{complaint_id}:confirm", responses=_CONFIRMING)
async def confirm_complaint(complaint_id: UUID, call: ConfirmCall, bench: BenchOf) -> ComplaintView:
    """Confirm a complaint; `decision.outcome` is `kept` when the account's standing was stricter already."""
    return _complaint_view(await decisions.confirm_complaint(bench, str(complaint_id), call.standing, call.reason))


@operators.post(COMPLAINTS_PATH + "/{complaint_id}:dismiss", responses=_DECIDING)
async def dismiss_complaint(complaint_id: UUID, call: DismissCall, bench: BenchOf) -> ComplaintView:
    """Dismiss a complaint; nothing follows from it."""
    return _complaint_view(await decisions.dismiss_complaint(bench, str(complaint_id), call.reason))


@operators.get("/v1/standings/{account_id}", responses=refuses(*OPERATORS, INVALID_FIELD))
async def show_standing(account_id: AccountId, bench: BenchOf) -> StandingView:
    """Tell what holds for an account, and how it came to that."""
    return _standing_view(account_id, await store.list_changes(bench.pool, account_id, CHANGES_MAX))


@operators.post("/v1/standings/{account_id}", responses=refuses(*OPERATORS, *JSON_BODY, BODY_TOO_LARGE))
async def set_standing(account_id: AccountId, call: StandingCall, bench: BenchOf) -> StandingView:
    """Set an account's standing, milder or stricter than it is."""
    change = await decisions.set_standing(bench, account_id, call.standing, clause=call.clause, reason=call.reason)
    return _standing_view(account_id, [change])


def install_routes(app: FastAPI) -> None:
    """Add the routes; a complainant is told what is not asked of him."""
    app.include_router(public)
    app.include_router(operators)
    app.add_exception_handler(RequestValidationError, _on_invalid)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problem = invalid_fields(error)
    if problem.kind == "unknown-field" and request.url.path == COMPLAINTS_PATH:
        detail = f"{problem.field} is not known: {NO_FREE_TEXT}"
        problem = Problem(problem.status, problem.kind, detail, field=problem.field)
    return problem.response()


def _complaint_view(row: ComplaintRow) -> ComplaintView:
    complaint, decision = row.complaint, row.decision
    return ComplaintView(
        id=complaint.id,
        account_id=complaint.account_id,
        clause=complaint.clause,
        category=complaint.category,
        origin=complaint.origin,
        message_id=complaint.message_id,
        complainant=complaint.complainant_token,
        state=complaint.state,
        received_at=rfc3339(complaint.received_at),
        report=None if complaint.report is None else _report_view(complaint.report),
        decision=None
        if decision is None
        else DecisionView(
            decided_at=rfc3339(decision.decided_at),
            reason=decision.reason,
            asked=decision.asked,
            outcome=decision.outcome,
            standing=decision.standing,
            revision=decision.revision,
        ),
    )


def _report_view(report: FeedbackReport) -> ReportView:
    return ReportView(
        feedback_type=report.feedback_type,
        incidents=report.incidents,
        arrived_at=None if report.arrived_at is None else rfc3339(report.arrived_at),
        sender_domain=report.sender_domain,
        original_digest=None if report.original_digest is None else report.original_digest.hex(),
    )


def _standing_view(account_id: str, changes: list[StandingChange]) -> StandingView:
    return StandingView(
        account_id=account_id,
        standing=changes[0].standing if changes else "good",
        revision=changes[0].revision if changes else 0,
        changes=[
            ChangeView(
                revision=change.revision,
                standing=change.standing,
                outcome=change.outcome,
                decided_by=change.decided_by,
                clause=change.clause,
                reason=change.reason,
                complaint_id=change.complaint_id,
                since=rfc3339(change.since),
            )
            for change in changes
        ],
    )
