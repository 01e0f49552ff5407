from __future__ import annotations

import json
from contextlib import asynccontextmanager

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.contracts.vault import ITEMS_MAX
from common.security.tokens import TokenIssuer, TokenVerifier
from vault.api import BODY_BYTES_MAX, vault_routes
from vault.gate import Gate
from vault.openapi import described
from vault.rates import Rates

PRINCIPALS = ("ingestion", "moderation", "routing", "enforcement", "operator")
KEYS = {name: Ed25519PrivateKey.generate() for name in PRINCIPALS}
KEY = "A" * 43 + "="
ITEM = {"account_id": "a", "message_id": "m", "address": "canary@example.org", "message_key": KEY}
BODIES = {
    "seal": {"purpose": "intake", "items": [ITEM]},
    "open": {
        "purpose": "screening",
        "items": [{"account_id": "a", "message_id": "m", "token": "rt_a", "capsule": "AAAA"}],
    },
    "disclose": {
        "purpose": "delivery",
        "provider": "smtp.default",
        "fields": ["address"],
        "items": [
            {
                "account_id": "a",
                "message_id": "m",
                "token": "rt_a",
                "capsule": "AAAA",
                "instruction_digest": "d",
                "legal_basis": "contract",
                "epoch": 1,
                "attempt": 1,
            }
        ],
    },
}


class FakePool:
    """Keeps what was logged; hands out no connection."""

    def __init__(self, outage: Exception | None = None) -> None:
        self.logged: list[tuple[object, ...]] = []
        self.outage = outage or AssertionError("no connection is needed here")

    async def execute(self, sql, *values):
        assert "INTO access_log" in sql
        self.logged.append(values)

    @asynccontextmanager
    async def acquire(self):
        raise self.outage
        yield


class FakeKeyring:
    """Has no accounts and finds none without a connection."""

    async def find_or_create(self, pool, account_ids):
        async with pool.acquire():
            return dict.fromkeys(account_ids)


def door(pool, rates):
    app = described()
    verifier = TokenVerifier("vault", {name: key.public_key() for name, key in KEYS.items()})
    app.include_router(vault_routes(Gate(verifier, pool, rates), pool, FakeKeyring(), None, None))
    return app


async def ask(pool, operation, caller, body, audience="vault", rates=None):
    headers = TokenIssuer(caller, KEYS[caller]).headers(audience) if caller else {}
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    transport = httpx.ASGITransport(door(pool, rates or Rates()))
    async with httpx.AsyncClient(transport=transport, base_url="http://vault") as http:
        return await http.post(f"/v1/{operation}:batch", content=content, headers=headers)


@pytest.mark.parametrize("operation", BODIES)
async def test_a_caller_without_a_token_is_not_answered(operation):
    answer = await ask(FakePool(), operation, None, BODIES[operation])
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_token_for_another_audience_is_not_accepted():
    assert (await ask(FakePool(), "open", "moderation", BODIES["open"], audience="routing")).status_code == 401


@pytest.mark.parametrize(
    ("operation", "caller"),
    [(operation, caller) for operation in BODIES for caller in PRINCIPALS],
)
async def test_the_caller_table_stands_before_every_call(operation, caller):
    pool = FakePool(outage=asyncpg.CannotConnectNowError())
    answer = await ask(pool, operation, caller, BODIES[operation])
    allowed = (caller, operation) in {("ingestion", "seal"), ("moderation", "open"), ("routing", "disclose")}
    assert answer.status_code == (503 if allowed else 403)
    refused = [values[6] for values in pool.logged]
    assert refused == ([] if allowed else ["refused"])


@pytest.mark.parametrize(
    ("operation", "caller", "purpose"),
    [
        ("seal", "ingestion", "screening"),
        ("open", "moderation", "case"),
        ("open", "moderation", "delivery"),
        ("open", "ingestion", "screening"),
        ("open", "enforcement", "review"),
        ("disclose", "routing", "intake"),
        ("seal", "ingestion", "canary"),
    ],
)
async def test_another_purpose_is_refused_and_logged(operation, caller, purpose):
    pool = FakePool()
    answer = await ask(pool, operation, caller, {**BODIES[operation], "purpose": purpose})
    assert answer.status_code == 403
    assert answer.json()["type"] == "urn:waystation:problem:not-allowed"
    assert [values[:2] for values in pool.logged] == [(caller, operation)]
    assert "canary" not in str(pool.logged) + answer.text


