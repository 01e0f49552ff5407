"""What ingestion says about its HTTP interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.http.health import health_routes
from common.http.openapi import API_KEY, OPERATOR_TOKEN, Api, Tag, described_app, print_document
from ingestion.api import public_routes
from ingestion.operator_api import operator_routes
from ingestion.submission import MessageBatch, MessageItem

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Lifespan

API = Api(
    package="ingestion",
    description=(
        "The door of the road: messages come in, each with the instruction to send it. Limits: 36 MiB and 500 messages"
        " per request, 700,000 bytes for one final mail, 10,000 messages a second of one account. A full road answers"
        " `503` with `Retry-After`; the same idempotency key makes asking again safe."
    ),
    tags={
        "messages": Tag("Sending, with an account's API key.", (API_KEY,)),
        "traces": Tag("Where a message is, for its account and for the operator.", (API_KEY, OPERATOR_TOKEN)),
        "rules": Tag("The rules in force, open to anybody."),
        "operator": Tag("Accounts and counts; an operator's token is needed.", (OPERATOR_TOKEN,)),
        "health": Tag("For supervisors."),
    },
    bodies=(MessageItem, MessageBatch),
)


def described(lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """Return the application without its routes."""
    return described_app(API, lifespan)


def whole() -> FastAPI:
    """Return the application with all its routes and nothing behind them, to be described."""
    nothing: Any = None
    app = described()
    app.include_router(public_routes(nothing))
    app.include_router(operator_routes(nothing, nothing, nothing, nothing))
    app.include_router(health_routes({}))
    return app


if __name__ == "__main__":
    print_document(whole())
