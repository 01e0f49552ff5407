"""The public API over a real PostgreSQL."""

from __future__ import annotations

import asyncio
import base64
import re
from hashlib import sha256

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.events import MessageAdmitted, decode
from common.events.intake import Instruction, VerifiedInstruction
from common.security.sealing import unseal
from ingestion import store
from ingestion.api import MessageTrace
from ingestion.congestion import Bounds, Load, congestion

pytestmark = pytest.mark.integration


async def test_an_admitted_message_is_stored_signed_and_sealed(door, item):
    answer = await door.send(item())
    assert answer.status_code == 202, answer.text
    document = answer.json()
    (stored,) = door.relay.records
    event = decode(MessageAdmitted, stored.record.value, stored.record.headers)
    verified = VerifiedInstruction.verify(event, door.instructions)
    assert verified.instruction.message_id == document["id"]
    assert verified.instruction.content_digest == document["digest"]
    assert verified.instruction.grants == ()
    key = door.vault.key_of(document["id"])
    content = unseal(key, document["id"], "content", event.sealed.content)
    assert sha256(content).hexdigest() == document["digest"]
    assert b"They are at the counter" in content
    envelope = orjson.loads(unseal(key, document["id"], "envelope", event.sealed.envelope))
    assert envelope == {"mail_from": "hello@lindqvist.example", "smtputf8": False}
    assert await door.count("messages") == await door.count("outbox") == await door.count("awaiting_receipt") == 1


async def test_the_signed_statement_is_what_the_contract_says(door, item):
    until = "2026-12-01T10:00:00+02:00"
    answer = await door.send(item(duplicates_allowed=True, not_after=until))
    statement = answer.json()["acceptance"]["statement"]
    assert Instruction.model_validate(statement).statement() == statement
    assert statement["not_after"] == "2026-12-01T08:00:00.000Z"
    assert statement["legal_basis"] == "contract:order-2041"


async def test_nothing_readable_about_the_recipient_stays_at_the_door(door, item):
    await door.send(item(idempotency_key="ines.moreau@mail.example"))
    rows = await door.pool.fetch("SELECT m::text, o::text FROM messages m, outbox o")
    text = str([tuple(row) for row in rows])
    for planted in ("ines.moreau", "Moreau", "glasses", base64.b64encode(b"ines.moreau").decode()[:12]):
        assert planted not in text


async def test_concurrent_singles_travel_in_few_batches(door, item):
    answers = await asyncio.gather(*(door.send(item(reference=f"n-{n}")) for n in range(40)))
    assert {answer.status_code for answer in answers} == {202}
    assert door.vault.calls < 10
    assert await door.count("messages") == 40


def problem_of(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["type"].startswith("urn:waystation:problem:")
    return document


async def assert_nothing_was_kept(door):
    assert await door.count("messages") == await door.count("outbox") == await door.count("awaiting_receipt") == 0
    assert not door.relay.records


async def assert_refused(door, item, status, kind, **members):
    """One request, a problem with these members, alone and as an item of a batch; and nothing is kept."""
    alone = problem_of(await door.send(item), status)
    batch = (await door.send_batch([item])).json()["items"]
    assert batch == [{"status": status, "problem": alone}]
    assert alone["type"] == f"urn:waystation:problem:{kind}"
    assert {name: alone.get(name) for name in members} == members
    await assert_nothing_was_kept(door)


# Bad input, line by line


async def test_an_unknown_field_is_named(door, item):
    await assert_refused(door, item(colour="red"), 422, "unknown-field", field="colour")


async def test_a_wrong_type_is_named(door, item):
    await assert_refused(door, item(recipient=["ines"]), 422, "invalid-field", field="recipient")


async def test_an_address_of_100_001_characters_is_refused_by_its_limit(door, item):
    long = item(recipient={"address": "a" * 100_001})
    await assert_refused(door, long, 422, "invalid-field", field="recipient.address", limit=254)


async def test_invalid_utf8_is_refused_whole(door, item):
    raw = orjson.dumps(item()).replace(b"Ines", b"In\xff\xfe")
    assert problem_of(await door.send(raw), 400)["type"].endswith(":invalid-utf-8")
    batch = b'{"items":[' + orjson.dumps(item()) + b"," + raw + b"]}"
    assert problem_of(await door.send_batch(batch), 400)["field"] == "body"
    await assert_nothing_was_kept(door)


async def test_a_mail_of_10_000_parts_is_refused(door, item):
    parts = b"--x\r\n\r\npart\r\n" * 10_000
    head = b"From: hello@lindqvist.example\r\nTo: a@b.example\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n"
    eml = item(content={"eml": base64.b64encode(head + parts + b"--x--\r\n").decode()})
    await assert_refused(door, eml, 422, "invalid-content", field="content.eml", limit=1000)


async def test_a_deeply_nested_mail_is_refused(door, item):
    head = b"From: hello@lindqvist.example\r\nTo: a@b.example\r\nMIME-Version: 1.0\r\n"
    nested = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (depth, depth) for depth in range(200)
    )
    eml = item(content={"eml": base64.b64encode(head + nested + b"\r\ntext\r\n").decode()})
    await assert_refused(door, eml, 422, "invalid-content", field="content.eml", limit=20)


