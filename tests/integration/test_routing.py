"""The hand-over protocol on a real database: each test names the rule of docs/architecture.md that it guards."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from types import SimpleNamespace
from uuid import uuid4

import asyncpg
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.contracts.vault import DiscloseAnswer
from common.events.enforcement import StandingChanged
from common.events.intake import Instruction, MessageAdmitted, SealedContent
from common.events.screening import SentVerdict, Verdict, VerdictReached, VerdictRevised, VerdictRevision
from common.http.problems import TYPE_PREFIX
from common.ids import new_id, new_recipient_token
from common.kafka.consumer import Received
from common.security.sealing import new_message_key, seal
from common.security.signing import Signer, TrustedKeys
from routing import store
from routing.claims import Claims
from routing.disclosure import FRESH_SECONDS
from routing.dispatcher import Dispatcher
from routing.domain import AttemptResult, Outcome, Reply, again
from routing.handlers import Authority, Planner, on_screened
from routing.journal import Journal, LeftOver
from routing.leases import Leases
from routing.recovery import settle_left_over
from routing.revisions import Revisions
from routing.settlement import Called, SealedReply, Settlement, write_outcomes
from routing.sweeps import Sweeps

pytestmark = pytest.mark.integration

INSTRUCTION_KEY, VERDICT_KEY, RECEIPT_KEY = (Ed25519PrivateKey.generate() for _ in range(3))
ACCEPTED = Outcome(AttemptResult.ACCEPTED, "final reply 250", Reply(250, "2.0.0", "queued for anna@example.org"))
offsets = itertools.count()


@dataclass
class FakeVault:
    """Discloses what it was told to know; refuses by message id; keeps what was asked."""

    keys: dict[str, bytes] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    asked: list = field(default_factory=list)
    asked_at: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    gate: asyncio.Event | None = None

    async def disclose(self, call):
        self.asked += call.items
        for item in call.items:
            self.asked_at[item.message_id].append(time.monotonic())
        if self.gate is not None:
            await self.gate.wait()
        return [self.answer(item) for item in call.items]

    def answer(self, item):
        if kind := self.refusals.get(item.message_id):
            return DiscloseAnswer(problem={"type": TYPE_PREFIX + kind})
        return DiscloseAnswer(fields={"address": "anna@example.org"}, message_key=self.keys[item.message_id])


@dataclass
class FakeProvider:
    """Answers from a script by message id, else accepts; keeps every call."""

    script: dict[str, list] = field(default_factory=dict)
    calls: list = field(default_factory=list)
    name: str = "smtp.default"
    fields: tuple = ("address",)
    calls_at_once: int = 64
    seconds: float = 0.0

    async def hand_over(self, instruction, verdict, mail, *, deadline, beyond):
        await asyncio.sleep(self.seconds)
        if time.monotonic() >= deadline():
            return Outcome(AttemptResult.UNREACHED, "lease deadline passed")
        message_id = instruction.instruction.message_id
        assert verdict.verdict.action == "allow"
        self.calls.append((message_id, mail.content))
        answer = self.script.get(message_id, [ACCEPTED])
        step = answer.pop(0) if len(answer) > 1 else answer[0]
        beyond()
        if isinstance(step, asyncio.Event):
            await step.wait()
            return ACCEPTED
        if isinstance(step, Exception):
            raise step
        return step

    async def close(self):
        pass


class FakeRelay:
    def __init__(self):
        self.records = []

    def committed(self, stored):
        self.records += [one.record for one in stored]

    def receipts(self, message_id):
        found = [orjson.loads(record.value)["receipt"] for record in self.records]
        return [one["statement"] for one in found if one["statement"]["message_id"] == message_id]


@dataclass
class LosesAnAnswer:
    """A pool whose first begin takes effect and whose answer is lost; no connection until the outage is over."""

    pool: object
    lost: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def fetch(self, query, *arguments):
        rows = await self.pool.fetch(query, *arguments)
        if query == store.QUERIES["begin_attempts"] and not self.lost:
            self.lost = True
            raise asyncpg.ConnectionDoesNotExistError
        return rows

    async def fetchrow(self, query, *arguments):
        return await self.pool.fetchrow(query, *arguments)

    async def execute(self, query, *arguments):
        return await self.pool.execute(query, *arguments)

    def acquire(self):
        if self.lost and not self.over.is_set():
            raise asyncpg.CannotConnectNowError
        return self.pool.acquire()


@dataclass
class Fails:
    """A pool that meets `error` once when `during` is asked for: a query by name, or a connection."""

    pool: object
    during: str
    error: type[Exception] = asyncpg.CannotConnectNowError
    armed: bool = False

    def __getattr__(self, name):
        return getattr(self.pool, name)

    async def fetch(self, query, *arguments):
        self.fail(query == store.QUERIES.get(self.during))
        return await self.pool.fetch(query, *arguments)

    def acquire(self):
        self.fail(self.during == "acquire")
        return self.pool.acquire()

    def fail(self, asked):
        if asked and self.armed:
            self.armed = False
            raise self.error


async def eventually(condition, seconds=5.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@dataclass
class World:
    """One worker of routing over a database that others may share."""

    pool: object
    vault: FakeVault = field(default_factory=FakeVault)
    provider: FakeProvider = field(default_factory=FakeProvider)
    relay: FakeRelay = field(default_factory=FakeRelay)
    fresh: bool = True
    lease_seconds: float = 12.0
    attempts_open_max: int = 64

    def __post_init__(self):
        now = lambda: datetime.now(UTC)  # noqa: E731
        signer = Signer("receipt", RECEIPT_KEY)
        authority = Authority(
            TrustedKeys("instruction", [INSTRUCTION_KEY.public_key()]),
            TrustedKeys("verdict", [VERDICT_KEY.public_key()]),
        )
        self.settlement = Settlement(self.pool, signer, self.relay, self.provider.name, 0.05, 0.0, now)
        self.dispatcher = Dispatcher(
            pool=self.pool,
            vault=self.vault,
            provider=self.provider,
            signer=signer,
            relay=self.relay,
            settlement=self.settlement,
            journal=Journal(self.attempts_open_max),
            leases=Leases(self.lease_seconds, 0.2),
            standings_are_fresh=lambda: self.fresh,
            in_memory_max=500,
            attempts_open_max=self.attempts_open_max,
            cycle_seconds=0.0,
            now=now,
        )
        self.claims = Claims(self.pool, authority, signer, self.relay, self.dispatcher, self.lease_seconds, now)
        self.sweeps = Sweeps(self.pool, signer, self.relay, now)
        self.revisions = Revisions(self.pool, authority.verdicts, signer, self.relay, now)
        self.planner = Planner(self.pool, authority, signer, self.relay, self.dispatcher, self.lease_seconds, now)

    async def plan(self, *events):
        await on_screened([received(event) for event in events], self.planner, self.revisions)

    def message(self, **fields):
        event, key = verdict_event(**fields)
        self.vault.keys[event.message.event_id] = key
        return event

    async def row(self, event):
        return await self.pool.fetchrow("SELECT * FROM deliveries WHERE message_id = $1", event.message.event_id)

    async def attempts(self, event):
        return await self.pool.fetch(
            "SELECT * FROM attempts WHERE message_id = $1 ORDER BY number", event.message.event_id
        )

    async def until(self, event, state, seconds=5.0):
        async with asyncio.timeout(seconds):
            while (row := await self.row(event)) is None or row["state"] != state:
                await asyncio.sleep(0.01)
        return row

    async def told(self, event, receipts, seconds=5.0):
        """Return what the relay was given of a message once that is so much: its rows are visible a moment before."""
        async with asyncio.timeout(seconds):
            while len(found := self.relay.receipts(event.message.event_id)) < receipts:
                await asyncio.sleep(0.01)
        return found


def received(event):
    value = event.__pydantic_serializer__.to_json(event)
    record = SimpleNamespace(
        topic="screening.verdicts", partition=0, offset=next(offsets), value=value, headers=(), key=event.key.encode()
    )
    return Received(SentVerdict.from_json(value) if isinstance(event, VerdictReached) else event, record)


def verdict_event(action="allow", account="acme", key=None, content=b"Subject: hi\r\n\r\nhello\r\n", **fields):
    key, message_id, moment = new_message_key(), new_id(), datetime.now(UTC)
    sealed = SealedContent(
        capsule=b"capsule",
        envelope=seal(key, message_id, "envelope", b'{"mail_from": "shop@example.com", "smtputf8": false}'),
        content=seal(key, message_id, "content", content),
    )
    instruction = Instruction(
        **{
            "message_id": message_id,
            "account_id": account,
            "user_id": "u",
            "grants": ("g",),
            "rules_version": "1",
            "tool": "email",
            "direction": "outbound",
            "inbox_id": "i",
            "recipient_token": new_recipient_token(),
            "purpose": "invoice",
            "legal_basis": "contract",
            "content_digest": sha256(content).hexdigest(),
            "content_bytes": len(content),
            "sealed_digest": sealed.digest(),
            "not_before": moment,
            "not_after": moment + timedelta(hours=1),
            "duplicates_allowed": False,
            "admitted_at": moment,
            **fields,
        }
    )
    signed = Signer("instruction", INSTRUCTION_KEY).sign([instruction.statement()])[0]
    message = MessageAdmitted(instruction=signed, sealed=sealed)
    return VerdictReached(verdict=verdict_on(message, action), message=message), key


def verdict_on(message, action, key=VERDICT_KEY):
    statement = message.instruction.statement
    verdict = Verdict(
        message_id=statement["message_id"],
        instruction_digest=TrustedKeys("instruction", [INSTRUCTION_KEY.public_key()]).verify(message.instruction),
        content_digest=statement["content_digest"],
        action=action,
        clauses=(),
        rules=() if action == "allow" else ("gambling.ads",),
        evidence=(),
        degraded=(),
        policy="road@sha256:0",
        engine="1",
        screened_at="2026-01-01T00:00:00.000Z",
    )
    return Signer("verdict", key).sign([verdict.statement()])[0]


def standing(account, value, revision):
    return StandingChanged(
        account_id=account,
        standing=value,
        revision=revision,
        clause="R3.e",
        reason="test",
        complaint_id=None,
        decided_by="person",
        since="2026-01-01T00:00:00.000Z",
    )


@pytest.fixture
async def pool(database):
    """A database of routing's own for one test."""
    async with asyncpg.create_pool(await database("routing"), min_size=1, max_size=6) as opened:
        yield opened


