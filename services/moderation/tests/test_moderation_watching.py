"""The shadow policy beside the one in force: counted in a turn of its own, by what the models have said already."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.events import PolicyStated
from common.events.screening import PolicyState
from common.security.signing import Signer
from common.telemetry.measuring import Counts
from common.testing.fakes import FakePublisher
from moderation.examination import Case
from moderation.features import HEADS
from moderation.lists import HashLists
from moderation.mail import MailParts, TextPart
from moderation.models.bank import Scores
from moderation.policy.life import PolicyTable
from moderation.policy.reading import parse_policy
from moderation.recent import RecentMessages
from moderation.screening import Screener
from moderation.watching import Watch

POLICY = """
id: small
version: 1
description: Scores alone
thresholds: {{spam: {{default: {threshold}}}}}
rules:
  - id: test.spam
    clause: R3.d
    tools: [email]
    description: Spam
    action: hold
    severity: 1
    owner: tests
    when: over.spam
    matches: [{{text: Buy now, scores: {{spam: 0.99}}}}]
    passes: [{{text: Good day, scores: {{spam: 0.01}}}}]
"""


@dataclass
class Begun:
    texts: list
    waiting: dict


@dataclass
class SlowScorer:
    """Says 0.7 for spam of every text, in a time; notes what it was asked."""

    asked: list = field(default_factory=list)
    digest: str = "model@sha256:0"

    def begin(self, texts):
        return Begun(list(texts), dict(enumerate(texts)))

    def score_foreign(self, texts):
        return [Scores({"spam": 0.7}, ("spam",)) for _ in texts]

    def finish(self, begun, *, hurried=False):
        assert not hurried, "what is known is not asked again"
        self.asked += begun.texts
        by_head = dict.fromkeys(HEADS, 0.001) | {"spam": 0.7}
        return [Scores(by_head, ("linear", "encoder")) for _ in begun.texts]


def policy(threshold):
    return parse_policy(POLICY.format(threshold=threshold).encode(), "re2")


def watch_of(screener, shadow, policies=None):
    return Watch(
        policies or SimpleNamespace(shadow=shadow), screener, RecentMessages(), publisher=FakePublisher(),
        signer=Signer("verdict", Ed25519PrivateKey.generate()), effects=Counts(), differences=Counts(),
    )  # fmt: skip


def cases(*texts):
    return [Case(MailParts("", (TextPart("text", text),)), "email") for text in texts]


async def compare(watch, screener, some, accounts):
    screening = screener.begin(some)
    decisions = screening.decisions()
    await watch.compare(screener.policy, accounts, some, decisions, screening.said)
    return decisions


async def test_the_shadow_is_judged_by_the_scores_of_the_policy_in_force():
    scorer = SlowScorer()
    screener = Screener(policy(0.9), scorer)
    watch = watch_of(screener, policy(0.5))
    texts = [
        "Please send me the offer for the new office",
        "This is the number of the order that you have with us: " + "x" * 5000,
    ]
    decisions = await compare(watch, screener, cases(*texts), ["one", "two"])
    assert [found.action for found in decisions] == ["allow", "allow"]
    assert watch.comparison.newly_stopped.total() == len(scorer.asked), "every text that models read is over 0.5"
    assert len(scorer.asked) == len(set(scorer.asked)) > 0


async def test_the_loop_turns_between_the_policy_in_force_and_its_shadow():
    screener = Screener(policy(0.9))
    watch = watch_of(screener, policy(0.5))
    turned = asyncio.Event()
    asyncio.get_running_loop().call_soon(turned.set)
    screening = screener.begin(cases("Good day"))
    comparing = asyncio.ensure_future(
        watch.compare(screener.policy, ["one"], cases("Good day"), screening.decisions(), screening.said)
    )
    await asyncio.sleep(0)
    assert turned.is_set()
    assert watch.comparison.messages == 0, "the shadow waits for its turn"
    await comparing
    assert watch.comparison.messages == 1


BOUNDED = """
id: bounded
version: 1
description: A rule with a bound
rules:
  - id: test.word
    clause: R3.d
    tools: [email]
    description: A word
    action: hold
    severity: 1
    owner: tests
    match: {patterns: {any: [badword]}}
    bound: {share_max: 0.02, messages_min: 100}
    matches: [a badword]
    passes: [Good day]
"""


class Topic:
    """Policies of the topic, as far as a policy is taken back."""

    def __init__(self, policy):
        self.policy, self.table, self.shadow, self.reasons = policy, PolicyTable(), None, []
        self.state("active")

    def state(self, status):
        told = PolicyState(
            policy=self.policy.name, text=BOUNDED, status=status, revision=self.table.revision + 1, reason="",
            decided_by="person", changed_at="2026-11-22T18:00:00.000Z",
        )  # fmt: skip
        self.table.apply(told)
        return told

    def take_back(self, policy, reason, signer):
        if self.table.states[policy.name].status != "active":
            return None
        self.reasons.append(reason)
        return PolicyStated(state=signer.sign([self.state("rolled-back").statement()])[0])


@pytest.fixture
def flood():
    screener = Screener(parse_policy(BOUNDED.encode(), "re2"))
    topic = Topic(screener.policy)
    watch = watch_of(screener, None, topic)

    async def judge(batches, before_each=lambda: None):
        for _ in range(batches):
            before_each()
            some = cases(*["a badword"] * 50)
            await watch.begin(None, screener.policy, datetime.now(UTC))
            watch.judged(screener.policy, some, screener.screen(some))
            await watch.end(None)

    return screener, topic, judge


async def test_a_policy_that_is_active_again_is_taken_back_again(flood):
    _, topic, judge = flood
    await judge(10)
    assert len(topic.reasons) == 1
    topic.state("shadow")
    topic.state("active")
    await judge(1)
    assert len(topic.reasons) == 1, "what it did before is not held against it"
    await judge(10)
    assert len(topic.reasons) == 2


async def test_a_change_of_lists_does_not_begin_rates_anew(flood):
    screener, topic, judge = flood

    def another_list():
        screener.lists = HashLists(addresses=frozenset([os.urandom(8)]))

    await judge(10, another_list)
    assert len(topic.reasons) == 1


async def test_without_a_shadow_nothing_is_asked():
    screener = Screener(policy(0.9))
    watch = watch_of(screener, None)
    await compare(watch, screener, cases("Good day"), ["one"])
    assert watch.comparison.messages == 0


async def test_lists_stand_beside_the_shadow_too_and_it_is_made_once():
    screener = Screener(policy(0.9))
    watch = watch_of(screener, policy(0.5))
    await compare(watch, screener, cases("Good day"), ["one"])
    beside = watch._beside
    screener.lists = HashLists(addresses=frozenset([bytes(8)]))
    await compare(watch, screener, cases("Good day"), ["one"])
    assert watch._beside is beside
    assert beside.policy.lists is screener.lists
