"""The shadow policy beside the one in force: counted in a turn of its own, by what the models have said already."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.security.signing import Signer
from common.telemetry.measuring import Counts
from common.testing.fakes import FakePublisher
from moderation.examination import Case
from moderation.features import HEADS
from moderation.lists import HashLists
from moderation.mail import MailParts, TextPart
from moderation.models.bank import Scores
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


def watch_of(screener, shadow):
    return Watch(
        SimpleNamespace(shadow=shadow), screener, RecentMessages(), publisher=FakePublisher(),
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
