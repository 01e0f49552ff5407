"""Screening on a real database: verdicts once and for ever, forged records counted and never opened."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP
from hashlib import sha256
from types import SimpleNamespace

import asyncpg
import httpx
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from common.events import VerdictReached, decode
from common.events.envelope import encode
from common.events.intake import SentMessage, VerifiedInstruction
from common.events.screening import Verdict, VerifiedVerdict
from common.http.problems import install_problem_handlers
from common.http.vault import VaultRefusedError, VaultUnavailableError
from common.kafka.consumer import Received, RetryableError
from common.kafka.publisher import PublishError
from common.security.signing import Signer, TrustedKeys
from common.security.tokens import TokenIssuer, TokenVerifier
from common.testing.admitted import admitted_message, admitted_messages, new_door_keys, received
from common.testing.fakes import FakePublisher, FakeVault
from moderation.api import operator_routes
from moderation.attachments import EICAR
from moderation.handlers import on_message_admitted
from moderation.policy.reading import read_policy
from moderation.screening import Screener
from waystation.stack import checkout_folder

pytestmark = pytest.mark.integration

DOOR = new_door_keys()
VERDICT_KEY = Ed25519PrivateKey.generate()
VERDICT_KEYS = TrustedKeys("verdict", [VERDICT_KEY.public_key()])
MOMENT = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
FORGED_PASSPORTS = b"Subject: offer\r\n\r\nOrder fake passports today.\r\n"


@pytest.fixture(scope="module")
def policy():
    return read_policy(checkout_folder() / "deploy" / "policies" / "road.yaml", "re2")


@pytest.fixture
async def pool(database):
    async with asyncpg.create_pool(await database("moderation"), min_size=2, max_size=4) as connected:
        yield connected


class Copy:
    """One copy of the service over a database that others may share."""

    def __init__(self, pool, policy, vault, moment=MOMENT):
        self.publisher = FakePublisher()
        self.vault = vault
        self.settings = {
            "pool": pool,
            "screener": Screener(policy),
            "vault": vault,
            "publisher": self.publisher,
            "signer": Signer("verdict", VERDICT_KEY),
            "instruction_keys": DOOR.trusted,
            "clock": lambda: moment,
        }

    async def screen(self, *batch):
        await on_message_admitted(batch, **self.settings)
        return self.publisher.take()


@pytest.fixture
def vault():
    return FakeVault()


@pytest.fixture
def copy(pool, policy, vault):
    return Copy(pool, policy, vault)


def known(vault, *messages):
    vault.knows(messages)
    return messages


async def unauthorised(pool):
    return await pool.fetch("SELECT * FROM unauthorised ORDER BY record_offset")


def verdict_of(record):
    """The verdict that the next hop would accept."""
    event = decode(VerdictReached, record.value, record.headers)
    instruction = VerifiedInstruction.verify(event.message, DOOR.trusted)
    return VerifiedVerdict.verify(event.verdict, instruction, VERDICT_KEYS).verdict


async def test_each_message_gets_a_signed_verdict_beside_it_as_it_was_received(copy, vault, pool, policy):
    good, bad = known(
        vault, *admitted_messages(DOOR, [b"Subject: hi\r\n\r\nYour order is sent.\r\n", FORGED_PASSPORTS])
    )
    trace = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    records = await copy.screen(good.received(1, traceparent=trace), bad.received(2))
    first, second = map(verdict_of, records)
    assert (first.action, first.clauses, first.policy) == ("allow", (), policy.name)
    assert (second.action, second.clauses, second.rules) == ("block", ("R3.a",), ("crime.forged-documents",))
    assert second.screened_at == "2026-11-22T18:00:00.000Z"
    assert [record.key.decode() for record in records] == [good.event.key, bad.event.key]
    assert dict(records[0].headers)["traceparent"] == trace
    assert "traceparent" not in dict(records[1].headers)
    assert b"fake passports" not in records[1].value
    assert vault.calls == 1
    row = await pool.fetchrow("SELECT * FROM verdicts WHERE message_id = $1", bad.message_id)
    assert (row["action"], row["clauses"], row["account_id"]) == ("block", ["R3.a"], "acme")


async def test_the_statement_has_the_fields_of_the_contract(copy, vault):
    (message,) = known(vault, admitted_message(DOOR, FORGED_PASSPORTS))
    (record,) = await copy.screen(message.received())
    statement = orjson.loads(record.value)["verdict"]["statement"]
    assert Verdict.model_validate(statement).statement() == statement


async def test_fields_of_the_message_that_this_version_does_not_know_travel_on(copy, vault):
    (message,) = known(vault, admitted_message(DOOR))
    plain = encode(message.event)
    later = orjson.dumps({**orjson.loads(plain.value), "hint": 1})
    record = SimpleNamespace(topic=plain.topic, partition=0, offset=0, value=later, headers=plain.headers)
    (published,) = await copy.screen(Received(SentMessage.from_json(later), record))
    assert orjson.loads(published.value)["message"]["hint"] == 1


async def test_rule_read_back_a_batch_that_comes_again_is_published_in_the_same_bytes(pool, policy, vault):
    messages = known(vault, *admitted_messages(DOOR, [b"Subject: %d\r\n\r\nhello\r\n" % n for n in range(60)]))
    batch = [message.received(n) for n, message in enumerate(messages)]
    first = await Copy(pool, policy, vault).screen(*batch)
    again = await Copy(pool, policy, vault, MOMENT + timedelta(hours=1)).screen(*batch)
    assert again == first
    assert len(first) == 60
    assert vault.calls == 1, "what has a verdict is not opened again"


async def test_rule_read_back_after_a_lost_publish_the_same_verdicts_are_published(copy, vault, pool):
    messages = known(vault, *admitted_messages(DOOR, [FORGED_PASSPORTS, b"Subject: x\r\n\r\nhello\r\n"]))
    batch = [message.received(n) for n, message in enumerate(messages)]
    copy.publisher.failing = 1
    with pytest.raises(PublishError):
        await copy.screen(*batch)
    stored = await pool.fetch("SELECT statement FROM verdicts ORDER BY message_id")
    records = await copy.screen(*batch)
    published = sorted(orjson.dumps(orjson.loads(r.value)["verdict"]["statement"]).decode() for r in records)
    assert published == sorted(row["statement"] for row in stored)
    assert vault.calls == 1


async def test_rule_insert_once_the_verdict_of_a_concurrent_copy_stands(pool, policy, vault):
    messages = known(vault, *admitted_messages(DOOR, [b"Subject: %d\r\n\r\nhello\r\n" % n for n in range(20)]))
    batch = [message.received(n) for n, message in enumerate(messages)]
    slow = Copy(pool, policy, vault)
    gate, asked = asyncio.Event(), asyncio.Event()

    class SlowVault:
        async def open(self, call):
            asked.set()
            await gate.wait()
            return await vault.open(call)

    slow.settings["vault"] = SlowVault()
    losing = asyncio.create_task(slow.screen(*batch))
    await asked.wait()
    winner = await Copy(pool, policy, vault, MOMENT + timedelta(hours=1)).screen(*batch)
    gate.set()
    assert await losing == winner
    assert {verdict_of(record).screened_at for record in winner} == {"2026-11-22T19:00:00.000Z"}
    assert await pool.fetchval("SELECT count(*) FROM verdicts") == 20


async def test_two_copies_with_the_same_messages_in_opposite_order_do_not_deadlock(pool, policy, vault):
    messages = known(vault, *admitted_messages(DOOR, [b"Subject: %d\r\n\r\nhello\r\n" % n for n in range(100)]))
    batch = [message.received(n) for n, message in enumerate(messages)]
    one, two = Copy(pool, policy, vault), Copy(pool, policy, vault, MOMENT + timedelta(hours=1))
    first, second = await asyncio.gather(one.screen(*batch), two.screen(*reversed(batch)))
    assert sorted(first) == sorted(second)


async def test_the_same_record_twice_in_a_batch_is_judged_once(copy, vault):
    (message,) = known(vault, admitted_message(DOOR))
    first, second = await copy.screen(message.received(0), message.received(1))
    assert first == second
    assert len(vault.asked) == 1


async def test_a_forged_instruction_is_counted_and_never_opened(copy, vault, pool):
    (genuine,) = known(vault, admitted_message(DOOR))
    forged = admitted_message(new_door_keys(), account_id="mallory")
    vault.knows([forged])
    (record,) = await copy.screen(forged.received(7), genuine.received(8))
    assert verdict_of(record).message_id == genuine.message_id
    assert [item.message_id for item in vault.asked] == [genuine.message_id]
    (row,) = await unauthorised(pool)
    assert (row["record_offset"], row["event_id"], row["account_id"]) == (7, forged.message_id, None)
    assert row["reason"] == "instruction: signed with a key that was never published"
    assert await pool.fetchval("SELECT count(*) FROM verdicts") == 1


async def test_a_genuine_instruction_with_other_sealed_content_is_unauthorised(copy, vault, pool):
    one, other = known(vault, *admitted_messages(DOOR, [b"Subject: a\r\n\r\na\r\n", FORGED_PASSPORTS]))
    swapped = one.event.model_copy(update={"sealed": other.event.sealed})
    assert await copy.screen(received(swapped, 3)) == []
    assert vault.calls == 0
    (row,) = await unauthorised(pool)
    assert row["reason"] == "instruction: the sealed content is not the one that was instructed"


async def test_a_genuine_instruction_with_another_recipient_is_unauthorised(copy, vault, pool):
    one, other = known(vault, *admitted_messages(DOOR, [b"Subject: a\r\n\r\na\r\n"] * 2))
    statement = {**one.event.instruction.statement, "recipient_token": other.event.key}
    moved = one.event.model_copy(
        update={"instruction": one.event.instruction.model_copy(update={"statement": statement})}
    )
    assert await copy.screen(received(moved, 4)) == []
    assert vault.calls == 0
    (row,) = await unauthorised(pool)
    assert row["reason"] == "instruction: the signature does not fit the statement"


@pytest.mark.parametrize("statement", [{}, {"message_id": ["x\x00"]}, {"message_id": "\x00\U0001f600" * 200}])
async def test_a_forged_statement_without_a_usable_id_is_counted_too(copy, pool, statement):
    message = admitted_message(DOOR)
    forged = message.event.model_copy(
        update={"instruction": message.event.instruction.model_copy(update={"statement": statement})}
    )
    record = SimpleNamespace(topic="intake.messages", partition=2, offset=5, value=b"{}", headers=())
    assert await copy.screen(Received(SentMessage.of(forged), record)) == []
    (row,) = await unauthorised(pool)
    assert (row["topic"], row["record_partition"], row["record_offset"]) == ("intake.messages", 2, 5)
    assert len(row["event_id"]) <= 100


async def test_a_record_read_again_is_counted_once(copy, pool):
    forged = admitted_message(new_door_keys()).received(9)
    await copy.screen(forged)
    await copy.screen(forged)
    assert len(await unauthorised(pool)) == 1


@pytest.mark.parametrize("problem", ["unknown-recipient", "bad-capsule"])
async def test_a_message_that_the_vault_does_not_know_is_unauthorised(copy, vault, pool, problem):
    strange, good = known(vault, *admitted_messages(DOOR, [b"Subject: a\r\n\r\na\r\n"] * 2))
    vault.problems[strange.message_id] = problem
    (record,) = await copy.screen(strange.received(1), good.received(2))
    assert verdict_of(record).message_id == good.message_id
    (row,) = await unauthorised(pool)
    assert (row["reason"], row["account_id"]) == (f"vault: {problem}", "acme")


async def test_content_that_is_not_the_instructed_one_is_unauthorised(copy, vault, pool):
    message = admitted_message(DOOR, content_digest=sha256(b"another").hexdigest())
    vault.knows([message])
    assert await copy.screen(message.received()) == []
    (row,) = await unauthorised(pool)
    assert row["reason"] == "content: its SHA-256 is not the one that was instructed"


async def test_content_sealed_under_another_key_is_unauthorised(copy, vault, pool):
    message = admitted_message(DOOR)
    vault.knows([message.__class__(message.event, bytes(32), message.content)])
    assert await copy.screen(message.received()) == []
    assert (await unauthorised(pool))[0]["reason"] == "content: the content does not open under the message key"


@pytest.mark.parametrize("fields", [{"message_id": "no-uuid"}, {"recipient_token": "t" * 101}])
async def test_an_instruction_out_of_bounds_is_unauthorised_not_a_crash(copy, vault, pool, fields):
    strange, good = admitted_message(DOOR, **fields), admitted_message(DOOR)
    vault.knows([good])
    assert len(await copy.screen(strange.received(1), good.received(2))) == 1
    assert len(await unauthorised(pool)) == 1


async def test_another_instruction_under_a_judged_message_id_is_unauthorised(copy, vault, pool):
    first = admitted_message(DOOR)
    second = admitted_message(DOOR, FORGED_PASSPORTS, message_id=first.message_id)
    vault.knows([first])
    assert len(await copy.screen(first.received(1))) == 1
    assert await copy.screen(second.received(2)) == []
    (row,) = await unauthorised(pool)
    assert row["reason"] == "instruction: another one was judged under this message id"


async def test_erased_content_is_held(copy, vault):
    (message,) = known(vault, admitted_message(DOOR, FORGED_PASSPORTS))
    vault.problems[message.message_id] = "erased"
    (record,) = await copy.screen(message.received())
    verdict = verdict_of(record)
    assert (verdict.action, verdict.clauses, verdict.degraded) == ("hold", (), ("content-erased",))


@pytest.mark.parametrize("outage", [VaultUnavailableError("away"), VaultRefusedError("401")])
async def test_a_vault_that_does_not_serve_makes_the_batch_wait(copy, vault, pool, outage):
    vault.outage = outage
    with pytest.raises(RetryableError):
        await copy.screen(admitted_message(DOOR).received())
    assert copy.publisher.records == []
    assert await pool.fetchval("SELECT count(*) FROM verdicts") == 0
    assert await unauthorised(pool) == []


async def test_eicar_in_a_base64_attachment_is_blocked_on_the_road(copy, vault):
    mail = EmailMessage(policy=SMTP)
    mail["Subject"] = "report"
    mail.set_content("see attachment")
    mail.add_attachment(EICAR, maintype="text", subtype="csv", filename="numbers.csv", cte="base64")
    (message,) = known(vault, admitted_message(DOOR, mail.as_bytes()))
    (record,) = await copy.screen(message.received())
    verdict = verdict_of(record)
    assert (verdict.action, verdict.clauses) == ("block", ("R5.3",))
    assert verdict.evidence[0].digest == sha256(EICAR).hexdigest()


async def test_the_loop_turns_while_a_large_batch_is_screened(copy, vault):
    messages = known(vault, *admitted_messages(DOOR, [b"Subject: %d\r\n\r\nhello\r\n" % n for n in range(300)]))
    turns = 0

    async def heartbeat():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beating = asyncio.create_task(heartbeat())
    await copy.screen(*(message.received(n) for n, message in enumerate(messages)))
    beating.cancel()
    assert turns > 300 // 50


async def test_an_empty_content_is_screened_like_any_other(copy, vault):
    (message,) = known(vault, admitted_message(DOOR, b""))
    (record,) = await copy.screen(message.received())
    assert verdict_of(record).action == "allow"


@pytest.fixture
async def operator(pool, policy):
    keys = {name: Ed25519PrivateKey.generate() for name in ("operator", "routing")}
    verifier = TokenVerifier("moderation", {name: key.public_key() for name, key in keys.items()})
    app = FastAPI()
    install_problem_handlers(app)
    app.include_router(operator_routes(pool, Screener(policy), verifier))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://moderation") as client:

        def ask(path, principal="operator"):
            headers = TokenIssuer(principal, keys[principal]).headers("moderation") if principal else {}
            return client.get(path, headers=headers)

        yield ask


async def test_the_operator_sees_a_verdict_as_it_was_signed(copy, vault, operator):
    (message,) = known(vault, admitted_message(DOOR, FORGED_PASSPORTS))
    (record,) = await copy.screen(message.received())
    answer = await operator(f"/v1/verdicts/{message.message_id}")
    assert answer.json()["verdict"] == orjson.loads(record.value)["verdict"]
    assert (answer.json()["action"], answer.json()["clauses"]) == ("block", ["R3.a"])


async def test_an_unknown_message_or_no_uuid_is_a_problem(operator):
    unknown = await operator("/v1/verdicts/0199a1b2-0000-7000-8000-000000000000")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:waystation:problem:unknown-message")
    assert (await operator("/v1/verdicts/x")).status_code == 422


async def test_the_operator_sees_unauthorised_records_with_their_reasons(copy, operator):
    await copy.screen(*(admitted_message(new_door_keys()).received(n) for n in range(3)))
    answer = (await operator("/v1/unauthorised?limit=2")).json()
    assert answer["count"] == 3
    assert answer["by_reason"] == {"instruction: signed with a key that was never published": 3}
    assert [item["record_offset"] for item in answer["items"]] == [2, 1]
    assert (await operator("/v1/unauthorised?limit=0")).status_code == 422


async def test_the_operator_sees_the_policy_without_patterns(operator, policy):
    answer = (await operator("/v1/policy")).json()
    assert answer["policy"] == policy.name
    assert len(answer["rules"]) == len(policy.document.rules)
    assert "match" not in answer["rules"][0]


async def test_only_the_operator_may_ask(operator):
    assert (await operator("/v1/policy", None)).status_code == 401
    assert (await operator("/v1/policy", "routing")).status_code == 403


async def test_a_capsule_beyond_its_bound_is_unauthorised(copy, vault, pool):
    message = admitted_message(DOOR)
    sealed = message.event.sealed.model_copy(update={"capsule": bytes(501)})
    big = admitted_message(DOOR, sealed_digest=sealed.digest())
    event = big.event.model_copy(update={"sealed": sealed})
    assert await copy.screen(received(event, 1)) == []
    assert (await unauthorised(pool))[0]["reason"] == "instruction: capsule is outside its bounds"