@asynccontextmanager
async def running(world):
    world.dispatcher.start()
    try:
        yield world
    finally:
        await world.dispatcher.stop()


async def test_a_message_is_handed_over_byte_for_byte_and_its_receipt_holds_no_reply_text(pool):
    async with running(World(pool)) as world:
        event = world.message(content=b"Subject: x\r\n\r\n.dot\r\n")
        await world.plan(event)
        row = await world.until(event, "handed_over")
        assert world.provider.calls == [(event.message.event_id, b"Subject: x\r\n\r\n.dot\r\n")]
        (receipt,) = await world.told(event, 1)
        assert (receipt["state"], receipt["sequence"], receipt["reply_code"]) == ("handed_over", 1, 250)
        assert b"anna" not in b"".join(record.value for record in world.relay.records)
        (attempt,) = await world.attempts(event)
        assert attempt["result"] == "accepted"
        assert b"anna" not in attempt["reply_sealed"]
        assert row["lease_until"] is None


async def test_rule_new_only_a_verdict_that_comes_again_is_not_handed_over_again(pool):
    async with running(World(pool)) as world:
        event = world.message()
        await asyncio.gather(world.plan(event, event), world.plan(event))
        await world.until(event, "handed_over")
        await world.plan(event)
        await asyncio.sleep(0.1)
        assert len(world.provider.calls) == 1


async def test_holds_and_blocks_are_deliveries_too(pool):
    world = World(pool)
    held, blocked = world.message(action="hold"), world.message(action="block")
    await world.plan(held, blocked)
    assert (await world.row(held))["state"] == "held"
    assert (await world.row(blocked))["state"] == "refused"
    assert [one["state"] for one in world.relay.receipts(blocked.message.event_id)] == ["refused"]


async def test_rule_epoch_a_worker_that_lost_its_lease_begins_nothing(pool):
    slow, other = World(pool, lease_seconds=0.5), World(pool)
    slow.vault.gate = asyncio.Event()
    slow.dispatcher.leases.margin_seconds = -60  # its clock never stops it: only the epoch can
    event = slow.message()
    other.vault.keys.update(slow.vault.keys)
    slow.dispatcher.start(renew=False)
    await slow.plan(event)
    await asyncio.sleep(0.7)
    async with running(other):
        await other.claims.step()
        await other.until(event, "handed_over")
    slow.vault.gate.set()
    await asyncio.sleep(0.2)
    assert slow.provider.calls == []
    assert len(other.provider.calls) == 1
    assert len(await other.attempts(event)) == 1
    await slow.dispatcher.stop()


