"""The demo's script against what is shipped: its mails, composed as the door does, by the policy and the models."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ingestion.domain import Inbox
from ingestion.mail import final_mail
from ingestion.mime import Mailbox
from ingestion.submission import MessageItem
from moderation.examination import Case
from moderation.features import HEADS
from moderation.mail import read_mail
from moderation.models import ModelBank
from moderation.models.weights import WEIGHTS
from moderation.policy.reading import read_policy
from moderation.screening import Screener
from waystation.demo.messages import load_script

POLICY = Path(__file__).parents[2] / "deploy" / "policies" / "road.yaml"
ROOM_BELOW_THRESHOLD = 0.9


@pytest.fixture(scope="module")
def screener():
    return Screener(read_policy(POLICY), ModelBank.load(WEIGHTS))


def content_of(message, names):
    item = MessageItem.model_validate(message.item)
    return final_mail(
        item.content,
        inbox=Inbox("i", "email", item.inbox, names[item.inbox]),
        recipient=Mailbox(item.recipient.address, item.recipient.name),
        message_id="0192f0c1-0000-7000-8000-000000000000",
        date=datetime(2026, 11, 28, 9, 30, tzinfo=UTC),
        content_bytes_max=700_000,
        feedback_id="a:b:c:d",
    ).content


def test_every_mail_of_the_demo_is_judged_as_its_script_says_and_honest_ones_with_room_to_spare(screener):
    script = load_script()
    names = {inbox["address"]: inbox["display_name"] for one in script.businesses for inbox in one.inboxes}
    messages = [message for message in script.messages if message.door is None]
    cases = [Case(read_mail(content_of(message, names)), "email") for message in messages]
    decisions = screener.screen(cases)
    assert len(messages) == 100
    assert {m.key: d.action for m, d in zip(messages, decisions, strict=True)} == {m.key: m.action for m in messages}
    thresholds = screener.policy.thresholds["email"]
    close = [
        (message.key, head, score, threshold)
        for message, decision in zip(messages, decisions, strict=True)
        for head, score, threshold in zip(HEADS, decision.scores, thresholds, strict=True)
        if message.action == "allow" and score > ROOM_BELOW_THRESHOLD * threshold
    ]
    assert close == []
