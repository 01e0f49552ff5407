"""The public API: one message, a batch, the trace of a message."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict

from common.events.routing import DeliveryState
from common.http.openapi import INVALID_FIELD, INVALID_JSON, UNAVAILABLE, UNKNOWN_FIELD, body_of, refuses
from common.http.problems import Problem, ProblemDocument, unavailable
from common.kafka.consumer import RETRYABLE
from common.security.signing import Proof
from common.telemetry.tracing import OFF
from ingestion.admission import Submission
from ingestion.errors import (
    ACCOUNT_BLOCKED,
    ACCOUNT_ENDED,
    BATCH_TOO_LARGE,
    BODY_TOO_LARGE,
    CONTENT_TOO_LARGE,
    DOOR_BUSY,
    EXPIRED_KEY,
    INTEGRITY_FAILED,
    INVALID_ADDRESS,
    INVALID_CONTENT,
    INVALID_UTF_8,
    INVALID_WINDOW,
    KEY_IN_USE,
    KEY_REUSED,
    NO_GRANT,
    NO_KEY,
    NO_LEGAL_BASIS,
    NOT_THE_INBOX,
    RATE_EXCEEDED,
    ROAD_CONGESTED,
    RULES_NOT_ACCEPTED,
    UNKNOWN_INBOX,
    UNKNOWN_KEY,
    UNKNOWN_MESSAGE,
    UNKNOWN_TOOL,
)
from ingestion.submission import IDEMPOTENCY_KEY_CHARACTERS_MAX, MessageBatch, MessageItem, parse_batch, parse_single
from ingestion.trace import Viewer, trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.datastructures import Headers

    from common.postgres.pool import Pool
    from common.security.tokens import TokenVerifier
    from common.telemetry.tracing import OpenSpan, Tracer
    from ingestion.admission import Outcome
    from ingestion.body import Bodies
    from ingestion.coalescer import Coalescer
    from ingestion.congestion import CongestionSampler
    from ingestion.domain import RulesInForce
    from ingestion.store import AdmittedRow

IDEMPOTENCY_KEY = "idempotency-key"
WAITING_ITEMS_MAX = 10_000
WAITING_BYTES_MAX = 128 * 1024 * 1024

_IDEMPOTENCY_KEY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same content gives the first answer again; with other content, 422.",
    "schema": {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_CHARACTERS_MAX},
}
_ASKING = (
    INVALID_JSON, INVALID_UTF_8, NO_KEY, UNKNOWN_KEY, EXPIRED_KEY, BODY_TOO_LARGE, INVALID_FIELD, UNKNOWN_FIELD,
    ROAD_CONGESTED, DOOR_BUSY, UNAVAILABLE,
)  # fmt: skip
_OF_AN_ITEM = (
    NO_GRANT, RULES_NOT_ACCEPTED, ACCOUNT_BLOCKED, KEY_IN_USE, CONTENT_TOO_LARGE, UNKNOWN_TOOL, UNKNOWN_INBOX,
    NOT_THE_INBOX, INVALID_ADDRESS, INVALID_CONTENT, INVALID_WINDOW, NO_LEGAL_BASIS, KEY_REUSED, RATE_EXCEEDED,
    INTEGRITY_FAILED, ACCOUNT_ENDED,
)  # fmt: skip
_KEY = re.compile(r"wk_[A-Za-z0-9_-]{20,100}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Acceptance(BaseModel):
    """The instruction as ingestion signed it; `waystation` and any RFC 6962 library can check it."""

    statement: dict[str, Any]
    proof: Proof


class AdmittedMessage(BaseModel):
    """A message that was admitted: from here on it survives a power cut. `digest` is the SHA-256 of its final bytes."""

    id: str
    digest: str
    recipient_token: str
    acceptance: Acceptance


class ItemAnswer(BaseModel):
    """The answer to one item: `message` with status 202, or `problem`."""

    status: int
    message: AdmittedMessage | None = None
    problem: ProblemDocument | None = None


class BatchAnswer(BaseModel):
    """One answer per item, in their order."""

    items: list[ItemAnswer]


class TraceStep(BaseModel):
    """One step on the road; `admitted` is the door's, all others are routing's."""

    model_config = ConfigDict(extra="forbid")

    sequence: int
    state: Literal["admitted"] | DeliveryState
    reason: str
    attempt: int | None = None
    provider: str | None = None
    reply_code: int | None = None
    occurred_at: datetime


class MessageTrace(BaseModel):
    """How far a message has come."""

    id: str
    account_id: str
    tool: str
    inbox_id: str
    recipient_token: str
    reference: str | None
    digest: str
    state: Literal["admitted"] | DeliveryState
    admitted_at: datetime
    steps: list[TraceStep]
    acceptance: Acceptance


class RulesVersion(BaseModel):
    """The rules in force; `text_digest` is the SHA-256 of their file, hexadecimal."""

    version: str
    text_digest: str


@dataclass(frozen=True, slots=True)
class Door:
    """What the public routes work with.

    Single messages have batches of their own: while bulk fills the door they do not wait behind it.
    """

    pool: Pool
    singles: Coalescer[Submission, Outcome]
    bulk: Coalescer[Submission, Outcome]
    congestion: CongestionSampler
    bodies: Bodies
    rules: RulesInForce
    operators: TokenVerifier
    tracer: Tracer = OFF

    @property
    def is_busy(self) -> bool:
        """Whether as much waits as may."""
        lanes = self.singles, self.bulk
        return (
            sum(lane.waiting for lane in lanes) > WAITING_ITEMS_MAX
            or sum(lane.waiting_bytes for lane in lanes) > WAITING_BYTES_MAX
        )


def public_routes(door: Door) -> APIRouter:
    """Return the routes that accounts use, with an API key as bearer token."""
    router = APIRouter(prefix="/v1")

    @router.post(
        "/messages",
        status_code=202,
        tags=["messages"],
        response_model=AdmittedMessage,
        responses=refuses(*_ASKING, *_OF_AN_ITEM),
        openapi_extra={**body_of(MessageItem), "parameters": [_IDEMPOTENCY_KEY_PARAMETER]},
    )
    async def post_message(request: Request) -> Response:
        """Admit one message; the same idempotency key with the same content gives the first answer again.

        From `202` on the message survives a power cut; `acceptance` is signed. Nothing was kept of what is refused;
        after `unavailable` that is all but sure (the database may have gone away between its commit and its answer),
        so only an idempotency key makes asking again safe. Limits: 36 MiB per request, 700,000 bytes for the final
        mail, 10,000 messages a second of one account (burst 20,000). While the road is behind single messages are
        refused last.
        """
        key_digest, body = await _received(door, request, single=True)
        parsed = parse_single(body, request.headers.get(IDEMPOTENCY_KEY))
        submission = Submission(key_digest, parsed, _traceparent(request.headers))
        (outcome,) = await _admit(door, door.singles, [submission], len(body))
        if isinstance(outcome, Problem):
            return refused(outcome)
        return Response(orjson.dumps(admitted_document(outcome)), 202, media_type="application/json")

    @router.post(
        "/messages:batch",
        tags=["messages"],
        response_model=BatchAnswer,
        responses=refuses(*_ASKING, BATCH_TOO_LARGE),
        openapi_extra=body_of(MessageBatch),
    )
    async def post_batch(request: Request) -> Response:
        """Admit up to 500 messages; each has its own answer, in the order of the items.

        An item's `problem` is one that `POST /v1/messages` answers; one with status 429 says in `retry_after` in how
        many seconds to send the item again. Idempotency keys stand in the items; the header `Idempotency-Key` is
        refused. Limits: 500 items, 36 MiB.
        """
        key_digest, body = await _received(door, request, single=False)
        try:
            parsed = parse_batch(body)
        except Problem as whole:
            (outcome,) = await _admit(door, door.bulk, [Submission(key_digest, whole)], len(body))
            assert isinstance(outcome, Problem)
            return refused(outcome)
        traceparent = _traceparent(request.headers)
        submissions = [Submission(key_digest, item, traceparent) for item in parsed]
        outcomes = await _admit(door, door.bulk, submissions, len(body))
        first = outcomes[0]
        if isinstance(first, Problem) and first.status == 401:
            return refused(first)
        answer = {"items": [_item_document(outcome) for outcome in outcomes]}
        return Response(orjson.dumps(answer), 200, media_type="application/json")

    @router.get(
        "/messages/{message_id}",
        tags=["traces"],
        response_model=MessageTrace,
        responses=refuses(NO_KEY, UNKNOWN_KEY, EXPIRED_KEY, UNKNOWN_MESSAGE, INVALID_FIELD, UNAVAILABLE),
    )
    async def get_message(request: Request, message_id: Annotated[str, Path(max_length=100)]) -> Response:
        """Return the trace of one of the account's own messages; the operator sees those of all accounts."""
        viewer = Viewer.of(request.headers.get("authorization"), door.operators, api_key_digest)
        document = await trace(door.pool, message_id, viewer, door.rules)
        return Response(orjson.dumps(document), media_type="application/json")

    @router.get("/rules", tags=["rules"])
    async def get_rules() -> RulesVersion:
        """Tell which version of the rules is in force; an account has to accept it before it may send."""
        return RulesVersion(version=door.rules.version, text_digest=door.rules.text_digest)

    return router