async def test_rule_deadline_nothing_is_begun_after_the_lease_by_the_own_clock(pool):
    world = World(pool, lease_seconds=0.3)
    world.vault.gate = asyncio.Event()
    event = world.message()
    world.dispatcher.start(renew=False)
    await world.plan(event)
    await asyncio.sleep(0.2)
    world.vault.gate.set()
    await asyncio.sleep(0.2)
    assert world.provider.calls == []
    assert await world.attempts(event) == []
    await world.dispatcher.stop()


async def test_a_call_that_outlasts_its_lease_goes_on_under_the_renewed_one(pool):
    world = World(pool, lease_seconds=1.0)
    world.provider.seconds = 2.5
    event = world.message()
    async with running(world):
        await world.plan(event)
        row = await world.until(event, "handed_over")
    assert (row["epoch"], row["attempts"]) == (1, 1)


async def test_rule_deadline_a_call_whose_lease_is_not_renewed_writes_nothing_after_it(pool):
    world = World(pool, lease_seconds=1.0)
    world.provider.seconds = 1.2
    event = world.message()
    world.dispatcher.start(renew=False)
    await world.plan(event)
    await world.until(event, "planned")
    assert world.provider.calls == []
    await world.dispatcher.stop()


async def test_rule_open_is_doubt_a_lost_workers_open_attempt_is_in_doubt_and_never_repeated(pool):
    lost, other = World(pool, lease_seconds=1.0), World(pool)
    event = lost.message()
    lost.provider.script[event.message.event_id] = [asyncio.Event()]
    lost.dispatcher.start(renew=False)
    await lost.plan(event)
    await asyncio.sleep(1.2)
    assert len(lost.provider.calls) == 1
    async with running(other):
        await other.claims.step()
        row = await other.until(event, "in_doubt")
        await other.claims.step()
        await other.sweeps.step()
        await asyncio.sleep(0.1)
        assert other.provider.calls == []
        assert row["reason"] == "the worker was lost during the call"
        assert [one["state"] for one in other.relay.receipts(event.message.event_id)] == ["in_doubt"]
    lost.provider.script[event.message.event_id][0].set()
    await lost.dispatcher.stop()


async def test_a_begin_whose_answer_was_lost_was_no_call_even_if_a_claim_put_it_in_doubt(pool):
    lost, other = World(LosesAnAnswer(pool), lease_seconds=1.0), World(pool)
    event = lost.message()
    lost.dispatcher.start(renew=False)
    await lost.plan(event)
    await asyncio.sleep(1.2)
    await other.claims.step()
    await other.until(event, "in_doubt")
    lost.pool.over.set()
    await lost.until(event, "planned")
    assert [attempt["result"] for attempt in await lost.attempts(event)] == ["unreached"]
    assert lost.provider.calls == []
    await lost.dispatcher.stop()


async def test_rule_only_open_is_doubt_a_lease_that_ended_before_the_attempt_is_claimed_again(pool):
    lost, other = World(pool, lease_seconds=0.2), World(pool)
    event = lost.message()
    other.vault.keys.update(lost.vault.keys)
    await lost.plan(event)
    await asyncio.sleep(0.3)
    async with running(other):
        await other.claims.step()
        row = await other.until(event, "handed_over")
    assert row["epoch"] == 2
    assert [item.epoch for item in other.vault.asked] == [2]


async def test_rule_outcome_by_attempt_an_answer_after_the_lease_ended_is_kept(pool):
    slow, other = World(pool, lease_seconds=1.0), World(pool)
    event, answered = slow.message(), asyncio.Event()
    slow.provider.script[event.message.event_id] = [answered]
    slow.dispatcher.start(renew=False)
    await slow.plan(event)
    await asyncio.sleep(1.2)
    await other.claims.step()
    await other.until(event, "in_doubt")
    answered.set()
    await slow.until(event, "handed_over")
    await slow.dispatcher.stop()
    states = [one["state"] for one in other.relay.receipts(event.message.event_id)]
    states += [one["state"] for one in slow.relay.receipts(event.message.event_id)]
    assert states == ["in_doubt", "handed_over"]


@pytest.mark.parametrize("claimed", [False, True], ids=["before its leases end", "after a claim made doubts of it"])
async def test_what_a_killed_worker_left_open_is_what_its_journal_says(pool, claimed):
    killed, heir = World(pool, lease_seconds=1.0), World(pool)
    ahead, beyond, known = events = [killed.message() for _ in range(3)]
    hanging = asyncio.Event()
    killed.provider.script = {event.message.event_id: [hanging] for event in events}
    killed.dispatcher.start(renew=False)
    await killed.plan(*events)
    await eventually(lambda: len(killed.provider.calls) >= 3)
    if claimed:
        await asyncio.sleep(1.2)
        await heir.claims.step()
        assert (await heir.row(ahead))["state"] == "in_doubt"
    left_over = [
        LeftOver(ahead.message.event_id, 1, beyond=False),
        LeftOver(beyond.message.event_id, 1, beyond=True),
        LeftOver(known.message.event_id, 1, beyond=True, known=(1, ACCEPTED, SealedReply(b"sealed", "d" * 64))),
    ]
    await settle_left_over(heir.settlement, left_over)
    states = [(await heir.row(event))["state"] for event in events]
    assert states == ["planned", "in_doubt", "handed_over"]
    assert [(await heir.attempts(event))[0]["result"] for event in events] == ["unreached", "doubt", "accepted"]
    assert (await heir.attempts(known))[0]["reply_sealed"] == b"sealed"
    assert heir.relay.receipts(known.message.event_id)[-1]["reply_digest"] == "d" * 64
    before = [tuple(await heir.row(event)) for event in events]
    await settle_left_over(heir.settlement, left_over)
    assert [tuple(await heir.row(event)) for event in events] == before
    heir.vault.keys.update(killed.vault.keys)
    async with running(heir):
        await heir.claims.step()
        await heir.until(ahead, "handed_over")
    assert [message_id for message_id, _ in heir.provider.calls] == [ahead.message.event_id]
    hanging.set()
    await killed.dispatcher.stop()


