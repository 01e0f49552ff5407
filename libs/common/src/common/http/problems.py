"""Problem documents (RFC 9457) that name the field, the clause or the limit."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from common.kafka.consumer import RETRYABLE

if TYPE_CHECKING:
    from fastapi import FastAPI
    from pydantic import ValidationError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:waystation:problem:"
RETRY_AFTER_SECONDS = 1

_FIELD_NAME_MAX = 100
_PARTS_OF_A_REQUEST = ("body", "query", "path", "header")

log = logging.getLogger(__name__)


class ProblemDocument(BaseModel):
    """An RFC 9457 problem document with the members that Waystation adds."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None
    clause: str | None = None
    limit: int | None = None


class Problem(Exception):  # noqa: N818  it is an answer to a caller, not an error of ours
    """A refusal that becomes a problem document. `kind` is a stable slug; `detail` says what to do next."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        field: str | None = None,
        clause: str | None = None,
        limit: int | None = None,
        retry_after_seconds: int | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.field = field
        self.clause = clause
        self.limit = limit
        self.retry_after_seconds = retry_after_seconds
        self.members = members

    def document(self) -> dict[str, Any]:
        """Return the JSON object; members without a value are left out."""
        document = {
            "type": TYPE_PREFIX + self.kind,
            "title": self.kind.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "field": self.field,
            "clause": self.clause,
            "limit": self.limit,
            **self.members,
        }
        return {name: value for name, value in document.items() if value is not None}

    def response(self) -> Response:
        """Return the HTTP response."""
        headers = {} if self.retry_after_seconds is None else {"retry-after": str(self.retry_after_seconds)}
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["www-authenticate"] = "Bearer"
        return Response(orjson.dumps(self.document()), self.status, headers, MEDIA_TYPE)


def invalid_fields(error: ValidationError | RequestValidationError, *, within: str = "") -> Problem:
    """Return the problem for a body that does not fit its model; values are never echoed."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return Problem(HTTPStatus.BAD_REQUEST, "invalid-json", "the body is no JSON document", field=within or "body")
    where = first["loc"]
    place = where[1:] if where and where[0] in _PARTS_OF_A_REQUEST else where
    field = ".".join([within, *map(str, place)]).strip(".")[:_FIELD_NAME_MAX] or "body"
    context = first.get("ctx") or {}
    limit = next((context[name] for name in ("max_length", "le", "min_length", "ge") if name in context), None)
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "unknown-field" if first["type"] == "extra_forbidden" else "invalid-field",
        f"{field}: {first['msg']}",
        field=field,
        limit=limit if isinstance(limit, int) else None,
    )


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of an application a problem document: 503 while something outside is away."""
    app.add_exception_handler(Exception, _on_bug)
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(asyncpg.DataError, _on_unfit)
    for kind in RETRYABLE:
        app.add_exception_handler(kind, _on_outage)


def unavailable() -> Problem:
    """Something outside is away for now."""
    detail = "something this service needs does not answer right now: send the same request again"
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", detail, retry_after_seconds=RETRY_AFTER_SECONDS)


def failed() -> Problem:
    """Something went wrong here that nobody foresaw."""
    detail = "this is our fault and was logged; send the same request again later"
    return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal-error", detail)


async def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return error.response()


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return invalid_fields(error).response()


async def _on_http(_: Request, error: Exception) -> Response:
    """Answer what the framework refuses; one that carries a Problem was raised while a body was read."""
    assert isinstance(error, HTTPException)
    if isinstance(error.detail, Problem):
        return error.detail.response()
    phrase = HTTPStatus(error.status_code).phrase
    response = Problem(error.status_code, phrase.lower().replace(" ", "-"), str(error.detail)).response()
    response.headers.update(error.headers or {})
    return response


async def _on_outage(_: Request, error: Exception) -> Response:
    log.warning("a request is answered 503: %s", type(error).__name__)
    return unavailable().response()


async def _on_unfit(_: Request, error: Exception) -> Response:
    log.info("a value does not fit: %s", type(error).__name__)
    detail = "a text holds a NUL character or a number is too large"
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-field", detail).response()


async def _on_bug(_: Request, __: Exception) -> Response:
    return failed().response()