async def test_a_line_end_in_a_subject_is_refused(door, item):
    content = {"subject": "Hello\r\nBcc: everybody@mail.example", "text": "x"}
    await assert_refused(door, item(content=content), 422, "invalid-content", field="content.subject")


async def test_a_line_end_in_an_address_is_refused(door, item):
    recipient = {"address": "ines@mail.example\r\nRCPT TO:<other@mail.example>"}
    await assert_refused(door, item(recipient=recipient), 422, "invalid-address", field="recipient.address")


async def test_a_line_end_in_a_name_is_refused(door, item):
    recipient = {"address": "ines@mail.example", "name": "Ines\r\nBcc: x@y.example"}
    await assert_refused(door, item(recipient=recipient), 422, "invalid-content", field="recipient.name")


async def test_a_body_that_announces_more_than_36_mib_is_not_read(door):
    async def never():
        raise AssertionError("the body was read")
        yield b""

    answer = await door.client.post(
        "/v1/messages", content=never(), headers={**door.key, "content-length": str(40_000_000)}
    )
    problem = problem_of(answer, 413)
    assert (problem["field"], problem["limit"]) == ("body", 36 * 1024 * 1024)


async def test_a_mail_of_26_mb_is_refused_by_its_limit(door, item):
    content = {"eml": base64.b64encode(b"x" * 26_000_000).decode()}
    problem = problem_of(await door.send(item(content=content)), 413)
    assert problem["type"].endswith(":content-too-large")
    assert (problem["field"], problem["limit"]) == ("content.eml", 700_000)
    await assert_nothing_was_kept(door)


async def test_a_composed_mail_beyond_the_limit_is_refused(door, item):
    content = {"subject": "s", "text": "long line of text\n" * 50_000}
    await assert_refused(door, item(content=content), 413, "content-too-large", field="content", limit=700_000)


async def test_the_same_idempotency_key_with_other_content_is_refused(door, item):
    first = await door.send(item(), headers={"idempotency-key": "k-1"})
    other = await door.send(item(purpose="other"), headers={"idempotency-key": "k-1"})
    problem = problem_of(other, 422)
    assert problem["type"].endswith(":idempotency-key-reused")
    assert problem["field"] == "idempotency_key"
    assert first.status_code == 202
    assert await door.count("messages") == 1


async def test_a_batch_of_501_is_refused_by_its_limit(door, item):
    problem = problem_of(await door.send_batch([item()] * 501), 422)
    assert problem["type"].endswith(":batch-too-large")
    assert (problem["field"], problem["limit"]) == ("items", 500)
    await assert_nothing_was_kept(door)


async def test_a_wrong_key_opens_nothing(door, item):
    wrong = {"authorization": "Bearer wk_" + "x" * 43}
    for answer in (await door.send(item(), key=wrong), await door.send_batch([item(), 5], key=wrong)):
        assert problem_of(answer, 401)["type"].endswith(":unknown-key")
        assert answer.headers["www-authenticate"] == "Bearer"
    await assert_nothing_was_kept(door)