@pytest.mark.parametrize(("caller", "purpose"), [("moderation", "review"), ("enforcement", "case")])
async def test_a_person_reads_content_only_for_a_case(caller, purpose):
    answer = await ask(FakePool(), "open", caller, {**BODIES["open"], "purpose": purpose})
    assert answer.status_code == 422
    assert answer.json()["field"] == "case_id"


async def test_an_inbox_is_read_by_a_user_who_is_named():
    answer = await ask(FakePool(), "open", "ingestion", {**BODIES["open"], "purpose": "inbox"})
    assert (answer.status_code, answer.json()["field"]) == (422, "user_id")


@pytest.mark.parametrize(
    ("operation", "caller"), [("seal", "ingestion"), ("open", "moderation"), ("disclose", "routing")]
)
async def test_one_item_too_many_names_the_limit(operation, caller):
    body = {**BODIES[operation], "items": BODIES[operation]["items"] * (ITEMS_MAX + 1)}
    answer = await ask(FakePool(), operation, caller, body)
    assert answer.status_code == 422
    assert (answer.json()["field"], answer.json()["limit"]) == ("items", ITEMS_MAX)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"shoe_size": 43}, "items.0.shoe_size"),
        ({"fields": {"name": ["canary"]}}, "items.0.fields"),
        ({"address": 5}, "items.0.address"),
        ({"address": "canary@example.org" + "x" * 100_000}, "items.0.address"),
        ({"message_key": "canary=="}, "items.0.message_key"),
        ({"message_key": "AAAA"}, "items.0.message_key"),
        ({"message_id": ""}, "items.0.message_id"),
    ],
)
async def test_a_field_that_does_not_fit_is_named_and_its_value_not_repeated(change, field):
    answer = await ask(FakePool(), "seal", "ingestion", {"purpose": "intake", "items": [{**ITEM, **change}]})
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert "canary" not in answer.text


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"\xff\xfe", b'{"purpose": "intake", "items": []}', b'{"items": [{}]}', b"null", b"[" * 100_000],
)
async def test_a_body_that_is_no_call_is_refused(body):
    answer = await ask(FakePool(), "seal", "ingestion", body)
    assert answer.status_code in (400, 422)
    assert answer.json()["status"] == answer.status_code


async def test_a_lone_surrogate_is_refused():
    body = json.dumps({"purpose": "intake", "items": [{**ITEM, "address": "a\ud800@example.org"}]})
    assert (await ask(FakePool(), "seal", "ingestion", body)).status_code == 400


async def test_a_body_over_the_limit_is_not_read_to_its_end():
    answer = await ask(FakePool(), "seal", "ingestion", b" " * (BODY_BYTES_MAX + 1))
    assert answer.status_code == 413
    assert answer.json()["limit"] == BODY_BYTES_MAX


async def test_a_value_that_the_database_cannot_hold_is_the_callers_error():
    answer = await ask(FakePool(outage=asyncpg.DataError("canary")), "seal", "ingestion", BODIES["seal"])
    assert answer.status_code == 422
    assert "canary" not in answer.text


async def test_an_outage_says_when_to_ask_again():
    answer = await ask(FakePool(outage=ConnectionRefusedError()), "seal", "ingestion", BODIES["seal"])
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_the_openapi_document_shows_the_calls_and_their_limits():
    document = door(FakePool(), Rates()).openapi()
    body = document["paths"]["/v1/seal:batch"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/SealCall"}
    schemas = document["components"]["schemas"]
    assert schemas["SealCall"]["properties"]["items"]["maxItems"] == ITEMS_MAX
    assert schemas["SealItem"]["properties"]["message_id"]["maxLength"] == 100
    answer = document["paths"]["/v1/disclose:batch"]["post"]["responses"]["200"]["content"]["application/json"]
    assert answer["schema"] == {"$ref": "#/components/schemas/DiscloseAnswers"}


async def test_who_asks_too_fast_is_told_the_limit_and_when_to_ask_again():
    pool, rates = FakePool(outage=asyncpg.CannotConnectNowError()), Rates({"screening": 0.1, "review": 0.1})
    assert (await ask(pool, "open", "moderation", BODIES["open"], rates=rates)).status_code == 503
    answer = await ask(pool, "open", "moderation", BODIES["open"], rates=rates)
    problem = answer.json()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
    assert problem["type"].endswith("too-fast")
    assert "moderation" in problem["detail"]
    review = {**BODIES["open"], "purpose": "review", "case_id": "case-1"}
    assert (await ask(pool, "open", "moderation", review, rates=rates)).status_code == 503
