"""Held messages: claimed by one reviewer at a time, opened inside a case only, decided once, acted on by routing."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from on_the_road import delivery_state, run_command, wait_for, wait_until_settled

from common.events import VerdictRevised, decode
from common.events.screening import verified_revision
from common.http.problems import install_problem_handlers
from common.security.signing import Signer, TrustedKeys
from common.security.tokens import TokenIssuer, TokenVerifier
from common.testing.admitted import admitted_message, new_door_keys
from common.testing.fakes import FakePublisher, FakeVault
from moderation.handlers import on_message_admitted
from moderation.policy.reading import read_policy
from moderation.review.api import ReviewRoutes
from moderation.review.cases import case_id_of
from moderation.review.deciding import AlreadyDecidedError, ClaimLostError, Deciding, Word
from moderation.review.store import claim_case, end_cases
from moderation.screening import Screener
from waystation.operator import ServiceClient
from waystation.rehearsal import eml_item
from waystation.stack import checkout_folder

pytestmark = pytest.mark.integration

DOOR = new_door_keys()
VERDICT_KEY = Ed25519PrivateKey.generate()
VERDICT_KEYS = TrustedKeys("verdict", [VERDICT_KEY.public_key()])
KEYS = {name: Ed25519PrivateKey.generate() for name in ("reviewer.anna", "reviewer.ben", "operator", "ingestion")}
START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LAUNDERING = b"From: Shop <shop@example.com>\r\nSubject: offer\r\n\r\nWe launder your money safely.\r\n"
EXCLUSION = b"Subject: flat\r\n\r\nFlat to let, two rooms. No immigrants allowed.\r\n"
RELEASE, BLOCK = Word("release", None, "a quotation in a complaint"), Word("block", "R3.a", "an offer to launder money")


@pytest.fixture(scope="module")
def policy():
    return read_policy(checkout_folder() / "deploy" / "policies" / "road.yaml", "re2")


@pytest.fixture
async def pool(database):
    async with asyncpg.create_pool(await database("moderation"), min_size=2, max_size=6) as connected:
        yield connected


class Desk:
    """Moderation with its queue over a database of its own; the clock is moved by the test."""

    def __init__(self, pool, policy, second_share=0.0):
        self.pool, self.policy, self.vault, self.moment = pool, policy, FakeVault(), START
        self.relayed = []
        relay = SimpleNamespace(committed=self.relayed.extend)
        self.deciding = Deciding(pool, Signer("verdict", VERDICT_KEY), relay, second_share, self.now)

    def now(self):
        return self.moment

    async def hold(self, *contents, **fields):
        fields = {"not_before": START, "not_after": START + timedelta(days=1), **fields}
        messages = [admitted_message(DOOR, content, **fields) for content in contents]
        self.vault.knows(messages)
        await self.screen(messages)
        return messages

    async def screen(self, messages):
        await on_message_admitted(
            [message.received(number) for number, message in enumerate(messages)],
            pool=self.pool,
            vault=self.vault,
            publisher=FakePublisher(),
            signer=Signer("verdict", VERDICT_KEY),
            instruction_keys=DOOR.trusted,
            screener=Screener(self.policy),
            clock=self.now,
        )

    async def claim(self, reviewer, seconds=900):
        return await claim_case(self.pool, reviewer, self.moment, self.moment + timedelta(seconds=seconds))

    def words(self):
        """What was written to the outbox, as routing would read it."""
        events = [decode(VerdictRevised, one.record.value, one.record.headers) for one in self.relayed]
        return [verified_revision(event.revision, VERDICT_KEYS) for event in events]


@pytest.fixture
def desk(pool, policy):
    return Desk(pool, policy)


async def test_a_held_message_has_one_case_however_often_it_is_screened(desk, pool):
    (message,) = await desk.hold(LAUNDERING)
    await desk.screen([message])
    (row,) = await pool.fetch("SELECT * FROM cases")
    assert (row["case_id"], row["severity"], row["clauses"]) == (case_id_of(message.message_id, "hold"), 4, ["R3.a"])
    assert row["due_at"] == START + timedelta(hours=4)
    assert await pool.fetchval("SELECT messages FROM likenesses") == 1
    assert b"launder" not in row["content"]


async def test_a_released_message_becomes_one_signed_word_in_the_outbox(desk, pool):
    (message,) = await desk.hold(LAUNDERING)
    case_id = await desk.claim("anna")
    await desk.deciding.decide(case_id, "anna", RELEASE)
    await desk.deciding.decide(case_id, "anna", RELEASE)
    (word,) = desk.words()
    assert (word.message_id, word.action, word.revision, word.case_id) == (message.message_id, "allow", 1, str(case_id))
    assert b"anna" not in desk.relayed[0].record.value, "who decided stays here"
    assert await pool.fetchval("SELECT count(*) FROM outbox") == 1
    row = await pool.fetchrow("SELECT * FROM cases")
    assert (row["state"], row["content"], row["capsule"]) == ("decided", None, None)
    with pytest.raises(AlreadyDecidedError):
        await desk.deciding.decide(case_id, "anna", BLOCK)


async def test_twenty_reviewers_at_once_are_given_twenty_different_cases(desk):
    await desk.hold(*[LAUNDERING + b"%d\r\n" % n for n in range(20)])
    claimed = await asyncio.gather(*(desk.claim(f"reviewer{n}") for n in range(25)))
    assert len({one for one in claimed if one is not None}) == 20
    assert claimed.count(None) == 5


async def test_a_claim_that_ran_out_goes_to_another_and_its_first_holder_decides_nothing(desk):
    await desk.hold(LAUNDERING)
    case_id = await desk.claim("anna", seconds=60)
    assert await desk.claim("ben") is None
    desk.moment += timedelta(seconds=61)
    assert await desk.claim("ben") == case_id
    with pytest.raises(ClaimLostError):
        await desk.deciding.decide(case_id, "anna", RELEASE)
    await desk.deciding.decide(case_id, "ben", BLOCK)
    assert [(word.action, word.clauses) for word in desk.words()] == [("block", ("R3.a",))]


async def test_two_decisions_at_the_same_moment_make_one(desk, pool):
    await desk.hold(LAUNDERING)
    case_id = await desk.claim("anna")
    outcomes = await asyncio.gather(
        desk.deciding.decide(case_id, "anna", RELEASE),
        desk.deciding.decide(case_id, "anna", BLOCK),
        return_exceptions=True,
    )
    assert sum(outcome is None for outcome in outcomes) == 1
    assert await pool.fetchval("SELECT count(*) FROM revisions") == len(desk.words()) == 1


async def test_the_order_is_overdue_then_severity_exposure_and_age(desk):
    (mild,) = await desk.hold(EXCLUSION, account_id="small")
    desk.moment += timedelta(minutes=30)
    (harsh,) = await desk.hold(LAUNDERING, account_id="other")
    many = await desk.hold(*[EXCLUSION] * 30, account_id="flood")
    mild_case, harsh_case, *flood = (case_id_of(one.message_id, "hold") for one in (mild, harsh, *many))
    assert await desk.claim("anna", seconds=1) in flood, "thirty alike outweigh a severer one"
    desk.moment += timedelta(minutes=451)
    claimed = [await desk.claim("anna") for _ in range(3)]
    assert claimed[:2] == [harsh_case, mild_case], "what is overdue comes first, the severer before the older"
    assert claimed[2] in flood


async def test_a_second_look_is_blind_for_another_person_and_changes_nothing(pool, policy):
    desk = Desk(pool, policy, second_share=1.0)
    await desk.hold(LAUNDERING)
    case_id = await desk.claim("anna")
    await desk.deciding.decide(case_id, "anna", RELEASE)
    assert await desk.claim("anna") is None
    assert await desk.claim("ben") == case_id
    await desk.deciding.decide(case_id, "ben", BLOCK)
    assert [word.action for word in desk.words()] == ["allow"]
    assert await pool.fetchval("SELECT content IS NULL FROM cases")
    rounds = await pool.fetch("SELECT round, reviewer, decision FROM decisions ORDER BY round")
    assert [tuple(row) for row in rounds] == [(1, "anna", "release"), (2, "ben", "block")]


async def test_a_case_ends_with_its_messages_window_and_its_content_goes(desk, pool):
    await desk.hold(LAUNDERING, not_after=START + timedelta(minutes=10))
    case_id = await desk.claim("anna")
    desk.moment += timedelta(minutes=11)
    with pytest.raises(AlreadyDecidedError, match="window"):
        await desk.deciding.decide(case_id, "anna", RELEASE)
    assert await end_cases(pool, desk.moment) == 1
    assert await pool.fetchval("SELECT state FROM cases WHERE content IS NULL") == "ended"
    assert await desk.claim("ben") is None


@pytest.fixture
async def client(desk, pool):
    verifier = TokenVerifier("moderation", {name: key.public_key() for name, key in KEYS.items()})
    app = FastAPI()
    install_problem_handlers(app)
    app.include_router(ReviewRoutes(pool, desk.vault, desk.deciding, verifier, 900.0, desk.now).router())
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://moderation/v1/review") as connected:
        yield connected


def as_(name):
    return TokenIssuer(name, KEYS[name]).headers("moderation")


async def test_over_http_content_is_opened_for_who_holds_the_case_and_blurred(desk, client):
    (message,) = await desk.hold(LAUNDERING)
    desk.vault.asked.clear()
    desk.vault.opened.clear()
    case = (await client.post("/next", headers=as_("reviewer.anna"))).json()["case"]
    assert (case["message_id"], case["rules"], case["exposure"]) == (message.message_id, ["crime.laundering-help"], 1)
    path = f"/cases/{case['case_id']}"
    refused = await client.post(f"{path}:open", json={"reveal": True}, headers=as_("reviewer.ben"))
    assert (refused.status_code, desk.vault.asked) == (409, [])
    blurred = (await client.post(f"{path}:open", json={}, headers=as_("reviewer.anna"))).json()
    assert "launder your" not in str(blurred)
    (call,) = desk.vault.opened
    assert (call.purpose, call.case_id) == ("review", case["case_id"])
    told = (await client.post(f"{path}:open", json={"reveal": True}, headers=as_("reviewer.anna"))).json()
    (text,) = [part for part in told["parts"] if part["name"] == "text[0]"]
    (mark,) = text["marks"]
    assert text["text"][mark["start"] : mark["end"]].lower() == "we launder your money"
    desk.vault.problems[message.message_id] = "erased"
    gone = await client.post(f"{path}:open", json={}, headers=as_("reviewer.anna"))
    assert (gone.status_code, gone.json()["type"]) == (410, "urn:waystation:problem:content-gone")


@pytest.mark.parametrize("name", ["operator", "ingestion"])
async def test_who_is_no_reviewer_claims_opens_and_decides_nothing(desk, client, name):
    (message,) = await desk.hold(LAUNDERING)
    case_id = case_id_of(message.message_id, "hold")
    calls = [("/next", None), (f"/cases/{case_id}:open", {}), (f"/cases/{case_id}:return", None)]
    calls.append((f"/cases/{case_id}:decide", {"decision": "release", "reason": "because"}))
    for path, body in calls:
        assert (await client.post(path, json=body, headers=as_(name))).status_code == 403
        assert (await client.post(path, json=body)).status_code == 401
    assert (await client.get("/stats", headers=as_(name))).status_code == (200 if name == "operator" else 403)


async def test_a_block_without_a_clause_and_an_unknown_case_are_refused(desk, client):
    await desk.hold(LAUNDERING)
    case_id = (await client.post("/next", headers=as_("reviewer.anna"))).json()["case"]["case_id"]
    said = {"decision": "block", "reason": "an offer"}
    assert (await client.post(f"/cases/{case_id}:decide", json=said, headers=as_("reviewer.anna"))).status_code == 422
    said["clause"] = "R3.a"
    other = "00000000-0000-0000-0000-000000000000"
    assert (await client.post(f"/cases/{other}:decide", json=said, headers=as_("reviewer.anna"))).status_code == 404
    assert (await client.post(f"/cases/{case_id}:return", headers=as_("reviewer.anna"))).json()["given_back"]
    lost = await client.post(f"/cases/{case_id}:decide", json=said, headers=as_("reviewer.anna"))
    assert lost.json()["type"] == "urn:waystation:problem:claim-lost"


async def test_the_figures_tell_what_waits_and_how_far_two_people_agree(pool, policy):
    desk = Desk(pool, policy, second_share=1.0)
    for first, second in [(RELEASE, RELEASE), (BLOCK, RELEASE)]:
        await desk.hold(LAUNDERING)
        for reviewer, word in (("anna", first), ("ben", second)):
            await desk.deciding.decide(await desk.claim(reviewer), reviewer, word)
        desk.moment += timedelta(minutes=1)
    await desk.hold(LAUNDERING, LAUNDERING)
    routes = ReviewRoutes(pool, desk.vault, desk.deciding, None, 900.0, desk.now)
    figures = await routes.stats(30)
    assert [(row.clause, row.waiting, row.overdue) for row in figures.waiting] == [("R3.a", 2, 0)]
    assert (figures.agreement.pairs, figures.agreement.agreed, figures.agreement.raw) == (2, 1, 0.5)
    assert [(one.first, one.second) for one in figures.disagreements] == [("block", "release")]


# On the road, with the commands that people type


def held_item(recipient, key):
    raw = b"From: orders@blumen-winter.example\r\nTo: %b\r\n%b" % (recipient.encode(), LAUNDERING.partition(b"\r\n")[2])
    return eml_item(raw, recipient, key)


@pytest.mark.timeout(180)
async def test_on_the_road_a_held_mail_leaves_once_a_person_released_it_whatever_dies(road):
    account = road.create_account(f"review-{time.time_ns()}")
    names = [f"review-{n}-{time.time_ns()}@recipients.example" for n in range(3)]
    sent = await road.send(account, [held_item(name, name) for name in names])
    ids = {one.recipient: one.message_id for one in sent}
    assert set(wait_until_settled(road.stack, ids.values()).values()) == {"held"}
    for name in ("anna", "ben"):
        run_command(road.stack, "review", "enroll", name, as_json=False)
    decided = {}
    while case := run_command(road.stack, "review", "next", "--as", "anna")["case"]:
        decided[case["message_id"]] = case["case_id"]
    assert set(ids.values()) <= set(decided)
    released, blocked, orphan = (decided[ids[name]] for name in names)
    seen = run_command(road.stack, "review", "show", released, "--as", "anna", as_json=False)
    assert "launder your" not in seen
    assert "crime.laundering-help" in seen
    assert "launder your" in run_command(
        road.stack, "review", "show", released, "--as", "anna", "--reveal", as_json=False
    )
    run_command(road.stack, "review", "show", released, "--as", "ben", status=1)
    run_command(road.stack, *f"review decide {blocked} --as anna --block --clause R3.a --reason offer".split())
    await decide_and_die(road, orphan)
    run_command(road.stack, *f"review decide {released} --as anna --release --reason quoted".split())
    road.stack.kill_service("moderation")
    road.stack.start_service("moderation")
    with ServiceClient(road.stack) as operator:
        wanted = dict(zip(names, ("handed_over", "refused", "handed_over"), strict=True))
        for name, state in wanted.items():
            wait_for(lambda n=name, s=state: delivery_state(operator, ids[n]) == s, f"{name} is {state}", 60)
    await asyncio.sleep(1.0)
    arrived = [mail.rcpt_to for mail in road.recorded()]
    assert [arrived.count(name) for name in names] == [1, 0, 1]
    await require_logged(road, released)
    assert run_command(road.stack, "review", "stats")["decided"]


async def decide_and_die(road, case_id):
    """Write a decision as a process does that dies right after the commit: nothing of it is published."""
    signer = Signer.from_file("verdict", road.stack.layout.secrets / "signing" / "verdict.pem")
    nobody = SimpleNamespace(committed=lambda stored: None)
    async with asyncpg.create_pool(road.stack.dsn("moderation"), min_size=1, max_size=2) as pool:
        deciding = Deciding(pool, signer, nobody, 0.0, lambda: datetime.now(UTC))
        await deciding.decide(case_id, "anna", RELEASE)


async def require_logged(road, case_id):
    """The vault wrote down each time a person opened the case, and which message it was."""
    connection = await asyncpg.connect(road.stack.dsn("vault", "postgres"))
    try:
        rows = await connection.fetch("SELECT * FROM access_log WHERE case_id = $1", case_id)
    finally:
        await connection.close()
    assert len(rows) == 2
    assert {(row["caller"], row["operation"], row["purpose"]) for row in rows} == {("moderation", "open", "review")}
