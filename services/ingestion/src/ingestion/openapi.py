"""The OpenAPI document: bodies that the routes read by hand are described by their models all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from ingestion.submission import MessageBatch, MessageItem

if TYPE_CHECKING:
    from fastapi import FastAPI

_REF = "#/components/schemas/{model}"


def describe(app: FastAPI) -> None:
    """Make `/openapi.json` complete."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, models = models_json_schema([(MessageItem, "validation"), (MessageBatch, "validation")], ref_template=_REF)
    components = found.setdefault("components", {})
    components.setdefault("schemas", {}).update(models["$defs"])
    components["securitySchemes"] = {
        "apiKey": {"type": "http", "scheme": "bearer", "description": "An account's API key, wk_..."},
        "operatorToken": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
    }
    for path in found["paths"].values():
        for operation in path.values():
            scheme = {"messages": "apiKey", "operator": "operatorToken"}.get(operation.get("tags", [""])[0])
            if scheme is not None:
                operation["security"] = [{scheme: []}]
    return found
