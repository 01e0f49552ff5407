"""The door as a process: what survives a kill, what a real socket refuses, and what happens while a neighbour is away."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter

import asyncpg
import httpx
import pytest
from on_the_road import wait_for, wait_until_settled

from waystation.operator import ServiceClient
from waystation.rehearsal import items

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

TIMEOUT_SECONDS = 40.0


@pytest.fixture(scope="module")
def account(road):
    return road.create_account(f"Door {uuid.uuid4().hex[:8]}")


@pytest.fixture
async def door(stack, account):
    headers = {"authorization": f"Bearer {account.api_key}"}
    url = stack.url("ingestion")
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
        yield client


def letters(count, tag):
    return items([f"{tag}-{number}@reader.example" for number in range(count)], tag=f"{tag}-{uuid.uuid4().hex[:8]}")


def admitted_count(stack, account):
    with ServiceClient(stack) as operator:
        (terms,) = operator.get("ingestion", "/v1/ledger", {"account_id": account.account_id})["accounts"]
    return terms["admitted"]


async def test_a_message_that_was_answered_survives_a_kill(stack, door):
    answer = await door.post("/v1/messages:batch", json={"items": letters(100, "kill")})
    stack.kill_service("ingestion")
    stack.start_service("ingestion")
    answers = answer.json()["items"]
    assert {each["status"] for each in answers} == {202}
    message_ids = [each["message"]["id"] for each in answers]
    await asyncio.to_thread(wait_until_settled, stack, message_ids)

    def traces():
        with ServiceClient(stack) as operator:
            found = [operator.get("ingestion", f"/v1/messages/{message_id}") for message_id in message_ids[::20]]
        return found if all(len(trace["steps"]) > 1 for trace in found) else None

    for trace in await asyncio.to_thread(wait_for, traces, "receipts reach the trace"):
        assert [step["sequence"] for step in trace["steps"]] == sorted({step["sequence"] for step in trace["steps"]})


async def test_a_request_repeated_after_a_kill_gets_the_first_answer(stack, door):
    batch = {"items": letters(20, "again")}
    first = (await door.post("/v1/messages:batch", json=batch)).json()
    stack.kill_service("ingestion")
    stack.start_service("ingestion")
    assert (await door.post("/v1/messages:batch", json=batch)).json() == first


async def test_a_body_of_40_mb_is_refused_with_a_problem_however_it_is_announced(door):
    async def unannounced():
        for _ in range(45):
            yield b"x" * 1_000_000

    for body in (b"x" * 40_000_000, unannounced()):
        answer = await door.post("/v1/messages", content=body)
        assert (answer.status_code, answer.json()["limit"]) == (413, 36 * 1024 * 1024)
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await door.get("/livez")).status_code == 200


async def test_without_the_vault_the_door_asks_to_come_back_and_keeps_nothing(stack, door, account):
    (letter,) = letters(1, "vault")
    before = admitted_count(stack, account)
    stack.stop_service("vault")
    try:
        answer = await door.post("/v1/messages", json=letter)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert (await door.get("/livez")).status_code == 200
    finally:
        stack.start_service("vault")
    admitted = await door.post("/v1/messages", json=letter)
    assert admitted.status_code == 202, admitted.text
    assert admitted_count(stack, account) == before + 1


async def test_two_copies_of_the_door_admit_a_message_once(stack, door):
    (letter,) = letters(1, "copies")
    stack.start_service("ingestion", 2)
    try:
        urls = [stack.url("ingestion"), stack.url("ingestion", 2)] * 10
        answers = await asyncio.gather(*(door.post(f"{url}/v1/messages", json=letter) for url in urls))
        assert Counter(answer.status_code for answer in answers) == {202: 20}
        assert len({answer.json()["id"] for answer in answers}) == 1
        other = await door.post(f"{urls[1]}/v1/messages", json={**letter, "purpose": "other"})
        assert (other.status_code, other.json()["field"]) == (422, "idempotency_key")
    finally:
        stack.stop_service("ingestion", 2)


async def test_a_block_by_enforcement_closes_the_door_to_the_account(stack, road):
    blocked = road.create_account(f"Blocked {uuid.uuid4().hex[:8]}")
    headers = {"authorization": f"Bearer {blocked.api_key}"}
    with ServiceClient(stack) as operator:
        call = {"standing": "blocked", "reason": "complaints were confirmed", "clause": "R5.1"}
        operator.post("enforcement", f"/v1/standings/{blocked.account_id}", call)

        def refused():
            (letter,) = letters(1, "blocked")
            answer = httpx.post(f"{stack.url('ingestion')}/v1/messages", json=letter, headers=headers, trust_env=False)
            return answer.status_code == 403 and answer.json()

        problem = await asyncio.to_thread(wait_for, refused, "the standing reaches the door", 5)
        assert (problem["type"], problem["clause"]) == ("urn:waystation:problem:account-blocked", "R7")
        operator.post("enforcement", f"/v1/standings/{blocked.account_id}", {**call, "standing": "good"})
        await asyncio.to_thread(wait_for, lambda: not refused(), "the door opens again", 5)


async def test_the_doors_role_may_not_change_its_tables(stack):
    connection = await asyncpg.connect(stack.dsn("ingestion"))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("ALTER TABLE messages ADD COLUMN more text")
    finally:
        await connection.close()