async def test_a_lease_of_a_killed_worker_that_began_nothing_is_free_at_once(pool):
    killed, heir = World(pool), World(pool)
    event = killed.message()
    heir.vault.keys.update(killed.vault.keys)
    await killed.plan(event)
    await settle_left_over(heir.settlement, [LeftOver(event.message.event_id, 1, beyond=False)])
    async with running(heir):
        await heir.claims.step()
        assert (await heir.until(event, "handed_over"))["epoch"] == 2


async def test_a_journal_does_not_undo_what_a_person_decided_on_a_doubt(pool):
    async with running(World(pool)) as world:
        event = world.message()
        world.provider.script[event.message.event_id] = [Outcome(AttemptResult.DOUBT, "lost after the final dot")]
        await world.plan(event)
        row = await world.until(event, "in_doubt")
    async with pool.acquire() as connection, connection.transaction():
        locked = await store.lock_deliveries(connection, [event.message.event_id])
        change = again(locked[event.message.event_id], "sent again on an operator's word", datetime.now(UTC))
        await store.change_deliveries(connection, [change])
    await settle_left_over(world.settlement, [LeftOver(event.message.event_id, row["epoch"], beyond=True)])
    assert (await world.row(event))["state"] == "planned"


async def test_attempts_that_a_stopping_worker_had_begun_and_not_called_are_tried_by_another(pool):
    world, other = World(pool), World(pool)
    events = [world.message() for _ in range(6)]
    hanging = asyncio.Event()
    world.provider.script = {event.message.event_id: [hanging] for event in events}
    world.provider.calls_at_once = 2
    other.vault.keys.update(world.vault.keys)
    world.dispatcher.start()
    await world.plan(*events)
    await eventually(lambda: len(world.provider.calls) >= 2)
    world.dispatcher.stop_seconds = 3.0
    stopping = asyncio.create_task(world.dispatcher.stop())
    await asyncio.sleep(1.5)
    hanging.set()
    await stopping
    called = {message_id for message_id, _ in world.provider.calls}
    assert len(called) == 2
    async with running(other):
        await other.claims.step()
        for event in events:
            await other.until(event, "handed_over")
    assert len(other.provider.calls) == 4


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (Outcome(AttemptResult.REFUSED, "RCPT 550", Reply(550, "5.1.1", "no")), "refused"),
        (Outcome(AttemptResult.DOUBT, "lost after the final dot"), "in_doubt"),
        (ValueError("a bug in the adapter"), "in_doubt"),
    ],
)
async def test_each_outcome_has_its_state(pool, outcome, state):
    async with running(World(pool)) as world:
        event = world.message()
        world.provider.script[event.message.event_id] = [outcome]
        await world.plan(event)
        await world.until(event, state)
        await asyncio.sleep(0.05)
        await world.claims.step()
        assert len(world.provider.calls) == 1


@pytest.mark.parametrize("result", [AttemptResult.LATER, AttemptResult.UNREACHED])
async def test_what_was_surely_not_accepted_is_tried_again_under_a_new_epoch(pool, result):
    async with running(World(pool)) as world:
        event = world.message()
        world.provider.script[event.message.event_id] = [Outcome(result, "not now"), ACCEPTED]
        await world.plan(event)
        await world.until(event, "planned")
        await asyncio.sleep(0.1)
        await world.claims.step()
        row = await world.until(event, "handed_over")
        assert (row["epoch"], row["attempts"]) == (2, 2)
        receipts = await world.told(event, 2)
        assert [(one["sequence"], one["state"]) for one in receipts] == [(1, "planned"), (2, "handed_over")]


@pytest.mark.parametrize(("value", "state"), [("suspended", "held"), ("blocked", "withheld")])
async def test_rule_standing_in_begin_no_attempt_begins_after_the_standing_is_recorded(pool, value, state):
    world = World(pool)
    world.vault.gate = asyncio.Event()
    async with running(world):
        event = world.message()
        await world.plan(event)
        await asyncio.sleep(0.1)  # leased and being disclosed: past the planner's look at the standing
        await store.record_standings(pool, [standing("acme", value, 1)])
        world.vault.gate.set()
        await world.until(event, state)
        assert world.provider.calls == []
        assert await world.attempts(event) == []


async def test_a_suspension_holds_what_waits_and_good_standing_releases_it(pool):
    async with running(World(pool)) as world:
        await world.sweeps.on_standing_changed([standing("acme", "suspended", 1)])
        event = world.message()
        await world.plan(event)
        await world.until(event, "held")
        await world.sweeps.on_standing_changed([standing("acme", "good", 2), standing("acme", "suspended", 1)])
        await world.until(event, "planned")
        await world.claims.step()
        await world.until(event, "handed_over")


@pytest.mark.parametrize("planned", ["before the suspension", "during the suspension"])
async def test_a_suspension_that_is_lifted_sends_nothing_before_its_validity_window(pool, planned):
    world = World(pool)
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=5)
    event = world.message(not_before=later)
    if planned == "before the suspension":
        await world.plan(event)
    await world.sweeps.on_standing_changed([standing("acme", "suspended", 1)])
    if planned == "during the suspension":
        await world.plan(event)
    assert (await world.row(event))["state"] == "held"
    await world.sweeps.on_standing_changed([standing("acme", "good", 2)])
    row = await world.row(event)
    assert (row["state"], row["due_at"]) == ("planned", later)


async def test_a_state_that_is_recalled_after_a_restore_waits_for_its_validity_window(pool):
    world = World(pool)
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=5)
    event = world.message(action="hold", not_before=later)
    await world.planner.plan_again([received(event)])
    message_id = event.message.event_id
    newest = SimpleNamespace(message_id=message_id, state="planned", reason="standing: released", sequence=2)
    async with pool.acquire() as connection, connection.transaction():
        await store.lock_deliveries(connection, [message_id])
        await store.recall_states(connection, [newest])
    row = await world.row(event)
    assert (row["state"], row["sequence"], row["due_at"]) == ("planned", 2, later)


async def test_a_claim_puts_back_what_is_due_before_its_validity_window(pool):
    async with running(World(pool)) as world:
        later = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=5)
        event, other = world.message(not_before=later), world.message(not_before=later)
        await world.plan(event, other)
        await pool.execute("UPDATE deliveries SET due_at = now()")
        await world.claims.step()
        for each in (event, other):
            row = await world.row(each)
            assert (row["state"], row["due_at"]) == ("planned", later)
        assert world.vault.asked == []