def api_key_digest(authorization: str | None) -> bytes:
    """Return the SHA-256 of the API key in an Authorization header.

    Raises:
        Problem: there is none, or it cannot be one.
    """
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise Problem(401, "no-key", "send the API key as Authorization: Bearer wk_...", field="authorization")
    if not _KEY.fullmatch(key):
        raise Problem(401, "unknown-key", "this is no API key: they begin with wk_", field="authorization")
    return sha256(key.encode()).digest()


def admitted_document(row: AdmittedRow) -> dict[str, Any]:
    """Return the answer to a message that was admitted, now or before."""
    return {
        "id": row.id,
        "digest": row.content_digest,
        "recipient_token": row.recipient_token,
        "acceptance": orjson.Fragment(row.signed_instruction),
    }


def refused(problem: Problem) -> Response:
    """Return the response of a problem, with what HTTP wants beside it."""
    response = problem.response()
    if problem.kind == "body-too-large":
        response.headers["connection"] = "close"
    return response


async def _received(door: Door, request: Request, *, single: bool) -> tuple[bytes, bytes]:
    if refusal := door.congestion.refusal(single=single):
        raise refusal
    if door.is_busy:
        raise Problem(503, "door-busy", "too much waits at the door: come back in a second", retry_after_seconds=1)
    door.bodies.check_announced(request)
    key_digest = api_key_digest(request.headers.get("authorization"))
    if not single and IDEMPOTENCY_KEY in request.headers:
        raise Problem(
            422,
            "invalid-field",
            "Idempotency-Key: a batch takes none; give each item its own idempotency_key",
            field="Idempotency-Key",
        )
    try:
        return key_digest, await door.bodies.read(request, key_digest)
    except RETRYABLE as error:
        raise unavailable() from error


