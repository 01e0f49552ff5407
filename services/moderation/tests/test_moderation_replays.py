"""Replays inside the service: what is reached again, what differs and is told, and one night for all copies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from email.policy import SMTP
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.events.intake import VerifiedInstruction
from common.http.vault import VaultUnavailableError
from common.kafka.reading import Place
from common.security.signing import Signer, TrustedKeys
from common.telemetry.measuring import Counts
from common.testing.admitted import admitted_messages, new_door_keys
from common.testing.fakes import FakeVault
from moderation.backtesting import Judges, judge_mails
from moderation.examination import Case, Context
from moderation.handlers import _statement
from moderation.lists import HashLists
from moderation.mail import read_mail
from moderation.policies import Policies, PolicyKeys
from moderation.rejudging.hashes import listed_address
from moderation.replays import Replays
from moderation.screening import Screener
from moderation.store import ReplayedVerdict

DOOR = new_door_keys()
VERDICT_KEY = Ed25519PrivateKey.generate()
KEYS = TrustedKeys("verdict", [VERDICT_KEY.public_key()])
SLOW = Context(messages_per_minute=7.0, same_text_share=0.5)
NIGHT = datetime(2026, 11, 23, 3, 15, tzinfo=UTC)
CONTENT = b"Subject: offer\r\n\r\nOrder fake passports today.\r\n"


class Verdicts:
    """The database, as far as replays need it."""

    def __init__(self):
        self.kept, self.nights, self.ended = {}, set(), []

    async def some(self, message_ids):
        return [self.kept[one] for one in message_ids if one in self.kept]

    async def begin_night(self, night, _at):
        first = night not in self.nights
        self.nights.add(night)
        return first

    async def end_night(self, night, verdicts, differing):
        self.ended.append((night, verdicts, differing))


class Shelf:
    """Texts of policies."""

    def __init__(self):
        self.texts = {}

    async def text(self, name):
        return self.texts.get(name)


class Desk:
    """A service with three verdicts."""

    def __init__(self, policy, moment=NIGHT):
        self.screener, self.policy, self.verdicts, self.shelf = Screener(policy), policy, Verdicts(), Shelf()
        self.vault, self.topic, self.counts = FakeVault(), {}, Counts()
        self.messages = admitted_messages(DOOR, [CONTENT, b"Subject: hi\r\n\r\nYour order is sent.\r\n", b""])
        self.vault.knows(self.messages)
        for number, message in enumerate(self.messages):
            self.judge(message, number)
        self.replays = Replays(
            self.verdicts,
            Policies(self.screener, PolicyKeys(TrustedKeys("policy", []), KEYS), self.shelf),
            self.shelf,
            None,
            intake=self,
            vault=self.vault,
            instruction_keys=DOOR.trusted,
            verdict_keys=KEYS,
            counts=self.counts,
            clock=lambda: moment,
        )

    async def read(self, places):
        return {place: self.topic[place] for place in places if place in self.topic}

    async def draw(self, count, since):
        self.since = since
        return list(self.topic)[:count]

    def judge(self, message, number, context=SLOW, **changed):
        (decision,) = self.screener.screen([Case(read_mail(message.content), "email", context)])
        verified = VerifiedInstruction.verify(message.event, DOOR.trusted)
        said = _statement(verified, decision, self.policy.name, None, "2026-11-22T18:00:00.000Z") | changed
        signed = Signer("verdict", VERDICT_KEY).sign([said])[0]
        self.verdicts.kept[message.message_id] = ReplayedVerdict(message.message_id, signed, (0, number))
        self.topic[Place(0, number)] = message.event


@pytest.fixture
def desk(policy):
    return Desk(policy)


async def test_a_verdict_is_reached_again_from_its_features_and_these_from_the_content(desk):
    for message in desk.messages:
        found = await desk.replays.one(message.message_id)
        assert (found.outcome, found.content, found.differences) == ("same", "compared", ())
    assert await desk.replays.one("0199a1b2-0000-7000-8000-000000000000") is None


async def test_what_was_on_a_list_and_how_fast_the_account_was_are_taken_as_kept(policy):
    desk = Desk(policy)
    file = EmailMessage()
    file["Subject"] = "see https://bad.example/x"
    file.set_content("The page is https://bad.example/x and the catalogue is with it.\n")
    file.add_attachment(b"%PDF catalogue", maintype="application", subtype="pdf", filename="catalogue.pdf")
    desk.messages = admitted_messages(DOOR, [file.as_bytes(policy=SMTP)])
    desk.vault.knows(desk.messages)
    desk.screener.lists = HashLists(
        frozenset([listed_address("https://bad.example/")]), frozenset([sha256(b"%PDF catalogue").digest()[:8]])
    )
    fast = Context(messages_per_minute=500.0, same_text_share=0.9)
    desk.judge(desk.messages[0], 0, fast)
    (message,) = desk.messages
    features = desk.verdicts.kept[message.message_id].signed.statement["features"]
    assert {"links.listed", "attachments.listed", "match.malware.signature"} <= features.keys()
    found = await desk.replays.one(message.message_id)
    assert (found.outcome, found.content, found.differences) == ("same", "compared", ())
    desk.judge(message, 0, fast, features=features | {"links.count": 70_000})
    assert len((await desk.replays.one(message.message_id)).differences) == 1, "the rest is compared"


@pytest.mark.timeout(240)
def test_a_backtest_judges_by_the_lists_that_it_is_given(policy, tmp_path):
    file = tmp_path / "policy.yaml"
    file.write_text(policy.text, "utf-8")
    mails = [("email", b"Subject: hi\r\n\r\nThe new page is https://bad.example/x\r\n")]
    lists = HashLists(frozenset([listed_address("https://bad.example/")]))
    with Judges(file, None, None, 1).pool(lists) as processes:
        (judged,) = processes.submit(judge_mails, mails).result()
    assert judged.rules == ("phishing.listed-address",)


async def test_what_was_decided_otherwise_is_told(desk, caplog):
    desk.judge(desk.messages[0], 0, action="allow")
    found = await desk.replays.one(desk.messages[0].message_id)
    assert (found.outcome, found.differences) == ("differs", ("action: signed allow, now block",))
    sampled = await desk.replays.sample(10)
    assert (sampled.verdicts, len(sampled.differing)) == (3, 1)
    assert {point.values[0]: point.number for point in desk.counts.points()} == {"same": 2, "differs": 1}
    assert "is not reached again: action: signed allow, now block" in caplog.text


async def test_features_that_the_content_gives_otherwise_are_told(desk):
    features = desk.verdicts.kept[desk.messages[1].message_id].signed.statement["features"]
    desk.judge(desk.messages[1], 1, features=features | {"text.digits": 90_000})
    found = await desk.replays.one(desk.messages[1].message_id)
    assert found.outcome == "differs"
    assert found.differences == ("text.digits: signed 9.0000, now 0.0000",)


async def test_a_verdict_that_nobody_signed_is_told(desk):
    message = desk.messages[0].message_id
    kept = desk.verdicts.kept[message]
    forged = kept.signed.model_copy(update={"statement": kept.signed.statement | {"action": "allow"}})
    desk.verdicts.kept[message] = kept._replace(signed=forged)
    found = await desk.replays.one(message)
    assert found.outcome == "differs"
    assert "signature does not fit" in found.differences[0]


async def test_without_the_content_the_features_are_enough(desk):
    desk.topic.clear()
    assert (await desk.replays.one(desk.messages[0].message_id)).content == "gone"
    desk.topic = {Place(0, n): message.event for n, message in enumerate(desk.messages)}
    desk.vault.problems[desk.messages[0].message_id] = "erased"
    assert (await desk.replays.one(desk.messages[0].message_id)).content == "erased"
    desk.vault.outage = VaultUnavailableError("away")
    found = await desk.replays.one(desk.messages[0].message_id)
    assert (found.outcome, found.content) == ("same", "vault-away")


async def test_another_message_at_the_place_is_not_taken_for_it(desk):
    desk.topic[Place(0, 0)] = desk.messages[1].event
    assert (await desk.replays.one(desk.messages[0].message_id)).content == "gone"


async def test_another_engine_or_a_policy_that_is_gone_is_not_replayed(desk):
    desk.judge(desk.messages[0], 0, engine="waystation-screening/1")
    desk.judge(desk.messages[1], 1, policy="road@sha256:" + "0" * 64)
    for message in desk.messages[:2]:
        assert (await desk.replays.one(message.message_id)).outcome == "not-replayed"


async def test_an_earlier_policy_is_compiled_from_the_text_that_was_kept(desk):
    earlier = desk.policy.text.replace("\nversion: ", "\nversion: 9", 1)
    from moderation.policy.reading import parse_policy  # noqa: PLC0415

    desk.policy = parse_policy(earlier.encode())
    desk.judge(desk.messages[0], 0)
    desk.shelf.texts[desk.policy.name] = earlier
    assert (await desk.replays.one(desk.messages[0].message_id)).outcome == "same"


async def test_each_night_one_copy_replays_a_sample(desk, policy):
    assert (await desk.replays.look()).verdicts == 3
    assert await desk.replays.look() is None, "another look in the same night"
    assert desk.verdicts.ended == [(NIGHT.date(), 3, 0)]
    assert await Desk(policy, NIGHT.replace(hour=12)).replays.look() is None


async def test_a_sample_is_of_the_day_before_and_leaves_out_what_is_not_judged_yet(desk):
    del desk.verdicts.kept[desk.messages[2].message_id]
    sampled = await desk.replays.sample(10)
    assert desk.since == NIGHT - timedelta(days=1)
    assert (sampled.verdicts, sampled.outcomes, sampled.contents) == (2, {"same": 2}, {"compared": 2})
