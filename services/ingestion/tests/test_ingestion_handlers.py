"""Receipts and standings, delivered once, twice and by the wrong hand."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.events import ReceiptIssued, StandingChanged
from common.events.routing import Receipt
from common.kafka.consumer import Received
from common.security.signing import Signer, TrustedKeys
from ingestion import store
from ingestion.handlers import on_receipts, on_standings

pytestmark = pytest.mark.integration
ROUTING = Ed25519PrivateKey.generate()
KEYS = TrustedKeys("receipt", [ROUTING.public_key()])


def receipts(*facts, signer=None):
    statements = [
        Receipt(
            **{
                "account_id": "a",
                "recipient_token": "rt_1",
                "instruction_digest": "d",
                "content_digest": "c",
                "sequence": 1,
                "state": "handed_over",
                "reason": "250 taken",
                "attempt": 1,
                "provider": "smtp.default",
                "reply_code": 250,
                "reply_digest": None,
                "occurred_at": "2026-11-22T12:00:00.000Z",
                **fact,
            }
        ).statement()
        for fact in facts
    ]
    signed = (signer or Signer("receipt", ROUTING)).sign(statements)
    return [
        Received(
            ReceiptIssued(receipt=each),
            SimpleNamespace(topic="routing.receipts", partition=0, offset=at, headers=[("ce_id", b"event-%d" % at)]),
        )
        for at, each in enumerate(signed)
    ]


@pytest.fixture
def told(door):
    return partial(on_receipts, pool=door.pool, keys=KEYS)


async def admitted(door, item, count=1):
    answers = (await door.send_batch([item() for _ in range(count)])).json()["items"]
    return [answer["message"]["id"] for answer in answers]


async def trace(door, message_id):
    return (await door.client.get(f"/v1/messages/{message_id}", headers=door.key)).json()


async def test_receipts_become_steps_of_the_trace_in_their_order(door, item, told):
    (message_id,) = await admitted(door, item)
    second = {"message_id": message_id, "sequence": 2, "state": "handed_over"}
    first = {"message_id": message_id, "state": "held", "reason": "suspended", "attempt": None, "reply_code": None}
    await told(receipts(second))
    await told(receipts(first))
    document = await trace(door, message_id)
    assert [step["state"] for step in document["steps"]] == ["admitted", "held", "handed_over"]
    assert document["state"] == "handed_over"
    assert document["steps"][1]["reason"] == "suspended"
    assert document["steps"][2]["reply_code"] == 250


async def test_a_batch_delivered_again_changes_nothing(door, item, told):
    message_ids = await admitted(door, item, 3)
    batch = receipts(*({"message_id": message_id} for message_id in message_ids))
    await told(batch)
    before = [await trace(door, message_id) for message_id in message_ids]
    await told(batch)
    await told(batch + batch[:1])
    assert [await trace(door, message_id) for message_id in message_ids] == before
    assert await door.count("message_steps") == 3
    assert await door.count("unauthorised") == 0


async def test_a_message_waits_until_its_first_receipt(door, item, told):
    one, two = await admitted(door, item, 2)
    await told(receipts({"message_id": one}))
    rows = await door.pool.fetch("SELECT message_id::text FROM awaiting_receipt")
    assert [row["message_id"] for row in rows] == [two]


async def test_a_message_that_is_stuck_does_not_congest_a_road_that_moves(door, item, told):
    (stuck,) = await admitted(door, item)
    await door.pool.execute("UPDATE awaiting_receipt SET admitted_at = now() - interval '1 hour'")
    assert await store.backlog_seconds(door.pool) > 3000
    (moved,) = await admitted(door, item)
    await told(receipts({"message_id": moved}))
    assert await store.backlog_seconds(door.pool) == 0
    await admitted(door, item)
    assert await store.backlog_seconds(door.pool) < 60
    assert stuck


async def test_what_routing_did_not_sign_is_kept_apart_with_its_reason(door, item, told):
    (message_id,) = await admitted(door, item)
    forged = receipts({"message_id": message_id}, signer=Signer("receipt", Ed25519PrivateKey.generate()))
    await told(forged)
    await told(forged)
    assert (await trace(door, message_id))["state"] == "admitted"
    (row,) = (await door.client.get("/v1/unauthorised", headers=door.operator)).json()["items"]
    assert (row["topic"], row["event_id"]) == ("routing.receipts", "event-0")
    assert "never published" in row["reason"]


async def test_a_verdicts_signature_makes_no_receipt(door, item, told):
    (message_id,) = await admitted(door, item)
    await told(receipts({"message_id": message_id}, signer=Signer("verdict", ROUTING)))
    assert await door.count("unauthorised") == 1
    assert await door.count("message_steps") == 0


async def test_a_signed_statement_of_another_shape_is_unauthorised(door, told):
    (signed,) = Signer("receipt", ROUTING).sign([{"message_id": "no uuid", "sequence": 1, "state": "delivered"}])
    record = SimpleNamespace(topic="routing.receipts", partition=0, offset=7, headers=[])
    await told([Received(ReceiptIssued(receipt=signed), record)])
    assert await door.count("unauthorised") == 1


async def test_a_forged_receipt_does_not_stop_the_others_of_its_batch(door, item, told):
    one, two = await admitted(door, item, 2)
    forged = receipts({"message_id": two}, signer=Signer("receipt", Ed25519PrivateKey.generate()))
    await told(receipts({"message_id": one}) + forged)
    assert (await trace(door, one))["state"] == "handed_over"
    assert (await trace(door, two))["state"] == "admitted"


def changed(account_id, standing, revision):
    return StandingChanged(
        account_id=account_id,
        standing=standing,
        revision=revision,
        clause="R7",
        reason="complaint",
        complaint_id=None,
        decided_by="person",
        since="2026-11-22T12:00:00.000Z",
    )


async def test_of_two_standings_the_higher_revision_holds_in_whatever_order(door):
    account_id = door.account["id"]

    async def present():
        return await door.pool.fetchval("SELECT standing FROM standings WHERE account_id = $1", account_id)

    await on_standings([changed(account_id, "good", 3), changed(account_id, "blocked", 2)], pool=door.pool)
    assert await present() == "good"
    await on_standings([changed(account_id, "suspended", 1)], pool=door.pool)
    assert await present() == "good"
    await on_standings([changed(account_id, "blocked", 4)], pool=door.pool)
    await on_standings([changed(account_id, "blocked", 4)], pool=door.pool)
    assert await present() == "blocked"


async def test_a_standing_for_what_is_no_account_disturbs_nobody(door):
    await on_standings([changed("nobody", "blocked", 1), changed(door.account["id"], "warned", 1)], pool=door.pool)
    assert await door.count("standings") == 1
