"""One local stack for all integration tests: real Kafka, real PostgreSQL, no services until a test starts some.

WAYSTATION_TEST_HOME names the folder of a stack that stays up between runs, for development; workers have one each in it.
"""

from __future__ import annotations

import os
import sys
import uuid
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka.admin import NewTopic

from common.kafka.topics import dlq_name
from common.postgres.migrations import migrate
from waystation.rehearsal import Rehearsal
from waystation.stack import SERVICES, Stack, checkout_folder, ports, postgres
from waystation.stack.credentials import ADMIN, SUPERUSER

READ_SECONDS = 10.0
ROAD_SETTINGS = {"routing": {"ROUTING_RETRY_SECONDS_FIRST": "0.5"}}

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Each worker's stacks have ports of their own: two that are made at the same moment could choose the same.
    share = len(ports.CHOICE) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    first = ports.CHOICE[int(worker.removeprefix("gw")) * share]
    os.environ.setdefault(ports.RANGE_VARIABLE, f"{first}-{first + share - 1}")
sys.path.append(str(Path(__file__).parent))  # for kafka_numbers: test modules are imported by file, not by folder


@pytest.fixture(scope="session")
def stack(tmp_path_factory):
    """The session's stack, Kafka and PostgreSQL up, topics and migrations applied.

    A test that stops or kills a part starts it again before it ends.
    """
    kept = os.environ.get("WAYSTATION_TEST_HOME")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    running = Stack.open(Path(kept, worker) if kept else tmp_path_factory.mktemp("stack") / "home")
    try:
        running.up_infra()
        yield running
    finally:
        if not kept:
            running.down(wipe=True)


@pytest.fixture(scope="session")
def road(stack, tmp_path_factory):
    """The whole road over the session's stack: the five services and the SMTP laboratory run.

    A test that stops a service starts it again before it ends, and judges by its own account and messages only.
    """
    rehearsal = Rehearsal(stack, tmp_path_factory.mktemp("laboratory"))
    try:
        rehearsal.start_laboratory()
        for service in SERVICES:
            stack.start_service(service, extra_env=ROAD_SETTINGS.get(service), wait=False)
        for service in SERVICES:
            stack.wait_ready(service)
        yield rehearsal
    finally:
        for service in reversed(SERVICES):
            stack.stop_service(service)
        rehearsal.stop_laboratory()


@pytest.fixture(scope="session")
def bus(road):
    """Kafka under the running road, for writing and reading as any principal."""
    from on_the_road import Bus  # noqa: PLC0415  found by the path that this file adds

    connected = Bus(road.stack)
    yield connected
    connected.close()


@pytest.fixture(scope="session")
def kafka_access(stack):
    """How a principal (a service, `operator`, or `admin`, who may do everything) reaches Kafka."""

    def access(principal=ADMIN):
        return stack.kafka_credentials(principal)

    return access


@pytest.fixture
def fresh_topic(stack):
    """Make a topic that no other test knows, with a dead-letter topic for each group named; removed afterwards."""
    admin = stack.kafka_admin()
    made = []

    def make(*, partitions=3, groups=(), **config):
        name = f"tests.numbers-{uuid.uuid4().hex[:10]}"
        largest = {"max.message.bytes": "2097152"}
        settings = {key.replace("_", "."): value for key, value in config.items()}
        topics = [NewTopic(name, partitions, 1, config=settings)]
        topics += [NewTopic(dlq_name(name, group), 1, 1, config=largest) for group in groups]
        for created in admin.create_topics(topics).values():
            created.result()
        made.extend(topic.topic for topic in topics)
        return name

    yield make
    if made:
        for deleted in admin.delete_topics(made).values():
            deleted.result()


@pytest.fixture
def read_topic(kafka_access):
    """Read all that stands in a topic now, in the order of its partitions."""

    async def read(topic):
        consumer = AIOKafkaConsumer(
            **kafka_access().client_options(), enable_auto_commit=False, max_partition_fetch_bytes=4 << 20
        )
        await consumer.start()
        try:
            await consumer._client.add_topic(topic)
            places = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            ends = await consumer.end_offsets(places)
            records = []
            for place in places:
                while await consumer.position(place) < ends[place]:
                    batch = await consumer.getmany(place, timeout_ms=int(READ_SECONDS * 1000))
                    assert batch, f"{place} ends at {ends[place]} and cannot be read that far"
                    records += batch[place]
            return records
        finally:
            await consumer.stop()

    return read


@pytest.fixture
async def committed(kafka_access):
    """The offsets that a group committed, by partition."""

    async def offsets(topic, group, partitions=3):
        consumer = AIOKafkaConsumer(**kafka_access().client_options(), group_id=group, enable_auto_commit=False)
        await consumer.start()
        try:
            places = [TopicPartition(topic, number) for number in range(partitions)]
            found = {place.partition: await consumer.committed(place) for place in places}
            return {partition: offset for partition, offset in found.items() if offset is not None}
        finally:
            await consumer.stop()

    return offsets


@pytest.fixture(scope="session")
def database_templates(stack):
    """Databases with a service's migrations and rights that new ones are copied from; nobody connects to them."""
    made = {}

    async def template(service):
        if service not in made:
            name = f"template_{service}_{uuid.uuid4().hex[:8]}"
            await as_superuser(stack, f"CREATE DATABASE {name} OWNER {service}_owner")
            await as_superuser(stack, f"GRANT CONNECT ON DATABASE {name} TO {service}")
            await postgres.grant_inside(stack.dsn(name, SUPERUSER), service)
            await migrate(stack.dsn(name, f"{service}_owner"), checkout_folder() / "services" / service / "migrations")
            made[service] = name
        return made[service]

    return template


@pytest.fixture
async def database(stack, database_templates):
    """Make an empty database of a service for this test alone; returns the DSN of the service's runtime role."""
    made = []

    async def make(service):
        name = f"tests_{service}_{uuid.uuid4().hex[:8]}"
        template = await database_templates(service)
        await as_superuser(stack, f"CREATE DATABASE {name} TEMPLATE {template} OWNER {service}_owner")
        await as_superuser(stack, f"GRANT CONNECT ON DATABASE {name} TO {service}")
        made.append(name)
        return stack.dsn(name, service)

    yield make
    for name in made:
        await as_superuser(stack, f"DROP DATABASE {name} WITH (FORCE)")


async def as_superuser(stack, statement):
    connection = await asyncpg.connect(stack.dsn("postgres", SUPERUSER))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