async def test_a_block_withholds_what_a_suspension_held(pool):
    world = World(pool)
    await world.sweeps.on_standing_changed([standing("acme", "suspended", 1)])
    event, other = world.message(), world.message(account="other")
    await world.plan(event, other)
    await world.sweeps.on_standing_changed([standing("acme", "blocked", 2)])
    assert (await world.row(event))["state"] == "withheld"
    assert (await world.row(other))["state"] == "handing"


async def test_rule_barrier_a_block_is_in_force_only_when_no_call_is_open(pool):
    world = World(pool)
    event, answered = world.message(), asyncio.Event()
    world.provider.script[event.message.event_id] = [answered]
    async with running(world):
        await world.plan(event)
        async with asyncio.timeout(3):
            while not world.provider.calls:
                await asyncio.sleep(0.01)
        await world.sweeps.on_standing_changed([standing("acme", "blocked", 1)])
        assert await pool.fetchval("SELECT in_force_at FROM standings WHERE account_id = 'acme'") is None
        answered.set()
        await world.until(event, "handed_over")
        await world.sweeps.step()
        assert await pool.fetchval("SELECT in_force_at FROM standings WHERE account_id = 'acme'") is not None


async def test_rule_barrier_waits_for_a_resend_whose_earlier_call_became_known_as_accepted(pool):
    world = World(pool)
    event, answered = world.message(duplicates_allowed=True), asyncio.Event()
    doubt = Outcome(AttemptResult.DOUBT, "lost after the final dot")
    world.provider.script[event.message.event_id] = [doubt, answered]
    async with running(world):
        await world.plan(event)
        await world.until(event, "in_doubt")
        await world.sweeps.step()
        await world.claims.step()
        await eventually(lambda: len(world.provider.calls) >= 2)
        async with pool.acquire() as connection, connection.transaction():
            await write_outcomes(connection, [Called(event.message.event_id, 1, ACCEPTED)], world.settlement)
        await world.until(event, "handed_over")
        await world.sweeps.on_standing_changed([standing("acme", "blocked", 1)])
        assert await pool.fetchval("SELECT in_force_at FROM standings WHERE account_id = 'acme'") is None
        answered.set()
        await eventually(lambda: not world.dispatcher.attempts_open)
        await world.sweeps.step()
        assert await pool.fetchval("SELECT in_force_at FROM standings WHERE account_id = 'acme'") is not None


async def test_stale_standings_stop_dispatching(pool):
    world = World(pool, fresh=False)
    async with running(world):
        event = world.message()
        await world.plan(event)
        await asyncio.sleep(0.2)
        assert await world.attempts(event) == []
        world.fresh = True
        await world.until(event, "handed_over")


@pytest.mark.parametrize(
    ("during", "error", "state"),
    [
        ("acquire, withheld by the vault", asyncpg.CannotConnectNowError, "withheld"),
        ("acquire, refused to begin", asyncpg.CannotConnectNowError, "withheld"),
        ("begin_attempts", asyncpg.DataError, "handed_over"),
    ],
)
async def test_what_could_not_be_stopped_or_begun_is_claimed_again_when_its_lease_has_ended(pool, during, error, state):
    failing = Fails(pool, during.partition(",")[0], error)
    world = World(failing, lease_seconds=1.0)
    world.vault.gate = asyncio.Event()
    async with running(world):
        event = world.message()
        await world.plan(event)
        await asyncio.sleep(0.1)
        if during.endswith("by the vault"):
            world.vault.refusals[event.message.event_id] = "withdrawn"
        elif during.endswith("to begin"):
            await store.record_standings(pool, [standing("acme", "blocked", 1)])
        failing.armed = True
        world.vault.gate.set()
        async with asyncio.timeout(3):
            while failing.armed or len(world.dispatcher.leases):
                await asyncio.sleep(0.01)
        assert (await world.row(event))["state"] == "handing"
        await asyncio.sleep(1.0)
        await world.claims.step()
        await world.until(event, state)


async def test_a_withdrawal_reaches_what_was_disclosed_and_waits_to_be_begun(pool):
    world = World(pool, attempts_open_max=1)
    called, waiting = world.message(), world.message()
    answered = asyncio.Event()
    world.provider.script[called.message.event_id] = [answered]
    async with running(world):
        await world.plan(called)
        await world.plan(waiting)
        await asyncio.sleep(0.2)
        assert waiting.message.event_id in {item.message_id for item in world.vault.asked}
        world.vault.refusals[waiting.message.event_id] = "withdrawn"
        await asyncio.sleep(FRESH_SECONDS)
        answered.set()
        await world.until(waiting, "withheld")
        assert [message_id for message_id, _ in world.provider.calls] == [called.message.event_id]


async def test_a_withdrawal_reaches_what_is_begun_and_waits_to_be_called(pool):
    world = World(pool)
    world.provider.calls_at_once = 1
    called, waiting, allowed = world.message(), world.message(), world.message()
    answered = asyncio.Event()
    world.provider.script[called.message.event_id] = [answered]
    async with running(world):
        await world.plan(called)
        await world.plan(waiting, allowed)
        async with asyncio.timeout(3):
            while not (await world.attempts(waiting) and await world.attempts(allowed)):
                await asyncio.sleep(0.01)
        world.vault.refusals[waiting.message.event_id] = "withdrawn"
        await asyncio.sleep(FRESH_SECONDS)
        answered.set()
        await world.until(waiting, "planned")
        await world.claims.step()
        await world.until(waiting, "withheld")
        assert [attempt["result"] for attempt in await world.attempts(waiting)] == ["unreached"]
        assert len(await world.attempts(allowed)) == 1
        await world.until(allowed, "handed_over")
        assert len(world.provider.calls) == 2


async def test_what_is_begun_is_not_called_after_its_window(pool):
    world = World(pool)
    world.provider.calls_at_once = 1
    called, late = world.message(), world.message(not_after=datetime.now(UTC) + timedelta(seconds=0.4))
    answered = asyncio.Event()
    world.provider.script[called.message.event_id] = [answered]
    async with running(world):
        await world.plan(called)
        await world.plan(late)
        async with asyncio.timeout(3):
            while not await world.attempts(late):
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.4)
        answered.set()
        await world.until(late, "planned")
        await world.sweeps.step()
        assert (await world.row(late))["state"] == "expired"
        assert len(world.provider.calls) == 1


