"""Records that no service can read, on a road that carries genuine ones: each lands alone in the group's dead letters.

What is around them passes; an operator lists, shows, discards, corrects and replays them by command.
"""

from __future__ import annotations

import asyncio
import json
import re

import orjson
import pytest
from confluent_kafka import TopicPartition
from on_the_road import REGISTRY, Place, delivery_state, run_command, wait_for, wait_until_settled

from common.events import MessageAdmitted, VerdictReached
from common.kafka.records import Record
from common.kafka.topics import dlq_name
from common.times import now
from waystation.ledger import read_ledger
from waystation.operator import ServiceClient
from waystation.rehearsal import items

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

LARGE_BYTES = 900_000
WHY = ("dlq_reason", "dlq_topic", "dlq_partition", "dlq_offset", "dlq_group", "dlq_time")
SIDES = {
    "intake.messages": ("moderation.screening", "ingestion", MessageAdmitted.TYPE),
    "screening.verdicts": ("routing.planning", "moderation", VerdictReached.TYPE),
}
"""Topic to the group that reads it, the principal that writes it, and the type it carries."""


def headers(kind, **others):
    return (("ce_specversion", b"1.0"), ("ce_type", kind), *others.items())


def broken_records(topic):
    """Records that break the contract, each with the beginning of the reason that must stand beside it."""
    kind, key = SIDES[topic][2].encode(), b"rt_broken"
    value = orjson.dumps({"instruction": 7, "verdict": 7, "message": {"instruction": None}})
    cases = {
        "not json": (key, b"\x00\xff no json", headers(kind), "value: Invalid JSON"),
        "other json": (key, b"[1, 2]", headers(kind), "value: "),
        "breaks the schema": (key, value, headers(kind), "(instruction|verdict|message)[.a-z]*: "),
        "900 KB of no json": (key, b"x" * LARGE_BYTES, headers(kind), "value: Invalid JSON"),
        "900 KB that break the schema": (
            key,
            b'{"sealed":"' + b"A" * LARGE_BYTES + b'"}',
            headers(kind),
            "(instruction|verdict): ",
        ),
        "empty": (key, None, headers(kind), "value: the record is empty"),
        "empty without a key": (None, None, headers(kind), "value: the record is empty"),
        "zero bytes": (key, b"", headers(kind), "value: the record is empty"),
        "broken type": (key, b"{}", headers(b"intake.message.admitted.v9\x07"), "ce_type: expected .*found 'intake"),
        "no header at all": (key, b"{}", (), "ce_type: expected .*found none"),
        "a type that is no UTF-8": (key, b"{}", headers(b"\xff\xfe\xfa"), "ce_type: expected "),
        "a type without a value": (key, b"{}", headers(None), "ce_type: expected .*found none"),
        "another header that is no UTF-8": (key, b"{}", headers(kind, traceparent=b"\xff\x00\xfe"), "[a-z.]+: "),
    }
    return {name: (Record(topic, *case[:3]), case[3]) for name, case in cases.items()}


@pytest.fixture(scope="module")
def account(road):
    return road.create_account(f"Dead letters {now().timestamp()}")


def send(road, account, recipient, count, tag):
    """Send messages to one recipient: they share a partition, in which their order is kept."""
    load = items([recipient] * count, tag=tag)
    return [one.message_id for one in asyncio.run(road.send(account, load))]


def partition_of(bus, topic, message_id):
    wait_for(lambda: any(message_id.encode() in (one.value() or b"") for one in bus.read(topic)), "the record is there")
    return next(one.partition() for one in bus.read(topic) if message_id.encode() in (one.value() or b""))


def letters_of(bus, topic, places):
    """The dead letters of records, by the place where those stood."""
    group = SIDES[topic][0]
    found = {}
    for letter in bus.read(dlq_name(topic, group)):
        told = dict(letter.headers())
        if told.get("dlq_offset", b"").isdigit():
            place = Place(topic, int(told["dlq_partition"]), int(told["dlq_offset"]))
            found.setdefault(place, []).append(letter)
    return {place: found.get(place, []) for place in places}


@pytest.mark.parametrize("topic", SIDES)
def test_a_broken_record_lands_in_the_dead_letters_alone_and_untouched(topic, road, bus, account):
    group, writer, _ = SIDES[topic]
    cases, recipient = broken_records(topic), f"around.{writer}@kunden.example"
    genuine = send(road, account, recipient, 2, f"before-{writer}-")
    partition = partition_of(bus, topic, genuine[0])
    letters_before = bus.ends(dlq_name(topic, group))[0][1]

    places = []
    for number, (record, _) in enumerate(cases.values()):
        places += bus.written(writer, [record], partition=partition)
        genuine += send(road, account, recipient, 1, f"between-{writer}-{number}-")
    genuine += send(road, account, recipient, 2, f"after-{writer}-")

    assert set(wait_until_settled(road.stack, genuine).values()) == {"handed_over"}
    bus.wait_until_caught_up()
    assert bus.ends(dlq_name(topic, group))[0][1] == letters_before + len(cases), "nothing else was given up"
    letters = letters_of(bus, topic, places)
    for (name, (record, reason)), place in zip(cases.items(), places, strict=True):
        (letter,) = letters[place]
        assert letter.value() == record.value, name
        assert letter.key() == (record.key or b""), name
        count = len(record.headers)
        assert tuple((letter.headers() or ())[:count]) == record.headers, name
        told = letter.headers()[count:]
        assert tuple(header for header, _ in told) == WHY, name
        told = {header: value.decode() for header, value in told}
        assert re.match(reason, told["dlq_reason"]), (name, told["dlq_reason"])
        assert (told["dlq_topic"], told["dlq_group"]) == (topic, group)
        assert (told["dlq_partition"], told["dlq_offset"]) == (str(place.partition), str(place.offset))
    with ServiceClient(road.stack) as operator:
        assert read_ledger(operator).balanced


