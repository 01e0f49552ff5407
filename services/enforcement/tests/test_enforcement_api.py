"""What the door refuses before anything is stored, and what it says then."""

from __future__ import annotations

import contextlib

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.contracts.vault import SealAnswer
from common.http.vault import VaultUnavailableError
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


class EmptyPool:
    """A database without complaints that takes each one, and remembers with which values."""

    def __init__(self):
        self.stored = []

    async def fetchrow(self, query, *values):
        assert "INSERT INTO complaints" in query
        *_, storing, _ = values
        if storing:
            self.stored.append(values)
        return {
            "stored_id": values[0] if storing else None,
            "known_id": None,
            "account_is_full": False,
            "all_is_full": False,
        }


class FakeVault:
    """Answers as it is told to, and keeps what it was asked."""

    def __init__(self, **answer):
        self.answer = SealAnswer(**{"token": "t-1", **answer})
        self.calls = []

    async def seal(self, call):
        self.calls.append(call)
        return [self.answer]


class VaultAway(FakeVault):
    async def seal(self, call):
        raise VaultUnavailableError("away")


@pytest.fixture
def vault():
    return FakeVault()


@pytest.fixture
async def door(vault):
    async with client_of(PoolOfADeadDatabase(), vault) as client:
        yield client


@contextlib.asynccontextmanager
async def client_of(pool, vault):
    """A client at a door with this database and this vault behind it."""
    app = described()
    app.state.bench = Bench(pool, None, now)
    app.state.sealer = vault
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


async def test_free_text_is_refused_with_the_reason(door):
    answer = await door.post("/v1/complaints", json={**COMPLAINT, "text": "call me on +1 555 0100"})
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (422, "urn:waystation:problem:unknown-field")
    assert "no free text" in problem["detail"]
    assert "555" not in answer.text


@pytest.mark.parametrize(
    ("person", "field"),
    [
        ({}, "complainant.address"),
        ({"address": ""}, "complainant.address"),
        ({"address": "canary" * 50}, "complainant.address"),
        ({"address": ["canary"]}, "complainant.address"),
        ({"address": "jo@example.org", "name": "canary" * 50}, "complainant.name"),
        ({"address": "jo@example.org", "language": "canary" * 10}, "complainant.language"),
        ({"address": "jo@example.org", "phone": "canary"}, "complainant.phone"),
        ("canary@example.org", "complainant"),
    ],
)
async def test_a_complainant_of_another_shape_is_refused_and_not_repeated(door, vault, person, field):
    answer = await door.post("/v1/complaints", json={**COMPLAINT, "complainant": person})
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert "canary" not in answer.text
    assert vault.calls == []


async def test_a_complainant_is_sealed_under_the_operators_own_account_and_kept_by_token():
    pool, vault = EmptyPool(), FakeVault()
    person = {"address": "jo@example.org", "name": "Jo", "language": "de"}
    async with client_of(pool, vault) as client:
        answer = await client.post("/v1/complaints", json={**COMPLAINT, "complainant": person})
    assert answer.status_code == 202
    ((call,), (stored,)) = vault.calls, pool.stored
    (item,) = call.items
    assert (call.purpose, item.account_id, item.kind) == ("complaints", "complainants", "complainant")
    assert (item.address, item.fields) == ("jo@example.org", {"name": "Jo", "language": "de"})
    assert stored[-1] == "t-1"
    assert not any("jo@" in str(value) for value in stored)


async def test_who_complains_changes_no_digest_but_whether_somebody_does():
    pool, vault = EmptyPool(), FakeVault()
    async with client_of(pool, vault) as client:
        for person in ({"address": "a@example.org"}, {"address": "b@example.org"}, None):
            await client.post("/v1/complaints", json={**COMPLAINT, "complainant": person})
        await client.post("/v1/complaints", json=COMPLAINT)
    first, second, nobody, unsaid = [stored[7] for stored in pool.stored]
    assert first == second != nobody == unsaid
    assert len(vault.calls) == 2, "nobody is sealed where nobody is named"


@pytest.mark.parametrize(
    ("problem", "status", "field"),
    [
        ({"status": 422, "field": "address", "detail": "canary"}, 422, "complainant.address"),
        ({"status": 422, "field": "item"}, 422, "complainant"),
        ({"status": 410, "type": "urn:waystation:problem:account-ended"}, 503, "complainant"),
    ],
)
async def test_what_the_vault_does_not_take_is_refused_and_nothing_is_stored(problem, status, field):
    pool = EmptyPool()
    async with client_of(pool, FakeVault(token=None, problem=problem)) as client:
        answer = await client.post("/v1/complaints", json={**COMPLAINT, "complainant": {"address": "jo.example"}})
    assert (answer.status_code, answer.json()["field"], pool.stored) == (status, field, [])
    assert "jo.example" not in answer.text
    assert "canary" not in answer.text


async def test_with_the_vault_away_only_complaints_that_name_nobody_are_taken():
    pool = EmptyPool()
    async with client_of(pool, VaultAway()) as client:
        named = await client.post("/v1/complaints", json={**COMPLAINT, "complainant": {"address": "jo@example.org"}})
        unnamed = await client.post("/v1/complaints", json=COMPLAINT)
    assert (named.status_code, named.headers["retry-after"]) == (503, "1")
    assert (unnamed.status_code, len(pool.stored)) == (202, 1)


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
    assert set(document["components"]["schemas"]["ComplaintCall"]["properties"]) == {
        *COMPLAINT,
        "message_id",
        "complainant",
    }
