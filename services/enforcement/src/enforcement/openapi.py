"""What enforcement says about its HTTP interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.http.health import health_routes
from common.http.openapi import OPERATOR_TOKEN, Api, Tag, described_app, print_document
from enforcement.api import install_routes

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Lifespan

API = Api(
    package="enforcement",
    description=(
        "Complaints about accounts, decisions on them, and who may send. A complaint holds no free text; who"
        " complains is a person of the vault, and a token here. Limits: 8 KiB per request (1 MiB for"
        " a feedback report), 1,000 undecided complaints about one account, 100,000 in all."
    ),
    tags={
        "complaints": Tag("The door for complaints, open to anybody."),
        "operators": Tag("Decisions; an operator's token is needed.", (OPERATOR_TOKEN,)),
        "health": Tag("For supervisors."),
    },
)


def described(lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """Return the application without its routes."""
    return described_app(API, lifespan)


def whole() -> FastAPI:
    """Return the application with all its routes and nothing behind them, to be described."""
    app = described()
    install_routes(app)
    app.include_router(health_routes({}))
    return app


if __name__ == "__main__":
    print_document(whole())
