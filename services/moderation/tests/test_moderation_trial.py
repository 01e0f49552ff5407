"""A policy tried in a process of its own: what it answers is what compiling here would."""

from __future__ import annotations

import sys

import pytest

from moderation import trial
from moderation.errors import PolicyError, TrialError
from moderation.examination import Case
from moderation.mail import MailParts, TextPart
from moderation.matching import preferred_backend
from moderation.policies import compiled
from moderation.policy.reading import parse_policy
from moderation.screening import Screener


@pytest.fixture(scope="session")
def road(policy):
    return policy


async def test_a_policy_that_was_tried_is_the_one_that_is_read(road):
    policy = await compiled(road.text)
    assert policy.document == road.document
    assert (policy.name, policy.text) == (road.name, road.text)
    assert policy.compiled.names == road.compiled.names
    assert (policy.bank.size, policy.bank.backend) == (road.bank.size, preferred_backend())
    cases = [Case(MailParts("", (TextPart("text", "Order fake passports here"),)), "email")]
    assert Screener(policy).screen(cases) == Screener(policy).screen(cases)


async def test_a_broken_policy_is_refused_with_place_and_reason(road):
    broken = road.text.replace("clause: R3.a", "clause: R9", 1)
    with pytest.raises(PolicyError) as here:
        parse_policy(broken.encode())
    with pytest.raises(PolicyError) as there:
        await compiled(broken)
    assert str(there.value) == str(here.value)


async def test_its_own_examples_are_part_of_the_trial_unless_a_replay_asks(road):
    rule = road.document.rules[0]
    broken = road.text.replace("    passes:\n", f"    passes:\n      - {rule.matches[0]!r}\n", 1)
    with pytest.raises(PolicyError, match=rf"rule {rule.id}: passes\[0\] matches"):
        await compiled(broken)
    assert (await compiled(broken, with_examples=False)).text == broken


async def test_a_trial_that_fails_says_nothing_of_the_policy(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TrialError, match="status 1"):
        await trial.tried("id: x")
    monkeypatch.setattr(sys, "executable", "/nowhere")
    with pytest.raises(TrialError, match="no process"):
        await trial.tried("id: x")


async def test_a_trial_has_a_time(monkeypatch):
    monkeypatch.setattr(trial, "SECONDS_MAX", 0.01)
    with pytest.raises(TrialError, match="longer than"):
        await trial.tried("id: x")