@pytest.mark.parametrize("authorization", ["", "Basic abc", "Bearer ", "Bearer wk_short", "Bearer xx_" + "x" * 40])
async def test_what_is_no_key_is_refused_before_the_body_is_read(door, authorization):
    async def never():
        raise AssertionError("the body was read")
        yield b""

    answer = await door.client.post("/v1/messages", content=never(), headers={"authorization": authorization})
    assert problem_of(answer, 401)["field"] == "authorization"


async def test_the_key_is_checked_before_the_shape(door):
    wrong = {"authorization": "Bearer wk_" + "x" * 43}
    for body in (b"{", b'{"items": 5}', b"\xff"):
        problem_of(await door.send(body, key=wrong), 401)
        problem_of(await door.send_batch(body, key=wrong), 401)


async def test_a_missing_legal_basis_cites_r4_3(door, item):
    await assert_refused(door, item(legal_basis=...), 422, "no-legal-basis", clause="R4.3", field="legal_basis")


async def test_a_legal_basis_that_nobody_vouches_for_cites_r4_3(door, item):
    await assert_refused(door, item(legal_basis={"kind": "consent"}), 422, "no-legal-basis", clause="R4.3")


async def test_an_inbox_is_found_by_its_id_and_by_its_address_in_any_case_of_the_domain(door, item):
    for name in (door.account["inboxes"][0]["id"], "hello@Lindqvist.EXAMPLE"):
        assert (await door.send(item(inbox=name))).status_code == 202


async def test_an_inbox_of_another_account_is_unknown(door, item):
    await door.create_account("Other Opticians", inboxes=[{"address": "hello@other.example"}])
    await assert_refused(door, item(inbox="hello@other.example"), 422, "unknown-inbox", field="inbox")


async def test_an_own_mail_must_come_from_the_inbox(door, item):
    eml = b"From: boss@bank.example\r\nTo: ines.moreau@mail.example\r\nSubject: x\r\n\r\ntext\r\n"
    content = {"eml": base64.b64encode(eml).decode()}
    await assert_refused(door, item(content=content), 422, "sender-is-not-the-inbox", field="content.eml")


async def test_an_own_mail_stands_alone(door, item):
    content = {"eml": base64.b64encode(b"x").decode(), "subject": "x"}
    await assert_refused(door, item(content=content), 422, "invalid-content", field="content.eml")


async def test_an_own_mail_is_carried_byte_for_byte_with_crlf(door, item):
    eml = b"From: hello@lindqvist.example\nTo: ines.moreau@mail.example\nSubject: x\n\nmy own words\n"
    document = (await door.send(item(content={"eml": base64.b64encode(eml).decode()}))).json()
    assert document["digest"] == sha256(eml.replace(b"\n", b"\r\n")).hexdigest()


# The order of the checks


async def user_key(door, **user):
    account = await door.create_account("Users only", users=[{"tools": ["email"], **user}])
    return {"authorization": f"Bearer {account['users'][1]['api_key']}"}, account


async def test_a_user_is_admitted_under_his_grant_and_the_instruction_names_it(door, item):
    key, account = await user_key(door)
    answer = await door.send(item(), key=key)
    statement = answer.json()["acceptance"]["statement"]
    assert statement["grants"] == [account["users"][1]["grant_id"]]
    assert statement["user_id"] == account["users"][1]["id"]


async def test_removing_the_administrator_ends_the_grants_that_hang_on_him(door, item):
    key, account = await user_key(door)
    await door.pool.execute("UPDATE users SET active = false WHERE id = $1", account["users"][0]["id"])
    assert problem_of(await door.send(item(), key=key), 403)["clause"] == "R4.1"
    await assert_nothing_was_kept(door)


async def test_an_ended_grant_is_refused_before_the_rules(door, item):
    key, _ = await user_key(door, ends_at="2020-01-01T00:00:00Z")
    await door.pool.execute("DELETE FROM rules_acceptances")
    assert problem_of(await door.send(item(), key=key), 403)["clause"] == "R4.1"


async def test_without_acceptance_of_the_rules_in_force_nothing_is_sent(door, item):
    await door.pool.execute("UPDATE rules_acceptances SET text_digest = 'of an older text'")
    await assert_refused(door, item(), 403, "rules-not-accepted", clause="R0", rules_version="1")


