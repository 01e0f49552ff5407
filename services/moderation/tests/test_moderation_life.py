"""Policies from shadow to active to taken back: what is signed decides, and nothing else."""

from __future__ import annotations

import asyncio
import time

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.events import PolicyStated
from common.events.screening import PolicyState
from common.security.signing import Signer, TrustedKeys
from moderation.examination import Case
from moderation.examples import require_examples
from moderation.lists import HashLists
from moderation.mail import MailParts, TextPart
from moderation.policies import Policies, PolicyKeys, PolicyRefusedError, compiled
from moderation.policy.document import Bound
from moderation.policy.life import PolicyTable, Rates, outside, wilson
from moderation.policy.reading import parse_policy
from moderation.screening import Screener

OPERATOR, MODERATION, STRANGER = (Ed25519PrivateKey.generate() for _ in range(3))
KEYS = PolicyKeys(TrustedKeys("policy", [OPERATOR.public_key()]), TrustedKeys("verdict", [MODERATION.public_key()]))


def policy_text(word="passports", **rule):
    """A policy with one rule."""
    return yaml.safe_dump(
        {
            "id": "small",
            "version": 1,
            "description": "One rule",
            "rules": [
                {
                    "id": "crime.papers", "clause": "R3.a", "tools": ["email"], "description": "Forged papers",
                    "action": "block", "severity": 4, "owner": "trust-and-safety",
                    "match": {"patterns": {"any": [rf"\bfake {word}\b"]}},
                    "matches": [f"Buy fake {word} here"], "passes": ["Please bring your passport"], **rule,
                }
            ],
        }
    )  # fmt: skip


def state_of(text, status, revision, decided_by="person"):
    return PolicyState(
        policy=parse_policy(text.encode()).name,
        text=text,
        status=status,
        revision=revision,
        reason="",
        decided_by=decided_by,
        changed_at="2026-11-22T18:00:00.000Z",
    )


def stated(text, status, revision, /, *, key=OPERATOR, purpose="policy", **fields):
    statement = state_of(text, status, revision).statement() | fields
    return PolicyStated(state=Signer(purpose, key).sign([statement])[0])


class Shelf:
    """Keeps what it is given."""

    def __init__(self):
        self.policies, self.states = [], []

    async def keep_policy(self, policy, _at):
        self.policies.append(policy.name)

    async def keep_state(self, state):
        self.states.append((state.policy, state.revision))


@pytest.fixture
async def policies():
    kept = Policies(Screener(parse_policy(policy_text("of the file").encode())), KEYS, Shelf(), compiles=at_once)
    kept.start()
    await kept.settled()
    yield kept
    await kept.stop()


async def at_once(text):
    """Compile here and now: what a process of its own answers is tested apart."""
    policy = parse_policy(text.encode())
    require_examples(policy)
    return policy


async def tell(policies, *events):
    await policies.on_policy_stated(events)
    await policies.settled()


def name(text):
    return parse_policy(text.encode()).name


async def test_without_any_the_policy_of_the_file_is_in_force(policies):
    assert policies.active.name == name(policy_text("of the file"))
    assert policies.shadow is None


async def test_lists_stay_beside_whatever_policy_is_in_force(policies):
    one, lists = policy_text("one"), HashLists(addresses=frozenset([bytes(8)]))
    policies._screener.lists = lists
    with_them = policies.active
    await tell(policies, stated(one, "shadow", 1))
    assert policies.active is with_them, "what is said of another policy changes nothing"
    await tell(policies, stated(one, "active", 2))
    assert (policies.active.name, policies.active.lists) == (name(one), lists)
    assert policies.active.sites is not with_them.sites


