"""What the examples share: connecting with a client file, and reading a topic whole or in a group.

The client file is the one of kcat: `waystation kafka config --write client.conf`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiokafka import AIOKafkaConsumer, TopicPartition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FETCH_BYTES_MAX = 2 * 1024 * 1024  # a record of intake.messages or screening.verdicts can have 1 MiB


def client_options(path: str) -> dict[str, Any]:
    """Read a client file and return the same for aiokafka."""
    lines = [line.strip() for line in Path(path).read_text("utf-8").splitlines() if line.strip()]
    settings = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    return {
        "bootstrap_servers": settings["bootstrap.servers"],
        "security_protocol": settings["security.protocol"],
        "sasl_mechanism": settings["sasl.mechanism"],
        "sasl_plain_username": settings["sasl.username"],
        "sasl_plain_password": settings["sasl.password"],
    }


async def read_whole(path: str, topic: str) -> AsyncIterator[Any]:
    """Yield every record that stands in a topic now, without a consumer group: no offset is kept anywhere."""
    consumer = AIOKafkaConsumer(
        topic,
        **client_options(path),
        group_id=None,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=FETCH_BYTES_MAX,
    )
    await consumer.start()
    try:
        places = consumer.assignment()
        ends = await consumer.end_offsets(places)
        while unread := [place for place in places if await consumer.position(place) < ends[place]]:
            for records in (await consumer.getmany(*unread, timeout_ms=1000)).values():
                for record in records:
                    yield record
    finally:
        await consumer.stop()


async def read_in_group(path: str, topic: str, group: str, *, idle_seconds: float | None) -> AsyncIterator[list[Any]]:
    """Yield batches as members of a group get them; a batch is committed when the next one is asked for.

    So a batch whose reader died comes again: delivered at least once. Ends after `idle_seconds` without a record.
    """
    consumer = AIOKafkaConsumer(
        topic,
        **client_options(path),
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=FETCH_BYTES_MAX,
    )
    await consumer.start()
    try:
        while True:
            wait_ms = 1000 if idle_seconds is None else int(idle_seconds * 1000)
            batches = await consumer.getmany(timeout_ms=wait_ms)
            if not batches and idle_seconds is not None:
                return
            yield [record for records in batches.values() for record in records]
            if batches:
                await consumer.commit(
                    {
                        TopicPartition(place.topic, place.partition): records[-1].offset + 1
                        for place, records in batches.items()
                    }
                )
    finally:
        await consumer.stop()


def attributes(record: Any) -> dict[str, str]:
    """Return the CloudEvents attributes of a record: its headers as text."""
    return {name: (content or b"").decode("utf-8", "replace") for name, content in record.headers}


def event_in(record: Any, kind: str) -> dict[str, Any] | None:
    """Return the event in a record; None for another type, a tombstone, or what is no JSON object.

    Whoever may write to a topic may write anything into it: a reader that falls over one record reads no further one.
    """
    if attributes(record).get("ce_type") != kind or not record.value:
        return None
    try:
        event = json.loads(record.value)
    except ValueError:
        event = None
    if isinstance(event, dict):
        return event
    print(f"skipped: partition {record.partition} offset {record.offset} holds no {kind}", file=sys.stderr)
    return None
