"""Policies over Kafka: by the operator's command on the road, and swapped under load in several copies."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from dataclasses import dataclass, field

import asyncpg
import orjson
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from on_the_road import run_command, wait_for, wait_until_settled

from common.events import PolicyStated, encode
from common.events.screening import PolicyState
from common.http.server import quieten_collector
from common.kafka.table import TableReader
from common.security.signing import Signer, TrustedKeys
from common.telemetry.measuring import Counts
from common.testing.admitted import admitted_messages, new_door_keys
from common.testing.fakes import FakePublisher, FakeVault
from common.times import now, rfc3339
from moderation.handlers import on_message_admitted
from moderation.policies import Policies, PolicyKeys
from moderation.policy.reading import parse_policy
from moderation.recent import RecentMessages
from moderation.replaying import replay
from moderation.screening import Screener
from moderation.store import PolicyShelf
from moderation.watching import Watch
from waystation.operator import ServiceClient
from waystation.rehearsal import items
from waystation.stack import checkout_folder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

log = logging.getLogger(__name__)
ROAD_POLICY = (checkout_folder() / "deploy" / "policies" / "road.yaml").read_text("utf-8")
DOOR = new_door_keys()
OPERATOR, VERDICT_KEY = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
MESSAGES, BATCH_MESSAGES, MESSAGES_PER_SECOND = 20_000, 100, 1_000
STRETCH_SECONDS, PAUSE_MS_MAX = 2.0, 50


def small_policy(word, **rule):
    return yaml.safe_dump({
        "id": "small", "version": 1, "description": "One rule",
        "rules": [{
            "id": "crime.papers", "clause": "R3.a", "tools": ["email", "telephony", "widget", "form"],
            "description": "Forged papers", "action": "block", "severity": 4, "owner": "trust-and-safety",
            "match": {"patterns": {"any": [rf"\bfake {word}\b"]}},
            "matches": [f"Buy fake {word} here"], "passes": ["Please bring your passport"], **rule,
        }],
    })  # fmt: skip


def statement(text, status, revision):
    name = parse_policy(text.encode(), "re2").name
    state = PolicyState(
        policy=name, text=text, status=status, revision=revision, reason="test", decided_by="person",
        changed_at=rfc3339(now()),
    )  # fmt: skip
    return encode(PolicyStated(state=Signer("policy", OPERATOR).sign([state.statement()])[0]))


@dataclass
class Copy:
    """One copy of moderation over real Kafka and PostgreSQL; vault and the way out are fakes."""

    pool: object
    access: object
    publisher: FakePublisher
    vault: FakeVault
    number: int
    swaps: list = field(default_factory=list)

    async def start(self):
        self.screener = Screener(parse_policy(small_policy("of the file").encode()))
        keys = PolicyKeys(
            TrustedKeys("policy", [OPERATOR.public_key()]), TrustedKeys("verdict", [VERDICT_KEY.public_key()])
        )
        self.policies = Policies(self.screener, keys, PolicyShelf(self.pool), on_change=self.changed)
        signer = Signer("verdict", VERDICT_KEY)
        self.watch = Watch(
            self.policies, self.screener, RecentMessages(), publisher=self.publisher, signer=signer,
            effects=Counts(), differences=Counts(),
        )  # fmt: skip
        self.reader = TableReader(
            self.access, PolicyStated, self.policies.on_policy_stated, client_id=f"tests.policies-{self.number}"
        )
        self.policies.start()
        self.reader.start()
        while not self.reader.fresh:
            await asyncio.sleep(0.05)
        await self.policies.settled()

    def changed(self):
        self.swaps.append((time.monotonic(), self.policies.active.name))

    async def stop(self):
        await self.reader.stop()
        await self.policies.stop()

    async def screen(self, messages):
        await on_message_admitted(
            [message.received(number) for number, message in enumerate(messages)],
            pool=self.pool, vault=self.vault, publisher=FakePublisher(), signer=Signer("verdict", VERDICT_KEY),
            instruction_keys=DOOR.trusted, screener=self.screener, watch=self.watch,
        )  # fmt: skip


@pytest.fixture
async def copies(database, kafka_access):
    """Two copies over one database; what their watches publish goes to the topic."""
    async with asyncpg.create_pool(await database("moderation"), min_size=2, max_size=6) as pool:
        vault = FakeVault()
        made = [Copy(pool, kafka_access("moderation"), FakePublisher(), vault, number) for number in range(2)]
        for copy in made:
            await copy.start()
        yield made
        for copy in made:
            await copy.stop()


async def stated_by_all(copies, bus, record):
    """Write a statement, and return when every copy has followed it."""
    await asyncio.to_thread(bus.written, "moderation", [record])
    revision = orjson.loads(record.value)["state"]["statement"]["revision"]
    async with asyncio.timeout(30):
        while any(copy.policies.table.revision < revision for copy in copies):
            await asyncio.sleep(0.02)
        for copy in copies:
            await copy.policies.settled()


@dataclass
class Pauses:
    """Between two turns of the loop: seconds that passed, and seconds of this thread's processor.

    On a machine that others use, time passes although nothing holds the loop; the thread's own time tells what does.
    """

    stretches: dict = field(default_factory=dict)
    collected: dict = field(default_factory=dict)
    name: str = "before"

    async def beat(self):
        gc.callbacks.append(self._collecting)
        try:
            while True:
                began, worked = time.perf_counter(), time.thread_time()
                await asyncio.sleep(0.001)
                gap = (time.perf_counter() - began, time.thread_time() - worked)
                self.stretches.setdefault(self.name, []).append(gap)
        finally:
            gc.callbacks.remove(self._collecting)

    def _collecting(self, phase, info):
        if phase == "start":
            self._began = time.thread_time()
        else:
            spent = time.thread_time() - self._began
            self.collected[info["generation"]] = max(spent, self.collected.get(info["generation"], 0.0))

    def longest_ms(self, name):
        """Return the longest pause of a stretch, as it passed and of this thread's own."""
        return tuple(1000 * max(gaps) for gaps in zip(*self.stretches[name], strict=True))

    def lines(self):
        for name, gaps in self.stretches.items():
            passed = sorted(1000 * gap for gap, _ in gaps)
            own = sorted(1000 * gap for _, gap in gaps)
            over = ", ".join(f"> {limit} ms: {sum(gap > limit for gap in own)}" for limit in (5, 10, 20, 50, 100))
            yield (
                f"{name}: {len(gaps)} turns; longest {passed[-1]:.0f} ms, p99 {passed[len(gaps) * 99 // 100]:.1f}; "
                f"of this thread's processor {own[-1]:.0f} ms, p99 {own[len(gaps) * 99 // 100]:.1f} ({over})"
            )
        yield "longest collections, ms: " + ", ".join(f"{n}: {1000 * s:.1f}" for n, s in sorted(self.collected.items()))


