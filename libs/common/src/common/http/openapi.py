"""The OpenAPI document of a service: what its routes cannot say for themselves is said here once, for all five.

A route lists its refusals with `refuses(...)`; every refusal is a problem document (RFC 9457) whose `type` is one of
those listed. Examples stand in the service's `examples.yaml` by operation id: `request`, `response`.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import yaml
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from common.http.problems import MEDIA_TYPE, TYPE_PREFIX, ProblemDocument, install_problem_handlers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi.routing import APIRoute
    from pydantic import BaseModel
    from starlette.types import Lifespan

    Body = type[BaseModel | msgspec.Struct]

VERSION = "0.1.0"
SCHEMAS = "#/components/schemas/{model}"
API_KEY = "apiKey"
OPERATOR_TOKEN = "operatorToken"  # noqa: S105  the name of a scheme
REVIEWER_TOKEN = "reviewerToken"  # noqa: S105
SERVICE_TOKEN = "serviceToken"  # noqa: S105

_SCHEMES = {
    API_KEY: {"type": "http", "scheme": "bearer", "description": "An account's API key: `Bearer wk_...`."},
    OPERATOR_TOKEN: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token of the principal `operator`: EdDSA, at most five minutes old, for this service alone.",
    },
    REVIEWER_TOKEN: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token of a reviewer (principal `reviewer.NAME`): EdDSA, at most five minutes old, for this"
        " service alone.",
    },
    SERVICE_TOKEN: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "A token of a service: EdDSA, at most five minutes old, for this service alone.",
    },
}

_HEALTH = {
    "livez": {"response": {"status": "alive"}},
    "readyz": {"response": {"status": "ready", "wrong": {}}},
}


class Refusal(NamedTuple):
    """One reason for which a route refuses: status, the slug behind `urn:waystation:problem:`, and when."""

    status: int
    kind: str
    when: str


UNAUTHENTICATED = Refusal(401, "unauthenticated", "the Authorization header holds no valid token for this service")
NOT_AN_OPERATOR = Refusal(403, "not-an-operator", "the token belongs to another principal than `operator`")
INVALID_JSON = Refusal(400, "invalid-json", "the body is no JSON document")
BAD_REQUEST = Refusal(400, "bad-request", "the body cannot be read: it is no UTF-8, or nested too deeply")
INVALID_FIELD = Refusal(
    422, "invalid-field", "`field` is missing or its value does not fit; `limit` says how far it may go"
)
UNKNOWN_FIELD = Refusal(422, "unknown-field", "`field` is not known here")
UNAVAILABLE = Refusal(503, "unavailable", "the database or Kafka is away; `Retry-After` says when to ask again")

OPERATORS = (UNAUTHENTICATED, NOT_AN_OPERATOR, UNAVAILABLE)
JSON_BODY = (INVALID_JSON, BAD_REQUEST, INVALID_FIELD, UNKNOWN_FIELD)


@dataclass(frozen=True, slots=True)
class Tag:
    """A group of routes: what it is for, and the credentials that open it (any one of them; none: open to anybody)."""

    description: str
    credentials: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Api:
    """What a service says about its HTTP interface. `bodies` are models of bodies that its routes read by hand."""

    package: str
    description: str
    tags: Mapping[str, Tag]
    bodies: tuple[Body, ...] = ()


def refuses(*refusals: Refusal) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route: per status the problem types that it answers, with an example of each."""
    by_status: dict[int, list[Refusal]] = {}
    for refusal in refusals:
        by_status.setdefault(refusal.status, []).append(refusal)
    return {status: _response(status, by_status[status]) for status in sorted(by_status)}


