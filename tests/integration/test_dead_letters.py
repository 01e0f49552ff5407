"""`waystation dlq` on real Kafka: dead letters as a group writes them, listed, shown, replayed and discarded."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from on_the_road import stack_of_its_own

from common.kafka.topics import dlq_name
from waystation.stack.kafka import client_options

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

SOURCE, GROUP = "intake.messages", "moderation.screening"
TOPIC = dlq_name(SOURCE, GROUP)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    with stack_of_its_own(tmp_path_factory.mktemp("letters")) as running:
        yield running


def options(stack, principal):
    access = stack.kafka_credentials(principal)
    return client_options(access.bootstrap, access.username, access.password)


def dead_letter(stack, value, *, key=b"rt_1", reason="value: the record is empty", partition=3, topic=SOURCE):
    """Write what a group writes when it gives up, with that group's own rights; return the offset."""
    offsets = []
    producer = Producer({**options(stack, "moderation"), "message.max.bytes": 2_000_000})
    headers = [
        ("ce_type", b"\xff no text"),
        ("dlq_reason", reason.encode()),
        ("dlq_topic", topic.encode()),
        ("dlq_partition", str(partition).encode()),
        ("dlq_offset", b"9"),
        ("dlq_group", GROUP.encode()),
    ]
    producer.produce(
        TOPIC, value, key, headers=headers, on_delivery=lambda error, message: offsets.append((error, message.offset()))
    )
    assert producer.flush(20) == 0
    ((error, offset),) = offsets
    assert error is None
    return offset


def source_records(stack, partition=3):
    consumer = Consumer({**options(stack, "operator"), "group.id": "test", "enable.partition.eof": True})
    consumer.assign([TopicPartition(SOURCE, partition, 0)])
    found = []
    try:
        while (message := consumer.poll(10.0)) is not None and message.error() is None:
            found.append(message)
    finally:
        consumer.close()
    return found


def command(stack, *arguments, status=0, as_json=True):
    done = subprocess.run(
        [sys.executable, "-m", "waystation", "dlq", *arguments, *(["--json"] if as_json else [])],
        env={**os.environ, "WAYSTATION_HOME": str(stack.layout.home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    text = done.stderr if status and not done.stdout else done.stdout
    return json.loads(text) if as_json else text


def summary(stack):
    return next(one for one in command(stack, "list") if one["topic"] == TOPIC)


def test_dead_letters_are_listed_shown_replayed_and_discarded(stack):
    first = dead_letter(stack, b"\x00 not json", reason="value: Invalid JSON")
    second = dead_letter(stack, None, key=b"")
    large = dead_letter(stack, b"x" * 900_000, reason="value: Invalid JSON")

    listed = summary(stack)
    assert (listed["open"], listed["handled"], listed["scanned_all"]) == (3, 0, True)
    assert listed["reasons"] == {"value: Invalid JSON": 2, "value: the record is empty": 1}

    shown = command(stack, "show", TOPIC)
    assert [one["size_bytes"] for one in shown] == [10, 0, 900_000]
    assert shown[0]["source"] == f"{SOURCE} 3:9"
    assert len(shown[2]["preview"]) == 200
    assert "not json" in command(stack, "show", TOPIC, "--offset", f"0:{first}", "--limit", "1", as_json=False)

    before = len(source_records(stack))
    assert command(stack, "replay", TOPIC, "--offset", str(first)) == {"replayed": 1, "refused": []}
    replayed = source_records(stack)[before:]
    assert [(one.key(), one.value()) for one in replayed] == [(b"rt_1", b"\x00 not json")]
    assert replayed[0].headers() == [
        ("ce_type", b"\xff no text"),
        ("dlq_replayed_from", f"{TOPIC}:0:{first}".encode()),
    ]

    assert "was replayed before" in command(stack, "replay", TOPIC, "--offset", str(first), status=1)["error"]
    assert command(stack, "discard", TOPIC, "--offset", str(second)) == {"discarded": 1}
    assert [one["offset"] for one in command(stack, "show", TOPIC)] == [large]
    assert command(stack, "replay", TOPIC, "--all") == {"replayed": 1, "refused": []}
    assert [len(one.value()) for one in source_records(stack)[before:]] == [10, 900_000]
    assert (summary(stack)["open"], summary(stack)["handled"]) == (0, 3)
    assert [one["handled"] for one in command(stack, "show", TOPIC, "--all")] == ["replayed", "discarded", "replayed"]


def test_an_empty_record_is_replayed_as_an_empty_record(stack):
    offset = dead_letter(stack, None, key=b"", partition=5)
    command(stack, "replay", TOPIC, "--offset", str(offset))
    (record,) = source_records(stack, partition=5)
    assert (record.key(), record.value()) == (None, None)


def test_a_dead_letter_that_names_another_source_is_refused_and_stays_open(stack):
    offset = dead_letter(stack, b"{}", topic="screening.verdicts")
    done = command(stack, "replay", TOPIC, "--all", status=1)
    assert (done["replayed"], len(done["refused"])) == (0, 1)
    assert [one["offset"] for one in command(stack, "show", TOPIC)] == [offset]
    assert command(stack, "discard", TOPIC, "--all") == {"discarded": 1}


def test_a_command_without_a_choice_of_records_or_with_an_unknown_topic_says_what_to_do(stack):
    assert "say which records" in command(stack, "replay", TOPIC, status=1)["error"]
    assert TOPIC in command(stack, "show", "nothing.dlq", status=1)["next"]
    assert "PARTITION:OFFSET" in command(stack, "show", TOPIC, "--offset", "7", status=1)["error"]


def test_without_kafka_the_command_says_where_it_looked(stack):
    stack.kill_kafka()
    try:
        assert str(stack.port("kafka")) in command(stack, "list", status=1)["error"]
    finally:
        stack.start_kafka()