async def test_nothing_is_disclosed_while_standings_are_stale(pool):
    world = World(pool, fresh=False)
    async with running(world):
        event = world.message()
        await world.plan(event)
        await asyncio.sleep(0.2)
        assert world.vault.asked == []
        world.fresh = True
        await world.until(event, "handed_over")


@pytest.mark.parametrize(("call_seconds", "messages"), [(0.0, 1500), (0.4, 120)])
async def test_what_was_just_disclosed_is_not_asked_for_again_and_little_is_disclosed_in_vain(
    pool, call_seconds, messages
):
    world = World(pool, attempts_open_max=256)
    world.provider.seconds = call_seconds
    world.provider.calls_at_once = 16
    events = [world.message() for _ in range(messages)]
    async with running(world):
        for start in range(0, messages, 250):
            await world.plan(*events[start : start + 250])
        async with asyncio.timeout(30):
            while await pool.fetchval("SELECT count(*) FROM deliveries WHERE state = 'handed_over'") < messages:
                await world.claims.step()
                await asyncio.sleep(0.05)
    assert len(world.provider.calls) == messages
    times = [sorted(group) for group in world.vault.asked_at.values()]
    assert all(again - first > FRESH_SECONDS for group in times for first, again in itertools.pairwise(group))
    assert sum(map(len, times)) / messages < 2.5


@pytest.mark.parametrize("kind", ["erased", "withdrawn", "bad-capsule"])
async def test_what_the_vault_withholds_is_withheld_without_an_attempt(pool, kind):
    async with running(World(pool)) as world:
        event = world.message()
        world.vault.refusals[event.message.event_id] = kind
        await world.plan(event)
        row = await world.until(event, "withheld")
        assert kind in row["reason"]
        assert world.provider.calls == []


async def test_rule_spent_a_row_older_than_the_vaults_receipt_is_not_handed_over_again(pool):
    async with running(World(pool)) as world:
        event = world.message()
        world.vault.refusals[event.message.event_id] = "spent"
        await world.plan(event)
        await world.until(event, "handed_over")
        assert world.provider.calls == []
        assert await world.attempts(event) == []


async def test_rule_vault_epoch_a_refusal_because_somebody_went_further_drops_the_lease(pool):
    async with running(World(pool)) as world:
        event = world.message()
        world.vault.refusals[event.message.event_id] = "stale-epoch"
        await world.plan(event)
        async with asyncio.timeout(3):
            while world.dispatcher.leases or not world.vault.asked:
                await asyncio.sleep(0.01)
        assert (await world.row(event))["state"] == "handing"
        assert world.provider.calls == []


async def test_the_window_ends_for_what_waits(pool):
    world = World(pool)
    moment = datetime.now(UTC)
    event = world.message(not_before=moment + timedelta(seconds=30), not_after=moment + timedelta(seconds=0.2))
    await world.plan(event)
    assert (await world.row(event))["state"] == "planned"
    await asyncio.sleep(0.3)
    await world.sweeps.step()
    assert (await world.row(event))["state"] == "expired"


async def test_duplicates_allowed_sends_a_doubt_again_in_a_new_round_and_at_most_twice(pool):
    async with running(World(pool)) as world:
        event = world.message(duplicates_allowed=True)
        world.provider.script[event.message.event_id] = [Outcome(AttemptResult.DOUBT, "lost after the final dot")]
        await world.plan(event)
        for rounds in (1, 2):
            await world.until(event, "in_doubt")
            await world.sweeps.step()
            assert (await world.row(event))["round"] == rounds
            await world.claims.step()
        await world.until(event, "in_doubt")
        await world.sweeps.step()
        assert (await world.row(event))["state"] == "in_doubt"
        assert len(world.provider.calls) == 3


async def test_no_more_attempts_are_open_than_allowed(pool):
    world = World(pool, attempts_open_max=8)
    answered = asyncio.Event()
    events = [world.message() for _ in range(40)]
    for event in events:
        world.provider.script[event.message.event_id] = [answered]
    async with running(world):
        await world.plan(*events)
        await asyncio.sleep(0.3)
        assert await pool.fetchval("SELECT count(*) FROM attempts WHERE result = 'open'") == 8
        answered.set()
        for event in events:
            await world.until(event, "handed_over")


@pytest.mark.parametrize("forged", ["verdict by another key", "verdict on another message", "instruction", "recipient"])
async def test_forged_records_are_counted_once_and_never_planned(pool, forged):
    world = World(pool)
    genuine, other = world.message(action="block"), world.message()
    message = genuine.message
    if forged == "verdict by another key":
        event = replace_verdict(genuine, verdict_on(message, "allow", Ed25519PrivateKey.generate()))
    elif forged == "verdict on another message":
        event = replace_verdict(genuine, other.verdict)
    elif forged == "instruction":
        statement = {**message.instruction.statement, "message_id": str(uuid4())}
        event = genuine.model_copy(
            update={
                "message": message.model_copy(
                    update={"instruction": message.instruction.model_copy(update={"statement": statement})}
                )
            }
        )
    else:
        event = genuine.model_copy(update={"message": message.model_copy(update={"sealed": other.message.sealed})})
    again = received(event)
    await world.planner.on_verdict_reached([again])
    await world.planner.on_verdict_reached([again])
    assert await pool.fetchval("SELECT count(*) FROM deliveries") == 0
    (row,) = await pool.fetch("SELECT * FROM unauthorised")
    assert row["reason"].startswith(("instruction:", "verdict:"))


@pytest.mark.parametrize("claimed", ["a\0b", "\0" * 500, ["\0"], None])
async def test_forged_records_with_an_id_that_cannot_be_stored_are_counted_too(pool, claimed):
    world = World(pool)
    genuine = world.message(action="hold")
    message, release = genuine.message, revision_on(genuine, "allow")
    statement = {**message.instruction.statement, "message_id": claimed}
    instruction = message.instruction.model_copy(update={"statement": statement})
    verdict = genuine.model_copy(update={"message": message.model_copy(update={"instruction": instruction})})
    word = {**release.revision.statement, "message_id": claimed}
    revision = release.model_copy(update={"revision": release.revision.model_copy(update={"statement": word})})
    await world.plan(verdict, revision)
    assert await pool.fetchval("SELECT count(*) FROM unauthorised") == 2
    assert await pool.fetchval("SELECT count(*) FROM deliveries") == 0