def body_of(model: Body) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads its JSON body by hand; the model stands in `Api.bodies`."""
    schema = {"$ref": SCHEMAS.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def answers(model: Body) -> dict[int | str, dict[str, Any]]:
    """Return the `responses` of a route that writes its JSON answer by hand; the model stands in `Api.bodies`."""
    schema = {"$ref": SCHEMAS.format(model=model.__name__)}
    return {200: {"description": "Successful Response", "content": {"application/json": {"schema": schema}}}}


def described_app(api: Api, lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """Return an application whose errors are problem documents and whose `/openapi.json` is complete."""
    app = FastAPI(
        title=f"Waystation {api.package}",
        version=VERSION,
        description=api.description,
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
        redoc_url=None,
        # `common.telemetry` follows messages; the framework's own would look for its providers at each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, api)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    install_problem_handlers(app)
    return app


def _response(status: int, refusals: Sequence[Refusal]) -> dict[str, Any]:
    types = {"type": {"enum": [TYPE_PREFIX + each.kind for each in refusals]}, "status": {"const": status}}
    schema = {"allOf": [{"$ref": SCHEMAS.format(model="ProblemDocument")}, {"properties": types}]}
    examples = {each.kind: {"summary": each.when, "value": _example(each)} for each in refusals}
    response: dict[str, Any] = {
        "description": "; ".join(f"`{each.kind}`: {each.when}" for each in refusals),
        "content": {MEDIA_TYPE: {"schema": schema, "examples": examples}},
    }
    if headers := _headers(status):
        response["headers"] = headers
    return response


def _headers(status: int) -> dict[str, Any]:
    """Return the headers that every refusal of this status has."""
    if status == 401:
        return {"WWW-Authenticate": {"description": "`Bearer`", "required": True, "schema": {"type": "string"}}}
    if status in (429, 503):
        seconds = {"type": "string", "pattern": "^[0-9]+$"}
        return {"Retry-After": {"description": "Seconds to wait.", "required": True, "schema": seconds}}
    return {}


def _example(refusal: Refusal) -> dict[str, Any]:
    return {
        "type": TYPE_PREFIX + refusal.kind,
        "title": refusal.kind.replace("-", " ").capitalize(),
        "status": refusal.status,
        "detail": refusal.when,
    }


def _operation_id(route: APIRoute) -> str:
    first, *others = re.split(r"[ _]", route.name)
    return first + "".join(part.capitalize() for part in others)


def _document(app: FastAPI, api: Api) -> dict[str, Any]:
    found = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        tags=[{"name": name, "description": tag.description} for name, tag in api.tags.items()],
        servers=[{"url": "/", "description": "Where this document comes from."}],
    )
    components = found.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **_schemas((*api.bodies, ProblemDocument))}
    used = sorted({scheme for tag in api.tags.values() for scheme in tag.credentials})
    components["securitySchemes"] = {name: _SCHEMES[name] for name in used}
    examples = yaml.safe_load(files(api.package).joinpath("examples.yaml").read_text("utf-8"))
    operations = [operation for path in found["paths"].values() for operation in path.values()]
    for operation in operations:
        _complete(operation, api.tags[operation["tags"][0]], {**_HEALTH, **examples}.get(operation["operationId"], {}))
    components["examples"] = _shared_examples(operations)
    return found


def _schemas(models: Sequence[Body]) -> dict[str, Any]:
    structures = [model for model in models if issubclass(model, msgspec.Struct)]
    others = [model for model in models if not issubclass(model, msgspec.Struct)]
    _, schemas = models_json_schema([(model, "validation") for model in others], ref_template=SCHEMAS)
    _, components = msgspec.json.schema_components(structures, ref_template=SCHEMAS.replace("model", "name"))
    return {**schemas["$defs"], **components}


def _complete(operation: dict[str, Any], tag: Tag, example: Mapping[str, Any]) -> None:
    operation["summary"] = re.split(r"[.,:;(]", operation["description"], maxsplit=1)[0].strip()
    operation["security"] = [{scheme: []} for scheme in tag.credentials]
    if "request" in example:
        for media in operation["requestBody"]["content"].values():
            media["example"] = example["request"]
    if "response" in example:
        good = next(response for status, response in operation["responses"].items() if status.startswith("2"))
        good["content"]["application/json"]["example"] = example["response"]
    for parameter in operation.get("parameters", ()):
        if parameter["name"] in example.get("parameters", {}):
            parameter["example"] = example["parameters"][parameter["name"]]


def _shared_examples(operations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Move the examples of problems to one place, by problem type, and leave references behind."""
    shared: dict[str, Any] = {}
    for operation in operations:
        for response in operation["responses"].values():
            media = response.get("content", {}).get(MEDIA_TYPE, {})
            shared.update(media.get("examples", {}))
            for kind in media.get("examples", {}):
                media["examples"][kind] = {"$ref": f"#/components/examples/{kind}"}
    return dict(sorted(shared.items()))


def print_document(app: FastAPI) -> None:
    """Write an application's document to standard output, as `contracts/openapi` keeps it."""
    sys.stdout.write(json.dumps(app.openapi(), indent=2, sort_keys=True, ensure_ascii=False) + "\n")
