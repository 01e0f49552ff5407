from __future__ import annotations

import gc
from weakref import WeakSet

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response

from common.http.direct import include, serve_directly
from common.http.problems import Problem, install_problem_handlers
from common.kafka.consumer import RetryableError

ERRORS = {
    "problem": Problem(409, "taken", "it is taken"),
    "http": HTTPException(413, Problem(413, "body-too-large", "too much")),
    "outage": RetryableError(),
    "bug": KeyError("x"),
}


def application(served: list[str]) -> FastAPI:
    """Return an application whose routes tell how they were served."""
    app = serve_directly(FastAPI())
    install_problem_handlers(app)
    router = APIRouter(prefix="/v1")

    def through(request: Request) -> None:
        served.append("router" if "router" in request.scope else "direct")

    @router.post("/things", status_code=201)
    async def post_thing(request: Request) -> Response:
        through(request)
        if error := ERRORS.get(request.headers.get("error", "")):
            raise error
        return Response(await request.body(), 201)

    @router.get("/things/{name}")
    async def get_thing(request: Request, name: str) -> Response:
        through(request)
        return Response(name)

    @router.get("/things")
    async def count_things(request: Request) -> dict[str, int]:
        through(request)
        return {"count": 2}

    include(app, router)
    return app


@pytest.fixture
async def caller():
    served: list[str] = []
    transport = httpx.ASGITransport(application(served), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        client.served = served
        yield client


async def test_a_route_that_takes_the_request_alone_is_served_without_the_router(caller):
    answer = await caller.post("/v1/things", content=b"one")
    assert (answer.status_code, answer.content, caller.served) == (201, b"one", ["direct"])


@pytest.mark.parametrize(("path", "text"), [("/v1/things/two", "two"), ("/v1/things", '{"count":2}')])
async def test_what_needs_the_router_has_it(caller, path, text):
    answer = await caller.get(path)
    assert (answer.text, caller.served) == (text, ["router"])


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        ("problem", 409, "taken"),
        ("http", 413, "body-too-large"),
        ("outage", 503, "unavailable"),
        ("bug", 500, "internal-error"),
    ],
)
async def test_errors_are_the_problem_documents_of_all_routes(caller, error, status, kind):
    answer = await caller.post("/v1/things", headers={"error": error})
    assert answer.status_code == status
    assert answer.json()["type"].endswith(kind)


async def test_another_method_is_refused_as_ever(caller):
    answer = await caller.put("/v1/things")
    assert answer.status_code == 405


def test_a_direct_route_is_described():
    assert application([]).openapi()["paths"]["/v1/things"]["post"]["responses"]["201"]


async def test_what_a_refused_request_brought_is_freed_with_its_answer():
    bodies = WeakSet()
    app = serve_directly(FastAPI())
    install_problem_handlers(app)
    router = APIRouter()

    @router.post("/things")
    async def post_thing(request: Request) -> Response:
        body = Body(await request.body())
        bodies.add(body)
        if refusal := Problem(503, "busy", f"{len(body.content)} bytes have to come back"):
            raise refusal
        return Response()

    include(app, router)
    gc.disable()
    try:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
            assert (await client.post("/things", content=b"one")).status_code == 503
        assert not bodies, "the frame of a refusal keeps it"
    finally:
        gc.enable()


class Body:
    """A body that can be watched."""

    def __init__(self, content: bytes) -> None:
        self.content = content
