"""Records found again by where they stand, and drawn at random, in a real Kafka."""

from __future__ import annotations

import asyncio

import pytest
from kafka_numbers import counted_on, numbers

from common.kafka.publisher import Publisher
from common.kafka.reading import Place, Places
from common.times import now

pytestmark = pytest.mark.integration


@pytest.fixture
async def publish(kafka_access):
    publisher = Publisher(kafka_access(), client_id="tests")
    yield publisher.publish
    await publisher.stop()


@pytest.fixture
def topic(fresh_topic):
    return fresh_topic(partitions=3)


@pytest.fixture
def places(kafka_access, topic):
    return Places(kafka_access(), counted_on(topic), "tests")


async def test_all_records_since_a_moment_are_drawn_where_there_are_no_more(publish, topic, places):
    await publish(numbers(topic, range(100)))
    await asyncio.sleep(0.02)
    between = now()
    await asyncio.sleep(0.02)
    await publish(numbers(topic, range(100, 130)))
    drawn = await places.draw(1000, between)
    assert len(set(drawn)) == len(drawn)
    assert sorted(event.number for event in (await places.read(drawn)).values()) == list(range(100, 130))
    assert await places.draw(1000, now()) == []


async def test_each_record_is_drawn_as_likely_as_any_other(publish, topic, places):
    start = now()
    await publish(numbers(topic, range(300)))
    times = {}
    for _ in range(40):
        drawn = await places.draw(30, start)
        assert len(set(drawn)) == 30
        for place in drawn:
            times[place] = times.get(place, 0) + 1
    assert len(times) > 250, "of 300 records 1,200 draws leave out five"
    assert max(times.values()) < 20, "each is drawn four times"


async def test_an_empty_topic_and_places_beyond_its_end_give_nothing(publish, topic, places):
    assert await places.draw(10, now()) == []
    await publish(numbers(topic, range(3)))
    assert await places.read([Place(0, 1000)]) == {}
