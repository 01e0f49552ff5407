"""A batch in the service: what is done while slower models read, and what may not be."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.security.signing import Signer
from common.telemetry.measuring import Counts
from common.testing.admitted import admitted_messages, new_door_keys
from common.testing.fakes import FakePublisher, FakeVault
from moderation.features import HEADS
from moderation.handlers import CAPPED_MESSAGES, YIELD_MESSAGES, on_message_admitted
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
thresholds: {spam: {default: 0.5}}
rules:
  - id: test.spam
    clause: R3.d
    tools: [email]
    description: Spam
    action: block
    severity: 1
    owner: tests
    when: over.spam
    matches: [{text: Buy now, scores: {spam: 0.99}}]
    passes: [{text: Good day, scores: {spam: 0.01}}]
"""
CAP = "    cap: {messages_per_day: 10, then: hold}\n"
SECONDS_MAX = 10.0


class Connection:
    """PostgreSQL that has nothing yet and keeps what it is given."""

    async def fetch(self, query, *columns):
        return [{"message_id": message_id} for message_id in columns[0]] if "INSERT" in query else []

    async def execute(self, query, *columns):
        pass

    async def fetchval(self, query, *columns):
        return 0


class Pool:
    @asynccontextmanager
    async def acquire(self):
        yield Connection()


@dataclass
class Begun:
    texts: list
    waiting: dict


@dataclass
class SlowScorer:
    """Says how likely spam is by the text itself; the first time it has been asked it waits for the second."""

    seconds: float = SECONDS_MAX
    digest: str = "model@sha256:0"
    looked_on: bool = False
    begun: int = 0
    finished: int = 0
    _again: threading.Event = field(default_factory=threading.Event)

    def begin(self, texts):
        self.begun += 1
        if self.begun > 1:
            self._again.set()
        return Begun(list(texts), dict(enumerate(texts)))

    def finish(self, begun, *, hurried=False):
        assert not hurried
        self.finished += 1
        if self.finished == 1 and self.seconds:
            self.looked_on = self._again.wait(self.seconds)
        return [
            Scores(dict.fromkeys(HEADS, 0.9 if "spam" in text else 0.1), ("linear", "encoder")) for text in begun.texts
        ]


async def actions_of(texts, screener):
    keys, vault, publisher = new_door_keys(), FakeVault(), FakePublisher()
    messages = admitted_messages(keys, [f"Subject: x\r\n\r\n{text}\r\n".encode() for text in texts])
    vault.knows(messages)
    signer = Signer("verdict", Ed25519PrivateKey.generate())
    watch = Watch(
        SimpleNamespace(shadow=None, table=PolicyTable()), screener, RecentMessages(), publisher=publisher,
        signer=signer, effects=Counts(), differences=Counts(),
    )  # fmt: skip
    await on_message_admitted(
        [message.received(number) for number, message in enumerate(messages)], pool=Pool(), vault=vault,
        publisher=publisher, signer=signer, instruction_keys=keys.trusted, screener=screener, watch=watch,
    )  # fmt: skip
    said = [orjson.loads(record.value)["verdict"]["statement"] for record in publisher.records]
    assert [one["message_id"] for one in said] == [message.message_id for message in messages]
    return [one["action"] for one in said]


async def test_while_slower_models_read_the_next_messages_are_looked_at():
    scorer = SlowScorer()
    texts = [f"please read the {kind} of our team" for kind in ["spam", "offer", "spam"] * YIELD_MESSAGES]
    actions = await actions_of(texts, Screener(parse_policy(POLICY.encode(), "re2"), scorer))
    assert scorer.looked_on
    assert actions == ["block", "allow", "block"] * YIELD_MESSAGES


async def test_what_a_cap_has_left_is_known_of_the_next_messages():
    texts = ["please read the spam of our team"] * 2 * CAPPED_MESSAGES
    screener = Screener(parse_policy((POLICY + CAP).encode(), "re2"), SlowScorer(seconds=0))
    actions = await actions_of(texts, screener)
    assert (actions.count("block"), actions.count("hold")) == (CAPPED_MESSAGES, CAPPED_MESSAGES)
