"""What an operator sees with Kafka's and other people's tools: readable events, groups under meaningful names, JSON."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import uuid
from datetime import datetime

import pytest
from on_the_road import GROUPS, run_command, wait_for, wait_until_settled

from common.events import VerdictReached
from common.times import now
from waystation.rehearsal import items

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

KCAT = shutil.which("kcat") or shutil.which("kafkacat")


@pytest.fixture(scope="module")
def sent(road):
    """Three messages that were handed over; their ids, and the account's."""
    account = road.create_account(f"Operators {now().timestamp()}")
    admitted = asyncio.run(road.send(account, items([f"seen{number}@kunden.example" for number in range(3)])))
    ids = [one.message_id for one in admitted]
    assert set(wait_until_settled(road.stack, ids).values()) == {"handed_over"}
    return account.account_id, ids


@pytest.mark.skipif(KCAT is None, reason="kcat is not installed: apt-get install kcat")
def test_kcat_shows_readable_events(road, sent, tmp_path):
    config = tmp_path / "operator.conf"
    run_command(road.stack, "kafka", "config", "operator", "--write", str(config))
    assert config.stat().st_mode & 0o077 == 0, "it holds a password"
    done = subprocess.run(
        [KCAT, "-F", str(config), "-t", "screening.verdicts", "-C", "-e", "-q", "-o", "beginning", "-J"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    told = {}
    for line in done.stdout.splitlines():
        if not any(message_id.encode() in line for message_id in sent[1]):
            continue  # other tests write what is no event
        record = json.loads(line)
        headers = dict(zip(record["headers"][::2], record["headers"][1::2], strict=True))
        told[headers["ce_id"]] = (headers, record)
    for message_id in sent[1]:
        headers, record = told[f"{message_id}.verdict"]
        assert headers["ce_specversion"] == "1.0"
        assert headers["ce_type"] == VerdictReached.TYPE
        assert headers["ce_source"] == "waystation/moderation"
        assert headers["content-type"] == "application/json"
        assert datetime.fromisoformat(headers["ce_time"]).tzinfo is not None
        assert headers["ce_subject"] == record["key"]
        body = json.loads(record["payload"])
        assert body["verdict"]["statement"]["action"] == "allow"
        assert body["verdict"]["statement"]["message_id"] == message_id
        assert body["message"]["instruction"]["statement"]["recipient_token"] == record["key"]
        assert uuid.UUID(message_id)


def test_consumer_groups_stand_under_meaningful_names_with_their_lag(road, bus, sent):
    bus.wait_until_caught_up()
    text = run_command(road.stack, "kafka", "consumer-groups", "--describe", "--all-groups", as_json=False)
    rows = [line.split() for line in text.splitlines() if line.split()[:1] and line.split()[0] in GROUPS]
    lags = {}
    for group, topic, partition, _, _, lag, member, *_ in rows:
        assert topic == GROUPS[group]
        lags[group, int(partition)] = int(lag)
        assert member.startswith(group.partition(".")[0] + "-1"), "a member is known by its process"
    assert {group for group, _ in lags} == set(GROUPS)
    assert set(lags.values()) == {0}


def test_a_group_that_stands_still_is_seen_by_its_lag(road, sent):
    stack = road.stack
    stack.stop_service("routing")
    try:
        asyncio.run(road.send(road.create_account(f"Lag {now().timestamp()}"), items(["late@kunden.example"] * 2)))

        def lag():
            arguments = ("kafka", "consumer-groups", "--describe", "--group", "routing.planning")
            lines = [line.split() for line in run_command(stack, *arguments, as_json=False).splitlines()]
            return sum(int(line[5]) for line in lines if line[:1] == ["routing.planning"] and line[5].isdecimal())

        assert wait_for(lag, "the lag of routing shows") == 2
    finally:
        stack.start_service("routing", extra_env={"ROUTING_RETRY_SECONDS_FIRST": "0.5"})


def test_every_command_that_shows_something_also_shows_it_as_json(road, sent):
    account_id, (message_id, *_) = sent
    status = run_command(road.stack, "status", status=None)  # 1 while a service is not ready for a moment
    assert {one["name"] for one in status["components"]} >= {"kafka", "postgres", "routing-1"}
    plan = run_command(road.stack, "topics", "plan", status=None)  # 1 when other tests' topics stand beside
    assert all({"kind", "name", "detail"} <= set(change) for change in plan)
    commands = (
        ("dlq", "list"),
        ("dlq", "show", "intake.messages.moderation.screening.dlq"),
        ("complaints", "list"),
        ("standing", "show", account_id),
        ("kafka", "config", "operator"),
        ("doubt", "list"),
        ("ledger",),
        ("ledger", "--account", account_id),
        ("trace", message_id),
    )
    for arguments in commands:
        assert isinstance(run_command(road.stack, *arguments), list | dict), arguments


def test_an_error_as_json_names_what_to_do_next(road, sent):
    for arguments in (("trace", str(uuid.uuid4())), ("dlq", "show", "nothing.dlq"), ("kafka", "config", "nobody")):
        error = run_command(road.stack, *arguments, status=1)
        assert set(error) == {"error", "next"}, arguments