@pytest.fixture
def quiet_collector():
    """The garbage collector as services run it, not with all the objects of the tests before."""
    thresholds = gc.get_threshold()
    gc.collect()
    quieten_collector()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


@pytest.mark.usefixtures("quiet_collector")
async def test_a_policy_is_activated_under_load_without_a_mixture_or_a_pause(copies, bus):
    """Several copies swap within 2 s, each verdict names its policy and replays by it."""
    old, new = small_policy("passports"), ROAD_POLICY.replace("id: road\n", "id: tested\n")
    first = max(copy.policies.table.revision for copy in copies) + 1
    await stated_by_all(copies, bus, statement(old, "shadow", first))
    await stated_by_all(copies, bus, statement(old, "active", first + 1))
    contents = [b"Subject: offer %d\r\n\r\nOrder fake passports today.\r\n" % number for number in range(MESSAGES)]
    messages = admitted_messages(DOOR, contents)
    copies[0].vault.knows(messages)
    statements = [statement(new, "shadow", first + 2), statement(new, "active", first + 3)]
    pauses, load = Pauses(), Load(copies, messages)
    loading, beating = asyncio.create_task(load.run()), asyncio.create_task(pauses.beat())
    await asyncio.sleep(STRETCH_SECONDS)
    pauses.name = "during"
    for record in statements:
        await stated_by_all(copies, bus, record)
    pauses.name = "after"
    await asyncio.sleep(STRETCH_SECONDS)
    beating.cancel()
    load.enough.set()
    await loading
    swapped = [next(at for at, name in copy.swaps if name == copy.policies.active.name) for copy in copies]
    apart = max(swapped) - min(swapped)
    for line in pauses.lines():
        log.info("%s", line)
    log.info("%d messages, %.0f/s; swapped %.1f ms apart", load.screened, load.rate, 1000 * apart)
    assert apart < 2
    usual = max(pauses.longest_ms("before")[1], pauses.longest_ms("after")[1])
    assert pauses.longest_ms("during")[1] - usual < PAUSE_MS_MAX, "what holds the loop because of the activation"
    policies = {policy.name: policy for policy in (parse_policy(old.encode()), parse_policy(new.encode()))}
    rows = await copies[0].pool.fetch("SELECT statement FROM verdicts")
    verdicts = [orjson.loads(row["statement"]) for row in rows]
    assert len(verdicts) == load.screened
    assert {verdict["policy"] for verdict in verdicts} == set(policies), "there are verdicts on both sides of the swap"
    for verdict in verdicts:
        assert replay(verdict, policies[verdict["policy"]]).differences == ()
    rules = {policy.document.rules[0].id if policy.document.id == "small" else "crime.forged-documents": name
             for name, policy in policies.items()}  # fmt: skip
    assert all(rules[rule] == verdict["policy"] for verdict in verdicts for rule in verdict["rules"] if rule in rules)


