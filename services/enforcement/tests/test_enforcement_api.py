"""What the door refuses before anything is stored, and what it says then."""

from __future__ import annotations

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.security.tokens import TokenIssuer, TokenVerifier
from common.times import now
from enforcement.api import install_routes
from enforcement.bodies import BODY_BYTES_MAX, BoundedBodies
from enforcement.decisions import Bench
from enforcement.openapi import described

KEYS = {name: Ed25519PrivateKey.generate() for name in ("operator", "routing", "stranger")}
COMPLAINT = {"account_id": "acme", "clause": "R3.a", "category": "phishing", "origin": "recipient"}
COMPLAINT_ID = "01a2046f-37d6-73bc-ba3e-b59129ddbfa8"


class PoolOfADeadDatabase:
    """Every query finds the connection refused, as when PostgreSQL is away; nothing else may be reached here."""

    async def fetchrow(self, *_):
        raise ConnectionRefusedError

    fetch = fetchrow


@pytest.fixture
async def door():
    app = described()
    app.state.bench = Bench(PoolOfADeadDatabase(), None, now)
    app.state.verifier = TokenVerifier("enforcement", {n: KEYS[n].public_key() for n in ("operator", "routing")})
    app.add_middleware(BoundedBodies)
    install_routes(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
        yield client


def token(principal, audience="enforcement"):
    return TokenIssuer(principal, KEYS[principal]).headers(audience)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"clause": "R4"}, "clause"),
        ({"clause": None}, "clause"),
        ({"category": "my own words"}, "category"),
        ({"origin": "neighbour"}, "origin"),
        ({"message_id": "not an id"}, "message_id"),
        ({"account_id": ""}, "account_id"),
        ({"account_id": "a" * 101}, "account_id"),
        ({"account_id": "someone@example.org"}, "account_id"),
        ({"account_id": 7}, "account_id"),
    ],
)
async def test_a_wrong_field_is_named(door, change, field):
    answer = await door.post("/v1/complaints", json={**COMPLAINT, **change})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["field"] == field
    assert "someone" not in answer.text


async def test_free_text_and_the_complainants_address_are_refused_with_the_reason(door):
    answer = await door.post("/v1/complaints", json={**COMPLAINT, "text": "call me on +1 555 0100"})
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (422, "urn:waystation:problem:unknown-field")
    assert "no free text" in problem["detail"]
    assert "555" not in answer.text


async def test_the_name_of_an_unknown_field_is_shortened(door):
    answer = await door.post("/v1/complaints", json={**COMPLAINT, "n" * 5000: 1})
    assert answer.status_code == 422
    assert len(answer.text) < 600


async def test_a_long_body_is_refused_by_its_declared_length(door):
    answer = await door.post("/v1/complaints", json={**COMPLAINT, "category": "x" * BODY_BYTES_MAX})
    assert (answer.status_code, answer.json()["limit"]) == (413, BODY_BYTES_MAX)


async def test_a_long_body_of_undeclared_length_is_refused_while_it_arrives(door):
    async def endless():
        for _ in range(100):
            yield b" " * 1000

    answer = await door.post("/v1/complaints", content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"account_id": "\xff"}', b"\x00"])
async def test_what_is_no_json_object_is_refused(door, body):
    answer = await door.post("/v1/complaints", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_long_idempotency_key_is_refused(door):
    answer = await door.post("/v1/complaints", json=COMPLAINT, headers={"idempotency-key": "k" * 201})
    assert (answer.status_code, answer.json()["limit"]) == (422, 200)


async def test_an_outage_of_the_database_is_answered_with_when_to_come_back(door):
    answer = await door.post("/v1/complaints", json=COMPLAINT)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/complaints"),
        ("POST", f"/v1/complaints/{COMPLAINT_ID}:confirm"),
        ("POST", f"/v1/complaints/{COMPLAINT_ID}:dismiss"),
        ("GET", "/v1/standings/acme"),
        ("POST", "/v1/standings/acme"),
    ],
)
async def test_only_an_operator_decides(door, method, path):
    body = {"standing": "limited", "reason": "two reports"}
    statuses = {
        who: (await door.request(method, path, json=body, headers=headers)).status_code
        for who, headers in {
            "nobody": {},
            "another service": token("routing"),
            "unknown key": token("stranger"),
            "token for another audience": token("operator", "vault"),
            "garbage": {"authorization": "Bearer x.y.z"},
        }.items()
    }
    assert statuses == {
        "nobody": 401,
        "another service": 403,
        "unknown key": 401,
        "token for another audience": 401,
        "garbage": 401,
    }


@pytest.mark.parametrize(
    "reason",
    ["", "x" * 501, "two\nlines", "asked by jo@example.org", "call +49 30 1234567", "nul \x00"],
)
async def test_a_reason_that_is_long_or_reaches_a_person_is_refused(door, reason):
    answer = await door.post(
        "/v1/standings/acme", json={"standing": "good", "reason": reason}, headers=token("operator")
    )
    assert (answer.status_code, answer.json()["field"]) == (422, "reason")
    assert "example.org" not in answer.text


async def test_a_complaint_cannot_be_confirmed_as_good(door):
    answer = await door.post(
        f"/v1/complaints/{COMPLAINT_ID}:confirm", json={"standing": "good", "reason": "r"}, headers=token("operator")
    )
    assert (answer.status_code, answer.json()["field"]) == (422, "standing")


async def test_the_description_of_the_door_names_its_fields(door):
    document = (await door.get("/openapi.json")).json()
    assert set(document["components"]["schemas"]["ComplaintCall"]["properties"]) == {*COMPLAINT, "message_id"}
