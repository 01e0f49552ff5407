"""aiokafka's clients, begun and ended so that none leaves a connection behind."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiokafka import AIOKafkaProducer

    from common.kafka.settings import KafkaAccess

_GRACE_SECONDS = 1.0


async def start(client: AIOKafkaConsumer | AIOKafkaProducer, seconds: float) -> None:
    """Start a client, which the caller stops whatever comes of it; raise TimeoutError or KafkaError.

    Cancelled while it asks over its first connection, aiokafka 0.14 leaves that one open and knows it no more. Who
    gives up waits for the answer first, for a second at most.
    """
    starting = asyncio.ensure_future(client.start())
    try:
        async with asyncio.timeout(seconds):
            await asyncio.shield(starting)
    finally:
        await asyncio.wait({starting}, timeout=_GRACE_SECONDS)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)


@contextlib.asynccontextmanager
async def groupless(
    access: KafkaAccess, topic: str, *, client_id: str, seconds: float, **options: object
) -> AsyncIterator[AIOKafkaConsumer]:
    """Have a consumer that belongs to no group, commits nothing and knows the topic; raise TimeoutError or KafkaError.

    The seconds are the limit of its start and of its stop.
    """
    consumer = AIOKafkaConsumer(**access.client_options(), client_id=client_id, enable_auto_commit=False, **options)
    try:
        await start(consumer, seconds)
        async with asyncio.timeout(seconds):
            await consumer._client.add_topic(topic)  # noqa: SLF001  the only way to learn of a topic first
        yield consumer
    finally:
        with contextlib.suppress(TimeoutError, KafkaError):
            async with asyncio.timeout(seconds):
                await consumer.stop()


def partitions_of(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    """Return a topic's partitions in order; raise RuntimeError when there is no such topic."""
    partitions = consumer.partitions_for_topic(topic)
    if not partitions:
        raise RuntimeError(f"topic {topic} does not exist; run `waystation topics apply`")
    return [TopicPartition(topic, partition) for partition in sorted(partitions)]
