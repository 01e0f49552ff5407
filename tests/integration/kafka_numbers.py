"""An event of the tests' own, and a subscription to it; run as a program, a consumer that can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import ClassVar

from common.events.envelope import Event, encode
from common.kafka.consumer import Subscription, kafka_broker
from common.kafka.publisher import Publisher
from common.kafka.settings import KafkaAccess


class Counted(Event):
    """A number was counted by somebody."""

    TYPE: ClassVar[str] = "tests.number.counted.v1"
    TOPIC: ClassVar[str] = "tests.numbers"
    SOURCE: ClassVar[str] = "waystation/tests"

    number: int
    who: str
    padding: str = ""

    @property
    def event_id(self) -> str:
        return f"{self.who}.{self.number}"

    @property
    def key(self) -> str:
        return self.who

    @property
    def time(self) -> str:
        return "2026-01-31T09:30:00.000Z"


def counted_on(topic):
    """The event's class for a topic of one test."""

    class Here(Counted):
        TOPIC: ClassVar[str] = topic

    return Here


def numbers(topic, wanted, people=10, padding=""):
    """Records of the numbers wanted, each person's in order."""
    event = counted_on(topic)
    return [encode(event(number=number, who=f"person-{number % people}", padding=padding)) for number in wanted]


@contextlib.asynccontextmanager
async def subscribed(access, publisher, topic, group, handler, *, instance="tests-1", **options):
    """A running subscription of a group to a topic."""
    broker = kafka_broker(access, client_id=instance)
    subscription = Subscription(counted_on(topic), group, handler, publisher, instance, **options)
    subscription.attach(broker)
    await broker.start()
    try:
        yield subscription
    finally:
        await broker.stop()


async def main(access, topic, group, kind):
    """Print each batch's numbers as one line; `hangs` never returns from its handler, so commits nothing."""

    async def handler(batch):
        print(json.dumps([received.event.number for received in batch]), flush=True)
        if kind == "hangs":
            await asyncio.Event().wait()

    publisher = Publisher(KafkaAccess(*access), client_id="tests-process")
    async with subscribed(KafkaAccess(*access), publisher, topic, group, handler, instance="tests-process"):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.stdin.readline()), *sys.argv[1:]))