def replace_verdict(event, verdict):
    return event.model_copy(update={"verdict": verdict})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE contents SET event = $1", "it is another message's"),
        ("UPDATE contents SET event = substr(event, 2) WHERE $1::bytea IS NOT NULL", "value: Invalid JSON"),
        ("DELETE FROM contents WHERE $1::bytea IS NOT NULL", "value: the record is empty"),
    ],
    ids=["another's", "broken", "gone"],
)
async def test_a_delivery_whose_stored_record_fails_is_withheld(pool, change, reason):
    lost, world = World(pool, lease_seconds=0.2), World(pool)
    event, other = lost.message(), lost.message()
    await lost.plan(event)
    await pool.execute(change, received(other).record.value)
    await asyncio.sleep(0.3)
    async with running(world):
        await world.claims.step()
        row = await world.row(event)
        assert row["state"] == "withheld"
        assert row["reason"].startswith(f"the stored record fails: {reason}")
        assert [one["state"] for one in world.relay.receipts(event.message.event_id)] == ["withheld"]
        assert world.vault.asked == []


async def test_a_delivery_whose_key_was_taken_away_waits_for_it(pool):
    world = World(pool)
    event = world.message()
    await world.plan(event)
    await pool.execute("UPDATE deliveries SET state = 'planned', lease_until = NULL, due_at = now()")
    async with running(world):
        keys = world.claims.authority.verdicts
        strangers = TrustedKeys("verdict", [Ed25519PrivateKey.generate().public_key()])
        object.__setattr__(world.claims.authority, "verdicts", strangers)
        await world.claims.step()
        row = await world.row(event)
        assert row["state"] == "planned"
        assert row["reason"].startswith("the stored record fails: ")
        assert timedelta(minutes=9) < row["due_at"] - datetime.now(UTC) < timedelta(minutes=11)
        object.__setattr__(world.claims.authority, "verdicts", keys)
        await pool.execute("UPDATE deliveries SET due_at = now()")
        await world.claims.step()
        await world.until(event, "handed_over")


async def test_a_worker_that_stops_gives_its_leases_back(pool):
    world, other = World(pool), World(pool)
    world.vault.gate = asyncio.Event()
    event = world.message()
    other.vault.keys.update(world.vault.keys)
    async with running(world):
        await world.plan(event)
        await asyncio.sleep(0.05)
    assert (await world.row(event))["state"] == "planned"
    async with running(other):
        await other.claims.step()
        await other.until(event, "handed_over")


async def test_three_hundred_deliveries_under_two_workers_are_each_called_once(pool):
    one, two = World(pool), World(pool)
    events = [one.message() for _ in range(300)]
    two.vault.keys.update(one.vault.keys)
    async with running(one), running(two):
        await asyncio.gather(
            *(world.plan(*events[start : start + 50]) for start in range(0, 300, 50) for world in (one, two))
        )
        for event in events:
            await one.until(event, "handed_over")
    calls = [message_id for message_id, _ in one.provider.calls + two.provider.calls]
    assert sorted(calls) == sorted(event.message.event_id for event in events)


# Later words of screening


def revision_on(event, action, number=1, key=VERDICT_KEY, **fields):
    statement = event.message.instruction.statement
    word = VerdictRevision(
        **{
            "message_id": statement["message_id"],
            "account_id": statement["account_id"],
            "recipient_token": statement["recipient_token"],
            "instruction_digest": event.verdict.statement["instruction_digest"],
            "revision": number,
            "action": action,
            "clauses": () if action == "allow" else ("R5.2",),
            "cause": "person",
            "case_id": "5f2b7c9e-8f1d-5c37-9a53-0b6c1de8f0a1",
            "signal": None,
            "exposure": 1,
            "screened_at": "2026-01-01T00:00:01.000Z",
            **fields,
        }
    )
    return VerdictRevised(revision=Signer("verdict", key).sign([word.statement()])[0])


async def test_a_released_message_is_handed_over_once_however_often_the_release_comes(pool):
    async with running(World(pool)) as world:
        event = world.message(action="hold")
        release = revision_on(event, "allow")
        await world.plan(event, release)
        assert (await world.row(event))["reason"] == "screening: released by review"
        await world.claims.step()
        await world.until(event, "handed_over")
        await world.plan(event, release)
        await world.claims.step()
        assert len(world.provider.calls) == 1
        states = [(one["sequence"], one["state"]) for one in await world.told(event, 3)]
        assert states == [(1, "held"), (2, "planned"), (3, "handed_over")]


async def test_a_message_that_a_person_blocked_is_refused_and_stays_so(pool):
    world = World(pool)
    event = world.message(action="hold")
    await world.plan(event, revision_on(event, "block"))
    row = await world.row(event)
    assert (row["state"], row["reason"]) == ("refused", "screening: blocked by review (R5.2)")
    await world.plan(revision_on(event, "allow", 2))
    assert (await world.row(event))["state"] == "refused"


async def test_a_block_that_comes_while_a_message_waits_outruns_an_older_release(pool):
    world = World(pool)
    event = world.message(action="hold")
    await world.plan(event)
    await world.plan(revision_on(event, "block", 2), revision_on(event, "allow", 1))
    await world.plan(revision_on(event, "allow", 1))
    assert (await world.row(event))["state"] == "refused"


async def test_a_block_during_a_call_stops_the_next_attempt(pool):
    async with running(World(pool)) as world:
        event, answered = world.message(), asyncio.Event()
        world.provider.script[event.message.event_id] = [answered]
        await world.plan(event)
        await eventually(lambda: world.provider.calls)
        await world.plan(blocked_by_list(event))
        await world.revisions.step()
        assert (await world.row(event))["state"] == "handing"
        async with pool.acquire() as connection, connection.transaction():
            later = Called(event.message.event_id, 1, Outcome(AttemptResult.LATER, "not now"))
            await write_outcomes(connection, [later], world.settlement)
        await world.revisions.step()
        row = await world.row(event)
        assert (row["state"], row["reason"]) == ("refused", "screening: blocked by a list (R5.2)")
        await world.revisions.step()
        assert await pool.fetchval("SELECT count(*) FROM revisions WHERE NOT applied") == 0
        answered.set()


def blocked_by_list(event):
    return revision_on(event, "block", cause="list", case_id=None, signal="url:00")


