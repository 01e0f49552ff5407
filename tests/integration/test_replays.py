"""Verdicts are reached again by message id, in samples, and over what was admitted: on the running road."""

from __future__ import annotations

import asyncio
import json

import pytest
import yaml
from on_the_road import run_command, wait_until_settled

from common.times import now
from waystation.rehearsal import items
from waystation.stack import checkout_folder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def sent(road):
    """Messages that have verdicts; their ids and the account's."""
    account = road.create_account(f"Replays {now().timestamp()}")
    admitted = asyncio.run(road.send(account, items([f"replay{number}@kunden.example" for number in range(5)])))
    ids = [one.message_id for one in admitted]
    wait_until_settled(road.stack, ids)
    return account.account_id, ids


def test_a_verdict_is_reached_again_by_message_id_from_features_and_from_content(road, sent):
    for message_id in sent[1]:
        answer = run_command(road.stack, "replay", message_id)
        assert (answer["outcome"], answer["content"], answer["differences"]) == ("same", "compared", [])


def test_a_sample_is_replayed_now_as_each_night(road, sent):
    answer = run_command(road.stack, "replay", "--sample", "50")
    assert answer["verdicts"] >= len(sent[1])
    assert answer["differing"] == []
    assert set(answer["outcomes"]) <= {"same", "not-replayed"}


def test_a_message_without_a_verdict_is_a_refusal_with_its_reason(road):
    refused = run_command(road.stack, "replay", "0199a1b2-0000-7000-8000-000000000000", status=1, as_json=False)
    assert "no verdict on this message" in refused


def test_a_policy_is_backtested_over_what_was_admitted(road, sent, tmp_path):
    """What would newly be held, by clause and account, against the verdicts that were reached."""
    document = yaml.safe_load((checkout_folder() / "deploy" / "policies" / "road.yaml").read_text("utf-8"))
    everything = {
        "id": "tests.everything", "clause": "R5.1", "tools": ["email"], "description": "Every mail",
        "action": "hold", "severity": 1, "owner": "tests", "when": "text.characters > 0",
        "matches": ["x"], "passes": [{"attachments": [{"filename": "a.txt"}]}],
    }  # fmt: skip
    file = tmp_path / "everything.yaml"
    file.write_text(json.dumps({**document, "rules": [*document["rules"], everything]}))
    told = run_command(
        road.stack, "policy", "backtest", str(file), "--intake", "--messages", "2000", "--workers", "1", as_json=False
    )
    lines = [line.split() for line in told.splitlines()]
    assert int(lines[0][1].replace(",", "")) >= len(sent[1])
    assert ["R5.1", sent[0], str(len(sent[1]))] in lines
