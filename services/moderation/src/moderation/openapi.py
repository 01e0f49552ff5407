"""What moderation says about its HTTP interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.http.health import health_routes
from common.http.openapi import OPERATOR_TOKEN, REVIEWER_TOKEN, Api, Tag, described_app, print_document
from moderation.api import operator_routes
from moderation.policy_api import policy_routes
from moderation.rejudging.api import ListRoutes
from moderation.replay_api import replay_routes
from moderation.review.api import ReviewRoutes

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Lifespan

API = Api(
    package="moderation",
    description=(
        "Verdicts on messages, policies and replays, for an operator; the review queue, for reviewers. Screening itself"
        " goes over Kafka. Content is shown inside a claimed case only. Limits: a policy of 900,000 bytes, a sample of"
        " 1,000 verdicts, a reason of 500 characters."
    ),
    tags={
        "operator": Tag("An operator's token is needed.", (OPERATOR_TOKEN,)),
        "review": Tag("A reviewer's own token is needed.", (REVIEWER_TOKEN,)),
        "health": Tag("For supervisors."),
    },
)


def described(lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """Return the application without its routes."""
    return described_app(API, lifespan)


def whole() -> FastAPI:
    """Return the application with all its routes and nothing behind them, to be described."""
    nothing: Any = None
    app = described()
    app.include_router(operator_routes(nothing, nothing, nothing))
    app.include_router(policy_routes(nothing, nothing, nothing, nothing, nothing))
    app.include_router(replay_routes(nothing, nothing))
    app.include_router(ReviewRoutes(nothing, nothing, nothing, nothing, nothing, nothing).router())
    app.include_router(ListRoutes(nothing, nothing).router())
    app.include_router(health_routes({}))
    return app


if __name__ == "__main__":
    print_document(whole())