def test_dead_letters_are_listed_shown_and_discarded_by_command(road, bus):
    stack, topic = road.stack, dlq_name("intake.messages", "moderation.screening")
    broken = broken_records("intake.messages")["breaks the schema"][0]
    (place,) = bus.written("ingestion", [broken])
    wait_for(lambda: letters_of(bus, "intake.messages", [place])[place], "the group gives it up")
    ((letter,),) = letters_of(bus, "intake.messages", [place]).values()

    listed = {one["topic"]: one for one in run_command(stack, "dlq", "list")}
    others = {name for name in listed if name.startswith("tests.")}  # of other tests, while Kafka takes them away
    assert listed.keys() - others == {dlq.name for dlq in REGISTRY.dlqs}
    reason = dict(letter.headers())["dlq_reason"].decode()
    assert reason in listed[topic]["reasons"]
    start = f"{letter.partition()}:{letter.offset()}"
    (shown,) = run_command(stack, "dlq", "show", topic, "--offset", start, "--limit", "1")
    assert (shown["reason"], shown["source"]) == (reason, f"{place.topic} {place.partition}:{place.offset}")
    assert shown["preview"].startswith(json.dumps({"instruction": 7}, separators=(",", ":"))[:-1])

    open_before = listed[topic]["open"]
    done = run_command(stack, "dlq", "discard", topic, "--offset", str(letter.offset()))
    assert done == {"discarded": 1}
    listed = {one["topic"]: one for one in run_command(stack, "dlq", "list")}
    assert listed[topic]["open"] == open_before - 1
    assert [one for one in bus.read(topic) if one.offset() == letter.offset()], "it stays in Kafka until retention"


def test_a_message_whose_record_a_producer_broke_goes_down_the_road_after_a_correction(road, bus, account):
    """Only the broken copy exists: what the door wrote is deleted while nobody reads it."""
    stack, topic = road.stack, "intake.messages"
    bus.wait_until_caught_up()
    stack.stop_service("moderation")
    try:
        (message_id,) = send(road, account, "corrected@kunden.example", 1, "corrected-")
        partition = partition_of(bus, topic, message_id)
        genuine = next(one for one in bus.read(topic) if message_id.encode() in (one.value() or b""))
        wrong = tuple((name, b"intake.mesage.admited.v1" if name == "ce_type" else v) for name, v in genuine.headers())
        (place,) = bus.written("ingestion", [Record(topic, genuine.key(), genuine.value(), wrong)], partition=partition)
        delete_before(stack, place)
    finally:
        stack.start_service("moderation")
    wait_for(lambda: letters_of(bus, topic, [place])[place], "the broken copy is given up")
    ((letter,),) = letters_of(bus, topic, [place]).values()
    dlq = letter.topic()
    with ServiceClient(stack) as operator:
        assert delivery_state(operator, message_id) is None
        assert in_flight(operator, account) == 1, "the equation knows where the message is missing"

        again = run_command(stack, "dlq", "replay", dlq, "--offset", str(letter.offset()))
        assert again == {"replayed": 1, "refused": []}
        second = wait_for(lambda: letter_after(bus, letter), "unchanged it is given up again")

        correction = f"ce_type={MessageAdmitted.TYPE}"
        done = run_command(stack, "dlq", "replay", dlq, "--offset", str(second.offset()), "--header", correction)
        assert done == {"replayed": 1, "refused": []}
        assert wait_until_settled(stack, [message_id]) == {message_id: "handed_over"}
        assert in_flight(operator, account) == 0
        assert read_ledger(operator).balanced
    marks = {"dlq_corrected": b"ce_type", "dlq_replayed_from": f"{dlq}:{second.partition()}:{second.offset()}".encode()}
    (corrected,) = [one for one in bus.read(topic) if one.headers() and set(marks.items()) <= set(one.headers())]
    assert (corrected.partition(), corrected.key(), corrected.value()) == (partition, genuine.key(), genuine.value())
    assert dict(corrected.headers()) == {**dict(genuine.headers()), **marks}
    assert [mail.rcpt_to for mail in road.recorded()].count("corrected@kunden.example") == 1


def letter_after(bus, letter):
    """The dead letter that a replay of another came to."""
    mark = f"{letter.topic()}:{letter.partition()}:{letter.offset()}".encode()
    found = [one for one in bus.read(letter.topic()) if ("dlq_replayed_from", mark) in (one.headers() or ())]
    return found[0] if found else None


def delete_before(stack, place):
    """Take everything before a record out of its partition."""
    admin = stack.kafka_admin()
    (deleted,) = admin.delete_records([TopicPartition(place.topic, place.partition, place.offset)]).values()
    deleted.result(15)


def in_flight(operator, account):
    (balance,) = [one for one in read_ledger(operator).accounts if one.account_id == account.account_id]
    return balance.in_flight
