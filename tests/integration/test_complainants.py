"""Who complains is a person of the vault: from the open door to his erasure, and what is left of him in enforcement."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from canary_search import Search, rows
from on_the_road import run_command, stack_of_its_own

from common.ids import new_id
from common.security.tokens import TokenIssuer
from waystation.stack.credentials import SUPERUSER

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

COMPLAINT = {"clause": "R3.a", "category": "phishing", "origin": "recipient"}
PROTECTION = {"purpose": "data-protection"}
OWN_ACCOUNT = "complainants"


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with stack_of_its_own(tmp_path_factory.mktemp("complainants"), "vault", "enforcement") as running:
        yield running


@pytest.fixture
async def http():
    async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture
def complain(stack, http):
    """File a complaint of somebody about some account."""

    async def complain(account, who, key=None):
        body = {**COMPLAINT, "account_id": account, **({} if who is None else {"complainant": who})}
        headers = {} if key is None else {"idempotency-key": key}
        return await http.post(f"{stack.url('enforcement')}/v1/complaints", json=body, headers=headers)

    return complain


@pytest.fixture
def operator(stack, http):
    """Ask a service as the operator."""

    async def ask(service, method, path, **request):
        headers = TokenIssuer.from_file("operator", stack.identity_key("operator")).headers(service)
        return await http.request(method, stack.url(service) + path, headers=headers, **request)

    return ask


@pytest.fixture
def seen(operator):
    """What operators see of the complaints about an account."""

    async def seen(account):
        answer = await operator("enforcement", "GET", "/v1/complaints", params={"account_id": account})
        return answer.json()["complaints"]

    return seen


def somebody():
    word = f"vqel{new_id()[-12:]}"
    return word, {"address": f"{word}@example.org", "name": f"Frau {word}", "language": "de"}


async def test_a_complaint_keeps_the_token_and_the_vault_keeps_who_it_is(stack, complain, seen, operator):
    account, (word, who) = new_id(), somebody()
    receipt = await complain(account, who)
    assert receipt.status_code == 202
    (complaint,) = await seen(account)
    token = complaint["complainant"]
    assert token
    assert token not in receipt.text, "who complains learns no token"
    person = {"account_id": OWN_ACCOUNT, "token": token}
    export = (await operator("vault", "POST", "/v1/export", json={**PROTECTION, "person": person})).json()
    assert word in json.dumps(export)
    search, kept = Search([word, token]), await rows(lambda name: stack.dsn(name, SUPERUSER), ["enforcement"])
    found = {(find.word, find.place) for place, content in kept for find in search.look(place, content)}
    assert (token, "database enforcement, table complaints") in found
    assert [place for found_word, place in found if found_word == word] == []


async def test_the_account_complained_about_knows_nothing_of_who_complained(complain, operator):
    account, (word, who) = new_id(), somebody()
    await complain(account, who)
    body = {**PROTECTION, "account_id": account}
    export = await operator("vault", "POST", "/v1/account-export", json=body)
    own = await operator("vault", "POST", "/v1/account-export", json={**PROTECTION, "account_id": OWN_ACCOUNT})
    assert word not in export.text
    assert word in own.text


async def test_a_complainant_has_the_kind_and_the_retention_of_complainants(complain, seen, operator):
    account, (_, who) = new_id(), somebody()
    await complain(account, who)
    (complaint,) = await seen(account)
    person = {"account_id": OWN_ACCOUNT, "token": complaint["complainant"]}
    export = (await operator("vault", "POST", "/v1/export", json={**PROTECTION, "person": person})).json()
    (kept,) = export["persons"]
    assert (kept["kind"], kept["retention"]["unused_days"]) == ("complainant", 1095)
    assert kept["fields"] == who


async def test_a_complaint_sent_again_with_its_key_has_one_person_and_one_answer(complain, seen, operator):
    account, key, (_, who) = new_id(), new_id(), somebody()
    answers = await asyncio.gather(*(complain(account, who, key) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    (complaint,) = await seen(account)
    assert (await complain(account, None, key)).status_code == 422
    other = new_id()
    await complain(other, who)
    assert (await seen(other))[0]["complainant"] == complaint["complainant"], "one address is one person"


async def test_erased_a_complainant_leaves_a_token_that_nobody_opens(complain, seen, operator):
    account, key, (word, who) = new_id(), new_id(), somebody()
    first = await complain(account, who, key)
    (complaint,) = await seen(account)
    person = {"account_id": OWN_ACCOUNT, "token": complaint["complainant"]}
    body = {**PROTECTION, "reason": "request-of-person", "items": [person]}
    assert '"problem"' not in (await operator("vault", "POST", "/v1/erase:batch", json=body)).text
    export = await operator("vault", "POST", "/v1/export", json={**PROTECTION, "person": person})
    assert word not in export.text
    assert (await complain(account, who, key)).text == first.text
    assert await seen(account) == [complaint]
    by_address = {**PROTECTION, "items": [{"account_id": OWN_ACCOUNT, "address": who["address"]}]}
    found = (await operator("vault", "POST", "/v1/find:batch", json=by_address)).json()
    assert found["items"][0].get("tokens", []) == [], "a repeat brings nobody back"


async def test_without_the_vault_only_complaints_that_name_nobody_are_taken(stack, complain, seen):
    account, key, (_, who) = new_id(), new_id(), somebody()
    known = await complain(account, who, key)
    stack.stop_service("vault")
    try:
        named = await complain(account, who)
        again = await complain(account, who, key)
        unnamed = await complain(account, None)
    finally:
        stack.start_service("vault")
    assert named.status_code == 503
    assert named.headers["retry-after"]
    assert again.text == known.text
    assert unnamed.status_code == 202
    assert [one["id"] for one in await seen(account)] == [known.json()["id"], unnamed.json()["id"]]


async def test_an_address_that_is_none_is_refused_and_nothing_is_stored(complain, seen):
    account = new_id()
    answer = await complain(account, {"address": "nobody at example"})
    assert (answer.status_code, answer.json()["field"]) == (422, "complainant.address")
    assert "nobody" not in answer.text
    assert await seen(account) == []


def test_the_command_files_a_complaint_with_who_complains_and_the_export_says_who_it_was(stack, tmp_path):
    account, (_, who) = new_id(), somebody()
    about = ("--account", account, "--clause", "R5.2", "--category", "phishing")
    run_command(stack, "complaints", "file", *about, "--complainant", who["address"])
    (complaint,) = run_command(stack, "complaints", "list", "--account", account)["complaints"]
    shown = run_command(stack, "complaints", "list", "--account", account, as_json=False)
    assert who["address"] not in json.dumps(complaint) + shown
    assert complaint["complainant"] in shown
    file = tmp_path / "who.json"
    run_command(stack, "vault", "export", str(file), "--account", OWN_ACCOUNT, "--token", complaint["complainant"])
    (person,) = json.loads(file.read_text("utf-8"))["persons"]
    assert person["fields"] == {"address": who["address"]}


async def test_enforcement_can_seal_complainants_and_nobody_else(stack, http):
    async def seal(purpose, kind):
        item = {"account_id": new_id(), "message_id": "m", "address": "jo@example.org", "kind": kind}
        headers = TokenIssuer.from_file("enforcement", stack.identity_key("enforcement")).headers("vault")
        body = {"purpose": purpose, "items": [item]}
        return await http.post(f"{stack.url('vault')}/v1/seal:batch", json=body, headers=headers)

    assert (await seal("intake", "complainant")).status_code == 403
    assert (await seal("complaints", "complainant")).json()["items"][0]["token"]
    for kind in ("recipient", "user", "administrator"):
        (answer,) = (await seal("complaints", kind)).json()["items"]
        assert (answer["problem"]["status"], answer["problem"]["field"]) == (422, "kind")