async def _admit(
    door: Door, lane: Coalescer[Submission, Outcome], submissions: Sequence[Submission], size_bytes: int
) -> Sequence[Outcome]:
    try:
        if door.tracer.on:
            return await _admit_traced(door.tracer, lane, submissions, size_bytes)
        return await lane.submit(submissions, size_bytes)
    except RETRYABLE as error:
        raise unavailable() from error


async def _admit_traced(
    tracer: Tracer, lane: Coalescer[Submission, Outcome], submissions: Sequence[Submission], size_bytes: int
) -> Sequence[Outcome]:
    """Admit messages of which those that are sampled get a span, under which all that follows stands."""
    named, carry = {"waystation.batch.messages": len(submissions)}, tracer.carried
    spans = [tracer.arrive(each.traceparent, "admit message", named) for each in submissions]
    carried = [
        each if span is None and each.traceparent is None else each._replace(traceparent=carry(each.traceparent, span))
        for each, span in zip(submissions, spans, strict=True)
    ]
    outcomes: Sequence[Outcome] = ()
    try:
        outcomes = await lane.submit(carried, size_bytes)
    finally:
        for span, outcome in zip_longest(spans, outcomes):
            if span is not None:
                _end(span, outcome)
    return outcomes


def _end(span: OpenSpan, outcome: Outcome | None) -> None:
    if isinstance(outcome, Problem):
        span.end(outcome.kind, {"http.response.status_code": outcome.status})
    elif outcome is None:
        span.end("unavailable")
    else:
        span.end(None, {"waystation.message.id": outcome.id, "http.response.status_code": 202})


def _item_document(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Problem):
        return {"status": outcome.status, "problem": outcome.document()}
    return {"status": 202, "message": admitted_document(outcome)}


def _traceparent(headers: Headers) -> bytes | None:
    text = headers.get("traceparent", "")
    return text.encode() if _TRACEPARENT.fullmatch(text) else None
