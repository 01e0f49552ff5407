"""Problem documents and health: what a caller and a supervisor see."""

from __future__ import annotations

import asyncio
import math
import time
from types import SimpleNamespace

import asyncpg
import httpx
import pytest
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict, Field

from common.http.health import STUCK_SECONDS, consumer_check, health_routes, table_check
from common.http.problems import MEDIA_TYPE, Problem, install_problem_handlers
from common.kafka.health import ConsumerHealth

CANARY = "jane.roe@example.org"


class Address(BaseModel):
    model_config = ConfigDict(extra="forbid")

    street: str = Field(max_length=10)


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    addresses: list[Address] = []


@pytest.fixture
def broken_things():
    return []


@pytest.fixture
async def client(broken_things):
    app = FastAPI()
    install_problem_handlers(app)

    @app.post("/things")
    async def make(body: Body) -> dict[str, str]:
        if body.name == "clause":
            raise Problem(403, "rules-broken", "leave it out", clause="3(a)", retry_after_seconds=5, message_id="m1")
        if body.name == "http":
            raise HTTPException(410, "it is gone")
        if body.name == "bug":
            raise RuntimeError(CANARY)
        if body.name == "broken":
            raise broken_things.pop()
        return {"name": body.name}

    checks = {"good": answer(None), "bad": answer("the disk is full"), "broken": failing, "slow": sleeping}
    app.include_router(health_routes(checks))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def answer(text):
    async def check():
        return text

    return check


async def failing():
    raise ConnectionResetError(CANARY)


async def sleeping():
    await asyncio.sleep(60)


async def refused(client, status, **request):
    response = await client.post("/things", **request)
    assert (response.status_code, response.headers["content-type"]) == (status, MEDIA_TYPE)
    assert CANARY not in response.text
    document = response.json()
    assert document["status"] == status
    return document, response


async def test_a_problem_has_its_members_and_none_without_value(client):
    document, response = await refused(client, 403, json={"name": "clause"})
    assert document == {
        "type": "urn:waystation:problem:rules-broken",
        "title": "Rules broken",
        "status": 403,
        "detail": "leave it out",
        "clause": "3(a)",
        "message_id": "m1",
    }
    assert response.headers["retry-after"] == "5"


async def test_an_unknown_field_is_named(client):
    document, _ = await refused(client, 422, json={"name": "a", "addresses": [{"street": "b", "town": CANARY}]})
    assert (document["type"], document["field"]) == ("urn:waystation:problem:unknown-field", "addresses.0.town")


async def test_a_limit_is_told(client):
    document, _ = await refused(client, 422, json={"name": "a", "addresses": [{"street": CANARY}]})
    assert (document["type"], document["field"], document["limit"]) == (
        "urn:waystation:problem:invalid-field",
        "addresses.0.street",
        10,
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"\xff\xfe", 400), (b"", 422), (b"[]", 422), (b'"' + CANARY.encode() + b'"', 422)],
)
async def test_what_is_no_object_is_about_the_body(client, body, status):
    document, _ = await refused(client, status, content=body, headers={"content-type": "application/json"})
    assert document["field"] == "body"


async def test_errors_of_the_framework_are_problems_too(client):
    document, _ = await refused(client, 410, json={"name": "http"})
    assert (document["type"], document["detail"]) == ("urn:waystation:problem:gone", "it is gone")
    assert (await client.get("/nowhere")).json()["type"] == "urn:waystation:problem:not-found"
    wrong_method = await client.delete("/things")
    assert (wrong_method.json()["status"], wrong_method.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [(ConnectionRefusedError(CANARY), 503, "unavailable"), (asyncpg.DataError(CANARY), 422, "invalid-field")],
)
async def test_an_outage_and_a_value_that_does_not_fit_are_told_apart_from_bugs(
    client, broken_things, error, status, kind
):
    broken_things.append(error)
    document, response = await refused(client, status, json={"name": "broken"})
    assert document["type"] == f"urn:waystation:problem:{kind}"
    assert ("retry-after" in response.headers) == (status == 503)


async def test_a_problem_found_while_a_body_is_read_stays_what_it_is(client, broken_things):
    broken_things.append(HTTPException(413, Problem(413, "body-too-large", "less", limit=8)))
    document, _ = await refused(client, 413, json={"name": "broken"})
    assert (document["type"], document["limit"]) == ("urn:waystation:problem:body-too-large", 8)


async def test_a_bug_is_a_problem_that_tells_nothing(client):
    document, _ = await refused(client, 500, json={"name": "bug"})
    assert document["type"] == "urn:waystation:problem:internal-error"


async def test_readiness_names_each_part_that_is_not_there(client):
    assert (await client.get("/livez")).status_code == 200
    response = await client.get("/readyz")
    assert (response.status_code, response.json()) == (
        503,
        {
            "status": "not ready",
            "wrong": {"bad": "the disk is full", "broken": "ConnectionResetError", "slow": "TimeoutError"},
        },
    )


class Group:
    """A subscription as readiness sees it: its health, and Kafka's answer about the lag."""

    def __init__(self):
        self.health = ConsumerHealth("moderation.screening", "intake.messages")
        self.waiting = 0
        self.outage = None

    async def lag(self):
        if self.outage:
            raise self.outage
        return self.waiting


async def test_a_subscription_is_ready_with_an_assignment_and_without_a_failure():
    group = Group()
    check = consumer_check(group)
    assert "no assignment yet" in await check()
    group.health.assigned = True
    assert await check() is None
    group.health.failed("PublishError")
    assert await check() == "group moderation.screening waits: PublishError"


async def test_a_subscription_with_a_batch_in_hand_for_long_is_stuck():
    group = Group()
    group.health.assigned, group.waiting = True, 7
    group.health.begin([SimpleNamespace(timestamp=time.time() * 1000 - 90_000)])
    assert await consumer_check(group)() is None
    assert 89 < group.health.oldest_seconds() < 100
    group.health.in_hand_since -= STUCK_SECONDS + 1
    said = await consumer_check(group)()
    assert said == "group moderation.screening is stuck: 7 records wait and none was handled for 31 s"
    group.health.done(1)
    assert await consumer_check(group)() is None
    assert group.health.oldest_seconds() == 0


async def test_a_subscription_that_fetches_nothing_though_records_wait_is_stuck():
    group = Group()
    group.health.assigned, group.waiting = True, 1
    group.health.behind_since = time.monotonic() - STUCK_SECONDS - 5
    assert "is stuck: 1 records wait and none was handled for 35 s" in await consumer_check(group)()
    assert 34 < group.health.oldest_seconds() < 40


async def test_other_partitions_begin_with_a_clean_slate():
    group = Group()
    group.health.assigned = True
    group.health.failed("PublishError")
    group.health.behind_since = 0.0
    group.health.forget()
    assert await consumer_check(group)() is None


async def test_a_subscription_whose_lag_kafka_does_not_tell_is_not_ready():
    group = Group()
    group.health.assigned, group.outage = True, TimeoutError()
    assert await consumer_check(group)() == "group moderation.screening: Kafka does not tell its lag: TimeoutError"


async def test_a_reader_of_standings_is_ready_while_it_is_fresh():
    reader = SimpleNamespace(topic="enforcement.standings", fresh=False, stale_seconds=math.inf)
    check = table_check(reader)
    assert await check() == "the reader of enforcement.standings has not read to its end yet"
    reader.stale_seconds = 4.2
    assert await check() == "the reader of enforcement.standings is 4.2 s old"
    reader.fresh = True
    assert await check() is None