async def test_a_policy_goes_from_shadow_to_active_and_back(policies):
    one, two = policy_text("one"), policy_text("two")
    await tell(policies, stated(one, "shadow", 1))
    assert (policies.active.name, policies.shadow.name) == (name(policy_text("of the file")), name(one))
    await tell(policies, stated(one, "active", 2))
    assert (policies.active.name, policies.shadow) == (name(one), None)
    await tell(policies, stated(two, "shadow", 3), stated(two, "active", 4))
    assert policies.active.name == name(two)
    await tell(policies, stated(two, "rolled-back", 5))
    assert policies.active.name == name(one), "the one before is in force again"
    await tell(policies, stated(one, "rolled-back", 6))
    assert policies.active.name == name(policy_text("of the file"))
    assert policies.refusals == {}


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (stated(policy_text(), "active", 1, key=STRANGER), "never published"),
        (stated(policy_text(), "active", 1, key=MODERATION), "never published"),
        (stated(policy_text(), "active", 1, purpose="receipt"), "signature does not fit"),
        (stated(policy_text(), "active", 1, text=policy_text("others")), "digest"),
        (stated(policy_text(), "active", 1, status="draft"), "shape"),
        (stated(policy_text(), "active", 1, key=MODERATION, purpose="verdict", decided_by="machine"), "only take"),
    ],
)
async def test_what_is_not_genuine_is_counted_and_the_active_policy_stays(policies, event, reason, caplog):
    before = policies.active
    await policies.on_policy_stated([event])
    await asyncio.sleep(0)
    assert policies.active is before
    assert policies.refusals == {"signature": 1}
    assert reason in caplog.text
    with pytest.raises(PolicyRefusedError, match=reason):
        await policies.checked(event.state)


async def test_moderation_itself_may_take_a_policy_back(policies):
    await tell(policies, stated(policy_text(), "shadow", 1), stated(policy_text(), "active", 2))
    event = policies.take_back(policies.active, "left its bound", Signer("verdict", MODERATION))
    await tell(policies, event)
    assert policies.active.name == name(policy_text("of the file"))
    assert policies.table.states[event.key].decided_by == "machine"
    assert policies.take_back(policies.active, "left its bound", Signer("verdict", MODERATION)) is None
    with pytest.raises(PolicyRefusedError, match="a machine may only"):
        await policies.checked(event.state)