async def standing(door, standing):
    await door.pool.execute(
        "INSERT INTO standings VALUES ($1, $2, 1, now()) ON CONFLICT (account_id) DO UPDATE SET standing = $2",
        door.account["id"],
        standing,
    )


async def test_a_blocked_account_is_refused_before_its_addresses_are_looked_at(door, item):
    await standing(door, "blocked")
    await assert_refused(door, item(recipient={"address": "x"}), 403, "account-blocked", clause="R7")


async def test_a_suspended_account_is_admitted_for_routing_to_hold(door, item):
    await standing(door, "suspended")
    assert (await door.send(item())).status_code == 202


async def test_the_first_answer_is_given_again_whatever_happened_since(door, item):
    first = await door.send(item(idempotency_key="k"))
    await standing(door, "blocked")
    again = await door.send(item(idempotency_key="k"))
    assert again.status_code == 202
    assert again.json() == first.json()


async def test_addresses_are_looked_at_before_the_legal_basis(door, item):
    both = item(recipient={"address": "x"}, legal_basis=...)
    await assert_refused(door, both, 422, "invalid-address", field="recipient.address")


# Idempotency


async def test_twenty_identical_singles_at_once_are_one_message(door, item):
    answers = await asyncio.gather(*(door.send(item(), headers={"idempotency-key": "same"}) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert await door.count("messages") == await door.count("outbox") == len(door.relay.records) == 1


async def test_two_doors_that_race_for_one_key_admit_one_message(door, item, another_door):
    door.vault.delay_seconds = another_door.vault.delay_seconds = 0.05
    key = {**door.key, "idempotency-key": "same"}
    one, two, other = await asyncio.gather(
        door.send(item(), key=key),
        another_door.send(item(), key=key),
        another_door.send(item(purpose="other"), key=key),
    )
    assert await door.count("messages") == 1
    accepted = [answer for answer in (one, two, other) if answer.status_code == 202]
    assert len({answer.json()["id"] for answer in accepted}) == 1
    refused = [answer for answer in (one, two, other) if answer.status_code != 202]
    assert {problem_of(answer, 422)["type"] for answer in refused} == {"urn:waystation:problem:idempotency-key-reused"}
    assert refused


async def test_one_of_two_contents_under_one_key_at_once_is_refused(door, item):
    batch = [item(idempotency_key="k"), item(idempotency_key="k"), item(idempotency_key="k", purpose="other")]
    answers = (await door.send_batch(batch)).json()["items"]
    assert [answer["status"] for answer in answers] == [202, 202, 422]
    assert answers[0] == answers[1]
    assert await door.count("messages") == 1


async def test_without_an_idempotency_key_every_request_is_a_message(door, item):
    await asyncio.gather(door.send(item()), door.send(item()))
    assert await door.count("messages") == 2


async def test_two_accounts_may_use_the_same_idempotency_key(door, item):
    other = await door.create_account("Other Opticians")
    mine = await door.send(item(idempotency_key="k"))
    theirs = await door.send(item(idempotency_key="k"), key={"authorization": f"Bearer {other['api_key']}"})
    assert mine.json()["id"] != theirs.json()["id"]


# Batches


async def test_each_item_of_a_batch_has_its_own_answer_in_order(door, item):
    batch = [item(reference="n-0"), item(colour="red"), item(reference="n-2"), item(legal_basis=...), 7]
    answers = (await door.send_batch(batch)).json()["items"]
    assert [answer["status"] for answer in answers] == [202, 422, 202, 422, 422]
    for position in (0, 2):
        row = await door.pool.fetchrow("SELECT * FROM messages WHERE id = $1", answers[position]["message"]["id"])
        assert row["reference"] == f"n-{position}"
    assert await door.count("messages") == 2


async def test_items_that_the_vault_refuses_do_not_refuse_the_others(door, item):
    erased = {"type": "urn:waystation:problem:erased", "status": 410, "detail": "the recipient was erased"}
    door.vault.refused["gone@mail.example"] = erased
    gone = item(recipient={"address": "gone@mail.example"}, idempotency_key="g")
    answers = (await door.send_batch([gone, item(), gone, {**gone, "purpose": "other"}])).json()["items"]
    assert [answer["status"] for answer in answers] == [410, 202, 410, 409]
    assert answers[0]["problem"]["field"] == "recipient"
    assert await door.count("messages") == 1


KINDS = st.sampled_from(
    [
        {},
        {"colour": "red"},
        {"legal_basis": None},
        {"recipient": {"address": "nobody"}},
        {"inbox": "not@ours.example"},
        {"tool": "telephony"},
        {"content": {"subject": "a\nb", "text": "x"}},
        {"content": {"text": "no subject"}},
        {"content": {"subject": "empty"}},
        {"not_after": "2020-01-01T00:00:00Z"},
        {"idempotency_key": "known", "purpose": "changed"},
    ]
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(changes=st.lists(KINDS, min_size=1, max_size=8))
def test_a_batch_answers_each_item_as_it_would_be_answered_alone(prepared_door, item, changes):
    door, run = prepared_door
    items = [item(**change) for change in changes]

    async def both():
        alone = [await door.send(each) for each in items]
        return alone, (await door.send_batch(items)).json()["items"]

    alone, together = run(both())
    assert [answer["status"] for answer in together] == [answer.status_code for answer in alone]
    assert [answer.get("problem") for answer in together] == [
        None if answer.status_code == 202 else answer.json() for answer in alone
    ]


# When something is away


async def test_without_the_vault_nothing_is_kept_and_the_caller_comes_back(door, item):
    door.vault.away = True
    answer = await door.send(item(idempotency_key="k"))
    assert problem_of(answer, 503)["type"].endswith(":unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    problem_of(await door.send_batch([item()]), 503)
    await assert_nothing_was_kept(door)
    door.vault.away = False
    assert (await door.send(item(idempotency_key="k"))).status_code == 202


async def test_a_database_that_goes_away_after_the_seal_leaves_nothing_behind(door, item):
    door.vault.delay_seconds = 0.2
    sending = asyncio.create_task(door.send(item()))
    await asyncio.sleep(0.1)
    door.admission._pool = BrokenPool()
    assert problem_of(await sending, 503)["status"] == 503
    door.admission._pool = door.pool
    await assert_nothing_was_kept(door)


class BrokenPool:
    async def fetch(self, *_):
        raise ConnectionResetError


@pytest.mark.parametrize(
    ("moment", "kind", "field"),
    [
        ("9999-12-31T00:00:00Z", "invalid-window", "not_before"),
        ("9999-12-31T23:59:59-01:00", "invalid-field", "not_before"),
        ("0001-01-01T00:00:00+01:00", "invalid-field", "not_before"),
    ],
)
async def test_a_moment_at_the_end_of_the_calendar_is_refused_and_nobody_elses_message(door, item, moment, kind, field):
    bad, good = await asyncio.gather(door.send(item(not_before=moment)), door.send(item()))
    assert problem_of(bad, 422)["type"].endswith(f":{kind}")
    assert problem_of(bad, 422)["field"] == field
    assert good.status_code == 202, good.text


async def test_what_goes_wrong_with_one_item_is_that_items_answer(door, item, monkeypatch):
    def fails(candidate, message_id, now):
        if candidate.item.reference == "odd":
            raise ArithmeticError
        return mail(candidate, message_id, now)

    mail = door.admission._mail
    monkeypatch.setattr(door.admission, "_mail", fails)
    odd, even = await asyncio.gather(door.send(item(reference="odd")), door.send(item(reference="even")))
    assert problem_of(odd, 500)["type"].endswith(":internal-error")
    assert even.status_code == 202
    assert await door.count("messages") == 1


class LosesAnswers:
    """A pool whose connections are lost after a statement with this word was carried out, so many times."""

    def __init__(self, pool, word, times, *, before=False):
        self._pool, self._word, self._times, self._before = pool, word, times, before

    async def fetch(self, query, *arguments):
        loses = self._word in query and self._times > 0
        if loses and self._before:
            self._times -= 1
            raise asyncpg.ConnectionDoesNotExistError
        rows = await self._pool.fetch(query, *arguments)
        if loses:
            self._times -= 1
            raise asyncpg.ConnectionDoesNotExistError
        return rows


@pytest.mark.parametrize("before", [True, False])
async def test_an_answer_lost_on_its_way_from_the_database_makes_no_second_message(door, item, monkeypatch, before):
    monkeypatch.setattr(door.admission, "_pool", LosesAnswers(door.pool, "WITH admitted AS", 1, before=before))
    answer = await door.send(item())
    assert answer.status_code == 202, answer.text
    assert await door.count("messages") == await door.count("outbox") == 1
    assert str(await door.pool.fetchval("SELECT id FROM messages")) == answer.json()["id"]


async def test_a_commit_whose_answer_is_late_is_not_repeated(door, item, monkeypatch):
    """The first statement commits between the look for its messages and the second try."""
    pool = LosesAnswers(door.pool, "WITH admitted AS", 1)
    looks = []

    async def looked(*_):
        looks.append(1)
        return set() if len(looks) == 1 else await stored_ids(*_)

    stored_ids = store.stored_ids
    monkeypatch.setattr(store, "stored_ids", looked)
    monkeypatch.setattr(door.admission, "_pool", pool)
    answer = await door.send(item())
    assert answer.status_code == 202, answer.text
    assert len(looks) == 2
    assert await door.count("messages") == await door.count("outbox") == 1


async def test_a_batch_under_one_idempotency_key_is_refused_instead_of_ignoring_it(door, item):
    body = orjson.dumps({"items": [item()]})
    answer = await door.client.post("/v1/messages:batch", content=body, headers={**door.key, "Idempotency-Key": "k"})
    assert problem_of(answer, 422)["field"] == "Idempotency-Key"
    await assert_nothing_was_kept(door)


async def arriving(sizes, goes_on):
    """A body that comes in pieces; the last is held back."""
    *first, last = sizes
    for size in first:
        yield b" " * size
    await goes_on.wait()
    yield b" " * last


async def test_a_key_that_opens_nothing_gets_no_memory(door):
    goes_on = asyncio.Event()
    key = {"authorization": "Bearer wk_" + "n" * 43}
    answer = await door.client.post("/v1/messages", content=arriving([70_000, 1], goes_on), headers=key)
    assert problem_of(answer, 401)["type"].endswith(":unknown-key"), "before its last byte has come"


async def test_slow_large_bodies_of_one_account_leave_room_for_others(door, item, monkeypatch):
    monkeypatch.setattr("ingestion.body.KEY_BYTES_MAX", 300_000)
    monkeypatch.setattr("ingestion.body.LARGE_BODIES_BYTES_MAX", 500_000)
    monkeypatch.setattr("ingestion.body.BODIES_BYTES_MAX", 600_000)
    goes_on = asyncio.Event()
    others = await door.create_account("Others", inboxes=[])
    other = {"authorization": f"Bearer {others['api_key']}"}

    def slowly(key, size):
        body = arriving([size, 1], goes_on)
        return asyncio.create_task(door.client.post("/v1/messages", content=body, headers=key))

    async def busy(key, size):
        return problem_of(await slowly(key, size), 503)["detail"].partition(":")[0]

    held = [slowly(door.key, 250_000)]
    await asyncio.sleep(0.1)
    assert await busy(door.key, 100_000) == "too many large bodies of this key at once"
    held.append(slowly(other, 240_000))
    await asyncio.sleep(0.1)
    assert await busy(other, 100_000 - 50_000 + 20_000) in {
        "too many large bodies at once",
        "too many large bodies of this key at once",
    }
    assert (await door.send(item())).status_code == 202, "a small one passes"
    goes_on.set()
    assert {answer.status_code for answer in await asyncio.gather(*held)} == {400}
    assert (await door.send(item(content={"subject": "s", "text": "x " * 50_000}))).status_code == 202


async def test_a_congested_road_stops_batches_before_singles(door, item):
    bounds = Bounds(100, 10.0, 60.0, 3.0)
    door.congestion.problem = lambda single: congestion(Load(150, 0, 0), bounds, single=single)
    answer = await door.send_batch([item()])
    assert problem_of(answer, 503)["type"].endswith(":road-congested")
    assert answer.headers["retry-after"] == "2"
    await assert_nothing_was_kept(door)
    assert (await door.send(item())).status_code == 202
    door.congestion.problem = lambda single: congestion(Load(0, 0, 181), bounds, single=single)
    problem_of(await door.send(item()), 503)


async def test_a_single_message_does_not_wait_behind_bulk_that_fills_the_door(door, item, monkeypatch):
    seal, may_go = door.vault.seal, asyncio.Event()

    async def held_where_there_are_many(call):
        if len(call.items) > 1:
            await may_go.wait()
        return await seal(call)

    monkeypatch.setattr(door.vault, "seal", held_where_there_are_many)
    bulk = [asyncio.create_task(door.send_batch([item() for _ in range(300)])) for _ in range(6)]
    while door.lanes[1].waiting < 600:  # three batches are at work, what is left waits
        await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        assert (await door.send(item())).status_code == 202
    assert not any(task.done() for task in bulk)
    may_go.set()
    assert {answer["status"] for task in bulk for answer in (await task).json()["items"]} == {202}


async def test_an_account_beyond_its_rate_is_told_when_to_come_back(slow_door, item):
    answers = (await slow_door.send_batch([item() for _ in range(8)])).json()["items"]
    assert [answer["status"] for answer in answers] == [202] * 5 + [429] * 3
    answer = await slow_door.send(item())
    assert problem_of(answer, 429)["type"].endswith(":rate-exceeded")
    assert int(answer.headers["retry-after"]) >= 1


# The trace


async def test_the_trace_begins_with_the_admission(door, item):
    admitted = (await door.send(item(reference="order-7"))).json()
    trace = (await door.client.get(f"/v1/messages/{admitted['id']}", headers=door.key)).json()
    assert (trace["state"], trace["reference"], trace["digest"]) == ("admitted", "order-7", admitted["digest"])
    assert [step["state"] for step in trace["steps"]] == ["admitted"]
    assert trace["acceptance"] == admitted["acceptance"]
    MessageTrace.model_validate(trace)


async def test_the_trace_of_another_account_is_not_to_be_told_from_none(door, item):
    admitted = (await door.send(item())).json()
    other = await door.create_account("Other Opticians")
    key = {"authorization": f"Bearer {other['api_key']}"}
    theirs = await door.client.get(f"/v1/messages/{admitted['id']}", headers=key)
    none = await door.client.get("/v1/messages/01a20477-c14d-76e4-8eae-d3677d5cb091", headers=key)
    no_id = await door.client.get("/v1/messages/nothing", headers=key)
    assert problem_of(theirs, 404) == problem_of(none, 404) == problem_of(no_id, 404)


async def test_the_operator_sees_every_trace(door, item):
    admitted = (await door.send(item())).json()
    url = f"/v1/messages/{admitted['id']}"
    assert (await door.client.get(url, headers=door.operator)).status_code == 200
    problem_of(await door.client.get(url, headers=door.account["other"]), 401)
    problem_of(await door.client.get(url), 401)


async def test_a_wrong_key_learns_nothing_about_messages(door):
    key = {"authorization": "Bearer wk_" + "x" * 43}
    for message_id in ("01a20477-c14d-76e4-8eae-d3677d5cb091", "nothing"):
        problem_of(await door.client.get(f"/v1/messages/{message_id}", headers=key), 401)


async def test_the_trace_context_of_a_request_travels_with_its_messages(door, item):
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await door.send(item(), headers={"traceparent": traceparent})
    await door.send(item(), headers={"traceparent": "nonsense"})
    headers = [dict(stored.record.headers).get("traceparent") for stored in door.relay.records]
    assert headers == [traceparent.encode(), None]


# OpenAPI


async def test_every_reference_of_the_openapi_document_leads_somewhere(door):
    document = (await door.client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    found = set(re.findall(r'"#/components/schemas/([^"]+)"', orjson.dumps(document).decode()))
    assert found <= set(schemas)
    body = document["paths"]["/v1/messages:batch"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/MessageBatch"}
    assert schemas["MessageItem"]["additionalProperties"] is False
    assert "application/problem+json" in document["paths"]["/v1/messages"]["post"]["responses"]["422"]["content"]
    assert document["paths"]["/v1/messages"]["post"]["security"] == [{"apiKey": []}]
    assert document["paths"]["/v1/ledger"]["get"]["security"] == [{"operatorToken": []}]
