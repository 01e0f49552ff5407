"""What tests do beside a running road: write to Kafka as one principal, read, wait until every group has caught up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from common.kafka.topics import load_registry
from waystation.errors import CommandError
from waystation.operator import ServiceClient
from waystation.stack import Stack, checkout_folder
from waystation.stack.kafka import client_options

PATIENCE_SECONDS = 60.0
KAFKA_SECONDS = 15.0
MOVING = {"planned", "handing"}

REGISTRY = load_registry(checkout_folder() / "deploy" / "topics.yaml")
GROUPS = {
    reader.group: topic.name
    for topic in REGISTRY.topics
    for reader in topic.readers
    if reader.group_or_none is not None
}


class Place(NamedTuple):
    """Where a record stands."""

    topic: str
    partition: int
    offset: int


@contextmanager
def stack_of_its_own(folder, *services):
    """Kafka, PostgreSQL and some services for one file of tests, taken down with all data at the end."""
    running = Stack.open(folder / "home")
    try:
        running.up_infra()
        for service in services:
            running.start_service(service)
        yield running
    finally:
        running.down(wipe=True)


def wait_for(question, what, seconds=PATIENCE_SECONDS):
    """Ask until the answer is true; return it."""
    ends = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < ends, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.05)
    return answer


class Bus:
    """Kafka, as whoever holds a principal's credentials sees it."""

    def __init__(self, stack):
        self._stack = stack
        self._producers = {}
        self._consumers = {}

    def close(self):
        for consumer in self._consumers.values():
            consumer.close()
        for producer in self._producers.values():
            producer.flush(KAFKA_SECONDS)

    def options(self, principal):
        access = self._stack.kafka_credentials(principal)
        return client_options(access.bootstrap, access.username, access.password)

    def write(self, principal, records, *, partition=-1, timestamp_ms=0):
        """Write records (topic, key, value, headers); return for each its place, or the error that refused it."""
        producer = self._producer(principal)
        outcomes = [None] * len(records)

        def note(number):
            def noted(error, message):
                place = Place(message.topic(), message.partition(), message.offset())
                outcomes[number] = place if error is None else error

            return noted

        for number, record in enumerate(records):
            try:
                producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    partition=partition,
                    headers=list(record.headers),
                    timestamp=timestamp_ms,
                    on_delivery=note(number),
                )
            except KafkaException as refused:  # the client remembers an earlier refusal
                outcomes[number] = refused.args[0]
        assert producer.flush(KAFKA_SECONDS) == 0, "Kafka did not answer in time"
        return outcomes

    def written(self, principal, records, *, partition=-1):
        """Write records that Kafka must take; return their places."""
        places = self.write(principal, records, partition=partition)
        refused = [place.str() for place in places if isinstance(place, KafkaError)]
        assert not refused, refused
        return places

    def read(self, topic, principal="operator"):
        """Return every record that stands in a topic now, by partition and offset."""
        consumer = self._consumer("tests.reading", principal)
        ends = self.ends(topic, consumer)
        consumer.assign([TopicPartition(topic, number, low) for number, (low, _) in ends.items()])
        found, unread = [], {number for number, (low, high) in ends.items() if high > low}
        while unread:
            message = consumer.poll(KAFKA_SECONDS)
            assert message is not None, f"{topic} cannot be read to its end"
            if message.error() is None:
                found.append(message)
            else:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error().str()
            reached = message.offset() + (message.error() is None)
            if message.topic() == topic and reached >= ends[message.partition()][1]:
                unread.discard(message.partition())
        consumer.unassign()
        return sorted(found, key=lambda one: (one.partition(), one.offset()))

    def ends(self, topic, consumer=None):
        """Return first and end offset by partition."""
        asked = consumer or self._consumer("tests.reading", "operator")
        partitions = asked.list_topics(topic, timeout=KAFKA_SECONDS).topics[topic].partitions
        return {
            number: asked.get_watermark_offsets(TopicPartition(topic, number), timeout=KAFKA_SECONDS)
            for number in partitions
        }

    def lag(self):
        """Return how many records each group has yet to commit."""
        return {group: self._lag(group, topic) for group, topic in GROUPS.items()}

    def wait_until_caught_up(self, seconds=PATIENCE_SECONDS):
        wait_for(lambda: not any(self.lag().values()), "every group reads to the end", seconds)

    def _lag(self, group, topic):
        consumer = self._consumer(group, "operator")
        ends = self.ends(topic, consumer)
        places = consumer.committed([TopicPartition(topic, number) for number in ends], timeout=KAFKA_SECONDS)
        return sum(
            ends[place.partition][1] - max(place.offset, ends[place.partition][0], 0)
            for place in places
            if place.offset < ends[place.partition][1]
        )

    def _producer(self, principal):
        if principal not in self._producers:
            settings = {"message.max.bytes": 4_000_000, "linger.ms": 2}
            self._producers[principal] = Producer({**self.options(principal), **settings})
        return self._producers[principal]

    def _consumer(self, group, principal):
        if (group, principal) not in self._consumers:
            settings = {
                "group.id": group,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.message.max.bytes": 2 << 20,
                "fetch.wait.max.ms": 20,
            }
            self._consumers[group, principal] = Consumer({**self.options(principal), **settings})
        return self._consumers[group, principal]


def delivery_state(operator, message_id):
    """Return where routing has a message, or None when it has not heard of it."""
    try:
        return operator.get("routing", f"/v1/deliveries/{message_id}")["state"]
    except CommandError as error:
        if "404" in error.message:
            return None
        raise


def wait_until_settled(stack, message_ids, seconds=PATIENCE_SECONDS):
    """Wait until routing moves none of these messages any more; return their states by id."""
    with ServiceClient(stack) as operator:
        states = dict.fromkeys(message_ids)

        def settled():
            for message_id, state in states.items():
                if state is None or state in MOVING:
                    states[message_id] = delivery_state(operator, message_id)
            return not any(state is None or state in MOVING for state in states.values())

        wait_for(settled, "every message comes to rest", seconds)
        return states


def run_command(stack, *arguments, status=0, as_json=True):
    """Run `waystation` as an operator would; return what it prints. Without a status any will do."""
    done = subprocess.run(
        [sys.executable, "-m", "waystation", *arguments, *(["--json"] if as_json else [])],
        env={**os.environ, "WAYSTATION_HOME": str(stack.layout.home), "COLUMNS": "250"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert status in (None, done.returncode), f"{arguments}: {done.stdout}{done.stderr}"
    text = done.stderr if status and not done.stdout else done.stdout
    return json.loads(text) if as_json else text
