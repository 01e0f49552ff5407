"""What vault says about its HTTP interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.contracts.vault import (
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
from common.http.health import health_routes
from common.http.openapi import OPERATOR_TOKEN, SERVICE_TOKEN, Api, Tag, described_app, print_document
from vault.api import vault_routes
from vault.duties.api import duties_routes
from vault.operator_api import operator_routes

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Lifespan

API = Api(
    package="vault",
    description=(
        "Personal data and its keys. Services seal, open and disclose in batches; who may do what stands in a table,"
        " and whoever is turned away is logged. A call has one answer per item, in order. Limits: 1,000 items, 4 MiB."
    ),
    tags={
        "services": Tag("What services call, each with a token of its own.", (SERVICE_TOKEN,)),
        "duties": Tag(
            "Legal bases and the duties of data protection; for whom the caller table names.",
            (OPERATOR_TOKEN, SERVICE_TOKEN),
        ),
        "operator": Tag("What an operator may read: never a value.", (OPERATOR_TOKEN,)),
        "data protection": Tag(
            "A processor's duties: persons' rights, retention, registers, the end of accounts.", (OPERATOR_TOKEN,)
        ),
        "health": Tag("For supervisors."),
    },
    bodies=(
        SealCall,
        SealAnswers,
        OpenCall,
        OpenAnswers,
        DiscloseCall,
        DiscloseAnswers,
        UnsettledAnswers,
        FindCall,
        FindAnswers,
        EraseCall,
        EraseAnswers,
        BasisCall,
        WithdrawCall,
        SuppressCall,
        RestrictCall,
        DoneAnswers,
        ExportCall,
        Export,
        RectifyCall,
        RectifyAnswers,
        ObjectCall,
        ObjectAnswers,
        NoticesCall,
        NoticeAnswers,
        RulesCall,
        RuleAnswers,
        RetentionCall,
        RetentionRun,
        AccountCall,
        EndCall,
        AccountEnd,
    ),
)


def described(lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """Return the application without its routes."""
    return described_app(API, lifespan)


def whole() -> FastAPI:
    """Return the application with all its routes and nothing behind them, to be described."""
    nothing: Any = None
    app = described()
    app.include_router(vault_routes(nothing, nothing, nothing, nothing, nothing))
    app.include_router(operator_routes(nothing, nothing, nothing, nothing))
    app.include_router(duties_routes(nothing, nothing, nothing, nothing, signer=nothing, deployment=nothing))
    app.include_router(health_routes({}))
    return app


if __name__ == "__main__":
    print_document(whole())