@dataclass
class Load:
    """Batches for the copies in turn, about as many messages a second as named above, until it is enough."""

    copies: list
    messages: list
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    screened: int = 0
    rate: float = 0.0

    async def run(self):
        started, number = time.monotonic(), 0
        while not self.enough.is_set():
            batch = self.messages[self.screened : self.screened + BATCH_MESSAGES]
            assert batch, "there were too few messages"
            await self.copies[number % len(self.copies)].screen(batch)
            self.screened, number = self.screened + len(batch), number + 1
            self.rate = self.screened / (time.monotonic() - started)
            await asyncio.sleep(max(0.0, started + self.screened / MESSAGES_PER_SECOND - time.monotonic()))


async def test_a_rule_that_leaves_its_bound_takes_its_policy_back_in_every_copy(copies, bus):
    text = small_policy("library cards", bound={"share_max": 0.1, "messages_min": 100})
    first = max(copy.policies.table.revision for copy in copies) + 1
    await stated_by_all(copies, bus, statement(text, "shadow", first))
    before = copies[0].policies.active.name
    counted = admitted_messages(DOOR, [b"Subject: x\r\n\r\nOrder fake library cards today.\r\n"] * 20)
    copies[0].vault.knows(counted)
    await copies[0].screen(counted)
    assert copies[0].watch.comparison.newly_stopped == {("R3.a", "acme"): 20}, "the shadow is counted, and not applied"
    await stated_by_all(copies, bus, statement(text, "active", first + 1))
    messages = admitted_messages(DOOR, [b"Subject: x\r\n\r\nOrder fake library cards today.\r\n"] * 120)
    copies[0].vault.knows(messages)
    await copies[0].screen(messages)
    (record,) = copies[0].publisher.take()
    await stated_by_all(copies, bus, record)
    assert [copy.policies.active.name for copy in copies] == [before, before]
    state = copies[1].policies.table.states[record.key.decode()]
    assert (state.status, state.decided_by) == ("rolled-back", "machine")
    assert "crime.papers applied to 120 of 120 messages" in state.reason


async def test_over_the_days_cap_a_rule_holds_over_all_copies(copies, bus):
    text = small_policy("passports", cap={"messages_per_day": 60, "then": "hold"})
    first = max(copy.policies.table.revision for copy in copies) + 1
    await stated_by_all(copies, bus, statement(text, "shadow", first))
    await stated_by_all(copies, bus, statement(text, "active", first + 1))
    messages = admitted_messages(DOOR, [b"Subject: x\r\n\r\nOrder fake passports today.\r\n"] * 150)
    copies[0].vault.knows(messages)
    for start in range(0, 150, 25):
        await copies[start % 2].screen(messages[start : start + 25])
    rows = await copies[0].pool.fetch("SELECT action, count(*) AS messages FROM verdicts GROUP BY action")
    assert {row["action"]: row["messages"] for row in rows} == {"block": 75, "hold": 75}, "by whole slices"
    policy = parse_policy(text.encode())
    for row in await copies[0].pool.fetch("SELECT statement FROM verdicts"):
        assert replay(orjson.loads(row["statement"]), policy).differences == ()


def test_an_operator_puts_a_policy_in_shadow_in_force_and_takes_it_back(road, tmp_path):
    stack = road.stack
    file = tmp_path / "small.yaml"
    word = f"licences of {now().timestamp():.0f}"
    file.write_text(small_policy(word))
    name = parse_policy(small_policy(word).encode()).name
    before = run_command(stack, "policy", "list")
    refused = run_command(stack, "policy", "activate", str(file), status=1, as_json=False)
    assert "only a policy in shadow becomes active" in refused
    broken = tmp_path / "broken.yaml"
    broken.write_text(small_policy(word).replace("clause: R3.a", "clause: R9"))
    assert "rules.0.clause" in run_command(stack, "policy", "shadow", str(broken), status=1, as_json=False)
    run_command(stack, "policy", "shadow", str(file), "--reason", "a test")
    assert run_command(stack, "policy", "list")["shadow"] == name
    try:
        assert run_command(stack, "policy", "activate", str(file))["status"] == "active"
        wait_for(lambda: run_command(stack, "policy", "list")["active"] == name, "the policy is in force")
        account = road.create_account(f"Policies {now().timestamp()}")
        admitted = asyncio.run(road.send(account, items(["policies@kunden.example"])))
        wait_until_settled(stack, [one.message_id for one in admitted])
        with ServiceClient(stack) as operator:
            assert operator.get("moderation", f"/v1/verdicts/{admitted[0].message_id}")["policy"] == name
    finally:
        run_command(stack, "policy", "rollback", name, "--reason", "the test is over")
    wait_for(lambda: run_command(stack, "policy", "list")["active"] == before["active"], "the one before is in force")
    newest = run_command(stack, "policy", "list")["history"][0]
    assert (newest["status"], newest["reason"], newest["decided_by"]) == ("rolled-back", "the test is over", "person")
