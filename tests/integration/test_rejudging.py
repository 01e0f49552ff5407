"""A later "bad" finds what was sent with it: by link, file or likeness, as signed revisions; a flood waits for a person."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from functools import partial
from hashlib import sha256
from types import SimpleNamespace
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI
from on_the_road import delivery_state, run_command, wait_for

from common.events import ListChanged, VerdictRevised, decode
from common.events.screening import ListChange, verified_revision
from common.http.problems import install_problem_handlers
from common.kafka.consumer import Received
from common.security.signing import Signer, TrustedKeys
from common.security.tokens import TokenIssuer, TokenVerifier
from common.testing.admitted import admitted_message, new_door_keys
from common.testing.fakes import FakePublisher, FakeVault
from common.times import rfc3339
from moderation.handlers import on_message_admitted
from moderation.policy.reading import read_policy
from moderation.rejudging import store as rejudging_store
from moderation.rejudging.api import ListRoutes
from moderation.rejudging.hashes import hashes_of, listed_address
from moderation.rejudging.lists import LISTS_EVERY_SECONDS, SEARCH_AGAIN_SECONDS, ListsInForce, Rejudging
from moderation.rejudging.store import SLOTS, Carried, forget_signals, insert_signals
from moderation.review import store as review_store
from moderation.review.deciding import AlreadyDecidedError, Deciding, Word
from moderation.review.store import claim_case
from moderation.screening import Screener
from waystation.operator import ServiceClient
from waystation.stack import checkout_folder

pytestmark = pytest.mark.integration

DOOR = new_door_keys()
VERDICT_KEY, OPERATOR_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
VERDICT_KEYS = TrustedKeys("verdict", [VERDICT_KEY.public_key()])
START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PAGE = "https://pay.shop-news.example/summer"
LETTER = (
    "Good day, the summer catalogue of our shop is there, with forty new lamps and a chapter about light in small rooms. "
    "You can look at it on our page, or ask for the printed one, which we send without charge. "
)
FLOOD = 5


@pytest.fixture(scope="module")
def policy():
    return read_policy(checkout_folder() / "deploy" / "policies" / "road.yaml", "re2")


@pytest.fixture
async def pool(database):
    async with asyncpg.create_pool(await database("moderation"), min_size=2, max_size=6) as connected:
        yield connected


def mail(text, link=None, file=None):
    message = EmailMessage()
    message["Subject"] = "news"
    message.set_content(f"{text}\n{link or ''}\n")
    if file is not None:
        message.add_attachment(file, maintype="application", subtype="pdf", filename="catalogue.pdf")
    return message.as_bytes()


class Desk:
    """Moderation over a database of its own."""

    def __init__(self, pool, policy):
        self.pool, self.moment, self.vault, self.relayed = pool, START, FakeVault(), []
        self.screener = Screener(policy, keeps_hashes=True)
        self.signer = Signer("verdict", VERDICT_KEY)
        self.rejudging = self.restarted()

    def restarted(self):
        relay = SimpleNamespace(committed=self.relayed.extend)
        return Rejudging(self.pool, VERDICT_KEYS, self.signer, relay, FLOOD, lambda: self.moment)

    async def search_again(self, seconds=SEARCH_AGAIN_SECONDS):
        self.moment += timedelta(seconds=seconds)
        await self.restarted().search_again()

    async def judge(self, *contents, **fields):
        fields = {"not_before": START, "not_after": START + timedelta(days=1), **fields}
        messages = [admitted_message(DOOR, content, **fields) for content in contents]
        self.vault.knows(messages)
        await on_message_admitted(
            [message.received(number) for number, message in enumerate(messages)],
            pool=self.pool,
            vault=self.vault,
            publisher=FakePublisher(),
            signer=self.signer,
            instruction_keys=DOOR.trusted,
            screener=self.screener,
            clock=lambda: self.moment,
        )
        return [message.message_id for message in messages]

    async def change(self, kind, *entries, signer=None, **fields):
        told = ListChange(
            **{
                "change_id": str(uuid4()),
                "list": "abuse",
                "kind": kind,
                "clause": "R5.2",
                "add": entries,
                "remove": (),
                "approved": False,
                "screened_at": rfc3339(self.moment),
                **fields,
            }
        )
        (signed,) = (signer or self.signer).sign([told.statement()])
        received = Received(ListChanged(change=signed), SimpleNamespace())
        await self.rejudging.on_list_changed([received])
        return received

    def words(self):
        records = [
            one.record for one in self.relayed if dict(one.record.headers)["ce_type"] == VerdictRevised.TYPE.encode()
        ]
        return [
            verified_revision(decode(VerdictRevised, one.value, one.headers).revision, VERDICT_KEYS) for one in records
        ]


@pytest.fixture
def desk(pool, policy):
    return Desk(pool, policy)


def entry(address):
    return listed_address(address).hex()


async def test_a_link_that_is_listed_later_names_each_message_and_account_that_sent_it(desk, pool):
    (one,) = await desk.judge(mail(LETTER, PAGE))
    (two,) = await desk.judge(mail("short", PAGE), account_id="other")
    await desk.judge(mail(LETTER, "https://elsewhere.example/summer"))
    received = await desk.change("address", entry("shop-news.example"))
    words = {word.message_id: word for word in desk.words()}
    assert words.keys() == {one, two}
    assert {word.account_id for word in words.values()} == {"acme", "other"}
    told = words[one]
    assert (told.action, told.clauses, told.cause, told.exposure, told.revision) == ("block", ("R5.2",), "list", 2, 1)
    assert told.signal == f"address:{entry('shop-news.example')}"
    await desk.rejudging.on_list_changed([received])
    assert len(desk.words()) == 2, "a change that comes again was taken"
    await desk.change("address", entry(PAGE))
    assert len(desk.words()) == 2, "what is blocked is not blocked again"
    assert await pool.fetchval("SELECT count(*) FROM list_entries") == 2


async def test_files_and_likeness_find_messages_too(desk):
    (file,) = await desk.judge(mail("see the file", file=b"%PDF catalogue"))
    await desk.judge(mail("see the file", file=b"%PDF another"))
    await desk.change("file", sha256(b"%PDF catalogue").hexdigest()[:16])
    assert [word.message_id for word in desk.words()] == [file]
    alike = await desk.judge(mail(LETTER), mail(LETTER.replace("Good day", "Dear Anna")), mail("Quite another. " * 12))
    sketches = await desk.pool.fetchval("SELECT hashes[1:4] FROM signals WHERE message_id = $1", UUID(alike[0]))
    await desk.change("text", "".join(f"{number & (2**64 - 1):016x}" for number in sketches))
    assert {word.message_id for word in desk.words()[1:]} == set(alike[:2])


async def test_what_was_blocked_at_once_is_not_kept_and_what_waits_for_a_person_is_closed(desk, pool):
    await desk.judge(b"Subject: x\r\n\r\nOrder fake passports today. " + PAGE.encode() + b"\r\n")
    (held,) = await desk.judge(b"Subject: x\r\n\r\nWe launder your money safely. " + PAGE.encode() + b"\r\n")
    await desk.change("address", entry(PAGE))
    assert [word.message_id for word in desk.words()] == [held]
    assert await pool.fetchval("SELECT state FROM cases WHERE content IS NULL") == "decided"


async def test_what_was_judged_by_the_lists_of_before_is_found_by_a_second_search(desk):
    (before,) = await desk.judge(mail(LETTER, PAGE))
    await desk.change("address", entry(PAGE))
    (meanwhile_judged,) = await desk.judge(mail("short", PAGE))
    await desk.search_again(LISTS_EVERY_SECONDS)
    assert [word.message_id for word in desk.words()] == [before], "a batch may still be in hand"
    await desk.search_again()
    assert [word.message_id for word in desk.words()] == [before, meanwhile_judged]
    await desk.judge(mail("x", PAGE))
    await desk.search_again()
    assert len(desk.words()) == 2, "it is searched for once more, and not for ever"


async def test_a_second_search_passes_over_what_was_taken_off_and_asks_a_person_about_a_flood(desk, pool):
    await desk.change("address", entry(PAGE), entry("rare.example"))
    await desk.judge(mail("x", "https://rare.example/"), *[mail(f"{n}", PAGE) for n in range(FLOOD + 1)])
    await desk.change("address", add=(), remove=(entry("rare.example"),))
    await desk.search_again()
    assert desk.words() == []
    (row,) = await pool.fetch("SELECT * FROM quarantine")
    assert (row["state"], row["messages"], row["entry"]) == ("waiting", FLOOD + 1, entry(PAGE))
    await desk.change("address", entry(PAGE), approved=True)
    assert len(desk.words()) == FLOOD + 1
    await desk.judge(mail("y", PAGE))
    await desk.search_again()
    assert len(desk.words()) == FLOOD + 2, "what a person approved is approved for the second search too"


async def test_what_two_lists_name_is_bad_until_both_have_taken_it_off(desk, pool):
    lists = ListsInForce(pool, desk.screener)
    for name in ("abuse", "feed"):
        await desk.change("address", entry(PAGE), list=name)
    for name, left in (("feed", 1), ("abuse", 0)):
        await desk.change("address", list=name, add=(), remove=(entry(PAGE),))
        await lists.step()
        assert len(desk.screener.policy.lists.addresses) == left


async def test_the_version_before_and_this_one_see_each_others_lists(desk, pool):
    async def older_adds(name):
        await pool.execute(
            "INSERT INTO listed (kind, entry, list, clause, listed_at) VALUES ('address', $1, $2, 'R5.2', $3)"
            " ON CONFLICT (kind, entry) DO UPDATE SET list = excluded.list, clause = excluded.clause,"
            " listed_at = excluded.listed_at",
            entry(PAGE),
            name,
            desk.moment,
        )

    async def both_see():
        old = await pool.fetch("SELECT kind, entry FROM listed")
        return len(old), len(await rejudging_store.read_listed(pool))

    await older_adds("feed")
    await desk.change("address", entry(PAGE), list="abuse")
    assert await both_see() == (1, 1)
    await pool.execute("DELETE FROM listed WHERE kind = 'address' AND entry = $1 AND list = 'feed'", entry(PAGE))
    assert await both_see() == (1, 1)
    await older_adds("feed")
    await desk.change("address", list="abuse", add=(), remove=(entry(PAGE),))
    assert await both_see() == (1, 1)
    await desk.change("address", list="feed", add=(), remove=(entry(PAGE),))
    assert await both_see() == (0, 0)


HELD = b"Subject: x\r\n\r\nWe launder your money safely. " + PAGE.encode() + b"\r\n"
RELEASE = Word("release", None, "a quotation")
MEANWHILE_SECONDS = 0.5


def meanwhile(monkeypatch, module, name, other):
    """Let another task begin once, and have some time, behind the first call of a function of a module."""
    real, begun = getattr(module, name), []

    async def called(*arguments):
        answer = await real(*arguments)
        if not begun:
            begun.append(asyncio.ensure_future(other()))
            await asyncio.wait(begun, timeout=MEANWHILE_SECONDS)
        return answer

    monkeypatch.setattr(module, name, called)
    return begun


async def claimed(desk, pool):
    (message_id,) = await desk.judge(HELD)
    relay = SimpleNamespace(committed=desk.relayed.extend)
    case_id = await claim_case(pool, "anna", desk.moment, desk.moment + timedelta(minutes=15))
    return message_id, partial(Deciding(pool, desk.signer, relay, 0.0, lambda: desk.moment).decide, case_id, "anna")


async def told_and_kept(desk, pool):
    """Return numbers and actions of revisions, as they were published and as they stand in the database."""
    rows = await pool.fetch("SELECT revision, action FROM revisions ORDER BY revision")
    return [(word.revision, word.action) for word in desk.words()], [tuple(row) for row in rows]


async def test_a_person_who_releases_while_a_list_blocks_comes_too_late(desk, pool, monkeypatch):
    _, decide = await claimed(desk, pool)
    begun = meanwhile(monkeypatch, rejudging_store, "last_revisions", lambda: decide(RELEASE))
    await desk.change("address", entry(PAGE))
    with pytest.raises(AlreadyDecidedError):
        await begun[0]
    assert await told_and_kept(desk, pool) == ([(1, "block")], [(1, "block")])


async def test_a_list_that_blocks_while_a_person_releases_has_the_last_word(desk, pool, monkeypatch):
    _, decide = await claimed(desk, pool)
    begun = meanwhile(monkeypatch, review_store, "last_revision", lambda: desk.change("address", entry(PAGE)))
    await decide(RELEASE)
    await begun[0]
    assert await told_and_kept(desk, pool) == ([(1, "allow"), (2, "block")], [(1, "allow"), (2, "block")])


@pytest.mark.parametrize("by_list", [True, False])
async def test_a_number_that_is_lost_to_a_copy_without_locks_is_not_published(desk, pool, monkeypatch, by_list):
    message_id, decide = await claimed(desk, pool)

    async def older_copy():
        await pool.execute(
            "INSERT INTO revisions (message_id, revision, account_id, action, cause, statement, proof, revised_at)"
            " VALUES ($1, 1, 'acme', 'allow', 'person', '{}', '{}', $2)",
            UUID(message_id),
            desk.moment,
        )

    where = (rejudging_store, "last_revisions") if by_list else (review_store, "last_revision")
    meanwhile(monkeypatch, *where, older_copy)
    await (desk.change("address", entry(PAGE)) if by_list else decide(Word("block", "R3.a", "an offer")))
    assert await told_and_kept(desk, pool) == ([(2, "block")], [(1, "allow"), (2, "block")])


async def test_a_signal_that_hits_too_much_is_neither_listed_nor_applied_until_a_person_says_so(desk, pool):
    for account in ("one", "two"):
        await desk.judge(*[mail(f"{n}", PAGE) for n in range(4)], account_id=account)
    await desk.judge(mail("x", "https://rare.example/"))
    await desk.change("address", entry(PAGE), entry("rare.example"))
    assert len(desk.words()) == 1, "an entry beside a flood is applied"
    (row,) = await pool.fetch("SELECT * FROM quarantine")
    assert (row["state"], row["messages"], row["entry"]) == ("waiting", FLOOD + 1, entry(PAGE))
    assert await pool.fetchval("SELECT count(*) FROM list_entries") == 1
    await desk.change("address", entry(PAGE), approved=True)
    assert len(desk.words()) == 9


@pytest.fixture
async def client(desk):
    verifier = TokenVerifier("moderation", {"operator": OPERATOR_KEY.public_key()})
    app = FastAPI()
    install_problem_handlers(app)
    app.include_router(ListRoutes(desk.rejudging, verifier).router())
    headers = TokenIssuer("operator", OPERATOR_KEY).headers("moderation")
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://m", headers=headers) as connected:
        yield connected


async def test_over_http_a_person_lists_and_settles(desk, client, pool):
    await desk.judge(*[mail(f"{n}", PAGE) for n in range(8)])
    assert (
        await client.post("/v1/lists", json={"list": "abuse", "clause": "R5.2", "addresses": [PAGE]})
    ).status_code == 200
    (stored,) = desk.relayed
    assert PAGE.encode() not in stored.record.value
    event = decode(ListChanged, stored.record.value, stored.record.headers)
    await desk.rejudging.on_list_changed([Received(event, SimpleNamespace())])
    (item,) = (await client.get("/v1/lists/quarantine")).json()["items"]
    path = f"/v1/lists/quarantine/{item['quarantine_id']}:settle"
    assert (await client.post(path, json={"decision": "apply"})).json()["decision"] == "apply"
    assert (await client.post(path, json={"decision": "drop"})).status_code == 404
    event = decode(ListChanged, desk.relayed[-1].record.value, desk.relayed[-1].record.headers)
    await desk.rejudging.on_list_changed([Received(event, SimpleNamespace())])
    assert len(desk.words()) == 8
    assert await pool.fetchval("SELECT decided_by FROM quarantine") == "operator"


@pytest.mark.parametrize(
    "body",
    [
        {"addresses": ["anna@gmail.example"]},
        {"addresses": ["nonsense !!"]},
        {"like": [str(uuid4())]},
        {},
        {"files": ["xyz"]},
        {"addresses": ["x"], "files": []},
    ],
)
async def test_what_names_nothing_is_refused(client, body):
    answer = await client.post("/v1/lists", json={"list": "abuse", "clause": "R5.2", **body})
    assert answer.status_code == (200 if body.get("addresses") == ["x"] else 422)


async def test_a_change_that_moderation_did_not_sign_changes_nothing(desk, pool):
    await desk.judge(mail("x", PAGE))
    await desk.change("address", entry(PAGE), signer=Signer("verdict", Ed25519PrivateKey.generate()))
    assert (desk.words(), await pool.fetchval("SELECT count(*) FROM list_entries")) == ([], 0)


async def test_what_is_listed_is_known_to_screening_and_what_is_taken_off_no_longer(desk, pool):
    lists = ListsInForce(pool, desk.screener)
    await lists.step()
    assert not desk.screener.policy.lists.addresses
    await desk.change("address", entry(PAGE))
    await lists.step()
    known = desk.screener.policy
    assert known.lists.has_address(PAGE, "pay.shop-news.example")
    await lists.step()
    assert desk.screener.policy is known
    await desk.judge(mail("x", PAGE))
    assert await pool.fetchval("SELECT statement->'features'->>'links.listed' FROM verdicts") == "10000"
    await desk.change("address", add=(), remove=(entry(PAGE),))
    await lists.step()
    assert not desk.screener.policy.lists.addresses


async def test_signals_go_with_the_days_of_the_ring(desk, pool):
    await desk.judge(mail("x", PAGE))
    desk.moment += timedelta(days=3)
    await desk.judge(mail("y", PAGE))
    assert await forget_signals(pool, desk.moment, 3) == []
    assert await forget_signals(pool, desk.moment, 2) == [START.toordinal() % SLOTS]
    assert await pool.fetchval("SELECT count(*) FROM signals") == 1
    assert await forget_signals(pool, desk.moment + timedelta(days=SLOTS - 1), 7) == [desk.moment.toordinal() % SLOTS]


async def test_keeping_signals_costs_microseconds_a_message(desk, pool):
    """The figure is in the README; here only that nobody makes it a round trip per message."""
    from moderation.mail import read_mail  # noqa: PLC0415

    letters = [read_mail(mail(f"{LETTER} {n}" * 4, f"https://shop{n % 50}.example/{n}")) for n in range(1000)]
    texts = [one.texts[0].text.lower().encode() for one in letters]
    began = time.perf_counter()
    carried = [Carried(str(uuid4()), "t" * 25, *hashes_of(one, text)) for one, text in zip(letters, texts, strict=True)]
    hashed = time.perf_counter()
    async with pool.acquire() as connection:
        for start in range(0, 1000, 100):
            await insert_signals(connection, carried[start : start + 100], START)
    stored = time.perf_counter()
    print(f"hashing {(hashed - began) * 1e3:.1f} us, storing {(stored - hashed) * 1e3:.1f} us a message")
    assert stored - began < 0.5


@pytest.mark.timeout(180)
async def test_on_the_road_a_held_mail_with_a_link_that_is_listed_later_is_refused(road):
    account = road.create_account(f"lists-{time.time_ns()}")
    name = f"lists-{time.time_ns()}@recipients.example"
    host = f"h{time.time_ns()}.example"
    raw = f"From: orders@blumen-winter.example\r\nTo: {name}\r\nSubject: x\r\n\r\nWe launder your money: https://{host}/x\r\n"
    from waystation.rehearsal import eml_item  # noqa: PLC0415

    (sent,) = await road.send(account, [eml_item(raw.encode(), name, name)])
    with ServiceClient(road.stack) as operator:
        wait_for(lambda: delivery_state(operator, sent.message_id) == "held", "it is held")
        run_command(road.stack, "lists", "add", "--list", "abuse", "--clause", "R5.2", "--address", host)
        wait_for(lambda: delivery_state(operator, sent.message_id) == "refused", "it is refused", 30)
        reason = operator.get("routing", f"/v1/deliveries/{sent.message_id}")["reason"]
    assert reason == "screening: blocked by a list (R5.2)"
    assert run_command(road.stack, "lists", "quarantine") == []