BROKEN = {
    "unknown feature": (policy_text(when="links.shortner"), r"line \d+, column \d+: rules.0.when: unknown feature"),
    "no clause": (policy_text(clause=None), r"line \d+, column \d+: rules.0.clause"),
    "no example": (policy_text(matches=[]), r"line \d+, column \d+: rules.0.matches"),
    "regex": (policy_text(match={"patterns": {"any": ["(unclosed"]}}), r"line \d+, column \d+: .*missing \)"),
    "own example": (policy_text(matches=["nothing of the kind"]), r"rule crime.papers: matches\[0\] does not match"),
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_policy_is_refused_with_its_place_and_the_active_one_stays(policies, kind):
    text, reason = BROKEN[kind]
    await tell(policies, stated(policy_text("one"), "shadow", 1), stated(policy_text("one"), "active", 2))
    before = policies.active
    broken = PolicyStated(state=Signer("policy", OPERATOR).sign([broken_state(text, 3).statement()])[0])
    with pytest.raises(PolicyRefusedError, match=reason):
        await policies.checked(broken.state)
    await tell(policies, broken)
    await tell(
        policies, PolicyStated(state=Signer("policy", OPERATOR).sign([broken_state(text, 4, "active").statement()])[0])
    )
    assert policies.active is before
    assert policies.refusals["policy"] >= 2


def broken_state(text, revision, status="shadow"):
    from hashlib import sha256  # noqa: PLC0415

    policy = f"small@sha256:{sha256(text.encode()).hexdigest()}"
    return state_of(policy_text(), status, revision).model_copy(update={"policy": policy, "text": text})


async def test_only_what_can_follow_is_taken_from_an_operator(policies):
    one = policy_text("one")
    with pytest.raises(PolicyRefusedError, match="only a policy in shadow becomes active"):
        await policies.checked(stated(one, "active", 1).state)
    with pytest.raises(PolicyRefusedError, match="the revision must be 1"):
        await policies.checked(stated(one, "shadow", 2).state)
    with pytest.raises(PolicyRefusedError, match="neither in shadow nor active"):
        await policies.checked(stated(one, "rolled-back", 1).state)
    event = await policies.checked(stated(one, "shadow", 1).state)
    await tell(policies, event)
    assert await policies.checked(stated(one, "active", 2).state)
    assert policies.refusals == {"order": 3}


async def test_a_policy_that_kafka_would_not_take_is_refused(policies):
    text = policy_text() + "#" + "ü" * 460_000
    with pytest.raises(PolicyRefusedError, match="longer than 900,000 bytes"):
        await policies.checked(stated(text, "shadow", 1).state)


def test_an_older_state_that_comes_again_changes_nothing():
    table, text = PolicyTable(), policy_text()
    assert table.apply(state_of(text, "active", 2))
    assert not table.apply(state_of(text, "shadow", 1))
    assert not table.apply(state_of(text, "rolled-back", 2))
    assert table.active.revision == 2


async def test_the_loop_turns_while_a_policy_is_compiled(policies):
    policies._compiles = compiled
    turns, longest, last = 0, 0.0, time.monotonic()

    async def beat():
        nonlocal turns, longest, last
        while True:
            await asyncio.sleep(0.001)
            moment = time.monotonic()
            turns, longest, last = turns + 1, max(longest, moment - last), moment

    beating = asyncio.create_task(beat())
    patterns = [rf"\bword{n} (of|for|in) \w+ing {n}\b" for n in range(400)]
    await tell(
        policies, stated(policy_text(match={"patterns": {"any": [r"\bfake passports\b", *patterns]}}), "shadow", 1)
    )
    beating.cancel()
    assert policies.shadow is not None
    assert turns >= 3, "it went on while the policy was tried"


CASES = [
    Case(MailParts("", (TextPart("text", "Buy fake passports here"),)), "email"),
    Case(MailParts("", (TextPart("text", "Please bring your passport"),)), "email"),
]


@pytest.mark.parametrize(("then", "action"), [("hold", "hold"), ("allow", "allow")])
def test_over_its_cap_a_rule_does_what_the_policy_says(then, action):
    policy = parse_policy(policy_text(cap={"messages_per_day": 1, "then": then}).encode())
    screener = Screener(policy)
    assert [found.action for found in screener.screen(CASES)] == ["block", "allow"]
    over = [case._replace(context=case.context.__class__(capped=frozenset(["crime.papers"]))) for case in CASES]
    first, second = screener.screen(over)
    assert (first.action, first.capped, second.action, second.capped) == (action, ("crime.papers",), "allow", ())
    assert first.features["capped.crime.papers"] == 1
    assert "capped.crime.papers" not in second.features


def test_a_cap_that_changes_nothing_is_refused():
    with pytest.raises(Exception, match=r"line \d+, column \d+: rules.0: cap.then: the rule holds already; say allow"):
        parse_policy(policy_text(action="hold", cap={"messages_per_day": 5, "then": "hold"}).encode())


def test_a_share_is_outside_its_bound_only_with_enough_messages_and_confidence():
    bound = Bound(share_max=0.02, messages_min=1000)
    assert not outside(bound, 900, 999)
    assert not outside(bound, 25, 1000), "25 of 1000 may still be chance"
    assert outside(bound, 60, 1000)
    low = Bound(share_max=0.9, share_min=0.1)
    assert outside(low, 10, 1000)
    assert not outside(low, 90, 1000)
    assert wilson(0, 1000)[0] == 0.0


def test_rates_forget_what_is_two_stretches_ago():
    rates = Rates(stretch_messages=100)
    for _ in range(100):
        rates.add(["a"], ["a"])
    for _ in range(150):
        rates.add(["a"], [])
    assert rates.of("a") == (0, 150)
    assert rates.of("b") == (0, 0)