async def test_a_block_of_what_is_leased_and_not_begun_refuses_it_at_once(pool):
    world = World(pool)
    world.vault.gate = asyncio.Event()
    async with running(world):
        event = world.message()
        await world.plan(event)
        await eventually(lambda: world.vault.asked)
        await world.plan(blocked_by_list(event))
        row = await world.row(event)
        assert (row["state"], row["reason"]) == ("refused", "screening: blocked by a list (R5.2)")
        world.vault.gate.set()
        await eventually(lambda: not world.dispatcher.leases)
        assert world.provider.calls == []
        assert await world.attempts(event) == []
        assert [one["state"] for one in world.relay.receipts(event.message.event_id)] == ["refused"]


async def test_a_begin_that_waits_for_a_block_to_be_stored_begins_nothing(pool):
    world = World(pool)
    world.vault.gate = asyncio.Event()
    async with running(world):
        event = world.message()
        await world.plan(event)
        async with pool.acquire() as connection, connection.transaction():
            await store.lock_deliveries(connection, [event.message.event_id])
            blocking = asyncio.create_task(world.plan(blocked_by_list(event)))
            await asyncio.sleep(0.2)
            world.vault.gate.set()
            await asyncio.sleep(0.2)
        await blocking
        await eventually(lambda: not world.dispatcher.leases)
        assert (await world.row(event))["state"] == "refused"
        assert world.provider.calls == []


@pytest.mark.parametrize("sent", ["once", "again after a doubt"])
async def test_a_claim_of_what_is_blocked_refuses_it(pool, sent):
    """The block came during a call, and the claim before what applies it every second."""
    async with running(World(pool)) as world:
        event, answered = world.message(), asyncio.Event()
        world.provider.script[event.message.event_id] = [answered]
        await world.plan(event)
        await eventually(lambda: world.provider.calls)
        await world.plan(blocked_by_list(event))
        result = AttemptResult.LATER if sent == "once" else AttemptResult.DOUBT
        async with pool.acquire() as connection, connection.transaction():
            called = Called(event.message.event_id, 1, Outcome(result, "not now"))
            await write_outcomes(connection, [called], world.settlement)
        await pool.execute("UPDATE deliveries SET state = 'planned', due_at = now()")
        await world.claims.step()
        row = await world.row(event)
        if sent == "once":
            assert (row["state"], row["reason"]) == ("refused", "screening: blocked by a list (R5.2)")
        else:
            assert row["state"] == "in_doubt"
            assert row["reason"] == "an earlier attempt is in doubt (screening: blocked by a list (R5.2))"
        told = world.relay.receipts(event.message.event_id)[-1]
        assert (told["state"], told["reason"]) == (row["state"], row["reason"])
        assert len(world.provider.calls) == 1
        await world.revisions.step()
        assert (await world.row(event))["sequence"] == row["sequence"]
        answered.set()


async def test_a_block_that_comes_before_its_verdict_stops_a_message_that_was_let_pass(pool):
    async with running(World(pool)) as world:
        event, other = world.message(), world.message()
        await world.plan(revision_on(event, "block"), revision_on(other, "allow"))
        await world.plan(event, other)
        row = await world.until(event, "refused")
        assert row["reason"] == "screening: blocked by review (R5.2)"
        await world.until(other, "handed_over")
        assert [message_id for message_id, _ in world.provider.calls] == [other.message.event_id]
        assert await world.attempts(event) == []
        assert [one["state"] for one in await world.told(event, 1)] == ["refused"]


@pytest.mark.parametrize(("action", "state"), [("allow", "planned"), ("block", "refused")])
async def test_a_word_that_comes_before_its_verdict_waits_for_it(pool, action, state):
    """Moderation may die between storing a verdict and publishing it, and a person be quick."""
    world = World(pool)
    event = world.message(action="hold")
    await world.plan(revision_on(event, action))
    await world.revisions.step()
    await world.plan(event)
    assert (await world.row(event))["state"] == "held"
    await world.revisions.step()
    assert (await world.row(event))["state"] == state
    await world.revisions.step()
    assert await pool.fetchval("SELECT count(*) FROM revisions WHERE NOT applied") == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"key": Ed25519PrivateKey.generate()}, "verdict: signed with a key that was never published"),
        ({"instruction_digest": "00" * 32}, "revision: it is about another instruction than the one that was planned"),
        ({"number": -1}, "revision: the signed statement has not the shape of a revision"),
    ],
)
async def test_a_release_that_is_not_moderations_word_on_this_message_releases_nothing(pool, fields, reason):
    world = World(pool)
    event = world.message(action="hold")
    made = revision_on(event, "allow", **{name: value for name, value in fields.items() if name != "number"})
    if "number" in fields:
        made = VerdictRevised(
            revision=Signer("verdict", VERDICT_KEY).sign([{**made.revision.statement, "revision": -1}])[0]
        )
    await world.plan(event, made)
    assert (await world.row(event))["state"] == "held"
    assert [row["reason"] for row in await pool.fetch("SELECT reason FROM unauthorised")] == [reason]


async def test_a_row_alone_releases_no_held_message(pool, caplog):
    """Who can write to the database of routing cannot let pass what screening holds."""
    async with running(World(pool)) as world:
        event = world.message(action="hold")
        await world.plan(event)
        await pool.execute("UPDATE deliveries SET state = 'planned', due_at = now()")
        await world.claims.step()
        row = await world.row(event)
        assert (row["state"], row["reason"]) == ("held", "screening: gambling.ads")
        assert world.vault.asked == []
        assert "screening said hold" in caplog.text
        await world.plan(revision_on(event, "allow"))
        await world.claims.step()
        await world.until(event, "handed_over")


async def test_a_release_does_not_outrun_the_validity_window_nor_a_suspension(pool):
    world = World(pool)
    later = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=5)
    early = world.message(action="hold", not_before=later)
    other = world.message(action="hold", account="paused")
    await world.sweeps.on_standing_changed([standing("paused", "suspended", 1)])
    await world.plan(early, other, revision_on(early, "allow"), revision_on(other, "allow"))
    assert (await world.row(early))["due_at"] == later
    await world.sweeps.step()
    assert (await world.row(other))["state"] == "held"
    await world.sweeps.on_standing_changed([standing("paused", "good", 2)])
    row = await world.row(other)
    assert (row["state"], row["reason"]) == ("planned", "standing: released")
