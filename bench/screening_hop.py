"""The hop of moderation: consume, open, screen, sign, store, publish, with Kafka, PostgreSQL and the vault beside it.

Messages are admitted through the door while moderation is stopped; then the door and all that comes behind moderation
are stopped too, and moderation is started. Counted is from its first verdict in Kafka to its last.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psutil
from confluent_kafka import Consumer, TopicPartition
from load import batch_bodies, send_batches
from report import Measure

from common.events.screening import VerdictReached
from waystation.operator import OPERATOR
from waystation.rehearsal import INBOX, Rehearsal, items
from waystation.stack.kafka import client_options
from waystation.stack.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GOAL = 1_500
BATCH, CONNECTIONS = 100, 4
WARM_MESSAGES = 3_000
LAST_SECONDS = 180.0
LOOK_SECONDS = 0.25


def measure_hop(texts: Sequence[str], scratch: Path) -> list[Measure]:
    """Return the rate of the hop for these texts, what each process used for them, and the service's start."""
    os.environ.setdefault("KAFKA_JVM_PERFORMANCE_OPTS", "-XX:+UseSerialGC")
    stack = Stack.open(scratch / "hop")
    try:
        stack.up()
        return _measured(stack, texts, scratch)
    finally:
        stack.down()


def _measured(stack: Stack, texts: Sequence[str], scratch: Path) -> list[Measure]:
    account = Rehearsal(stack, scratch / "laboratory").create_account("Bench")
    with closing(_Verdicts(stack)) as verdicts:
        warm = items([f"warm{n}@kunden.example" for n in range(WARM_MESSAGES)], tag="warm-")
        asyncio.run(send_batches(stack.url("ingestion"), account, batch_bodies(warm, BATCH), CONNECTIONS))
        verdicts.wait_for(WARM_MESSAGES)
        for service in ("moderation", "routing", "enforcement"):
            stack.stop_service(service)
        bodies = batch_bodies([_item(number, text) for number, text in enumerate(texts)], BATCH)
        asyncio.run(send_batches(stack.url("ingestion"), account, bodies, CONNECTIONS))
        stack.stop_service("ingestion")
        before = verdicts.count()
        started = time.monotonic()
        stack.start_service("moderation")
        ready_seconds = time.monotonic() - started
        first = verdicts.wait_for(before + 1)
        used = _cpu_seconds(stack)
        at_first, begun = first - before, time.monotonic()
        verdicts.wait_for(before + len(texts))
        seconds = time.monotonic() - begun
        spent = {name: after - used[name] for name, after in _cpu_seconds(stack).items()}
        count = len(texts) - at_first
        resident = _resident_mib(stack)
    note = "consume, open, screen, sign, store, publish; Kafka, PostgreSQL and the vault beside it"
    return [
        Measure("hop", count / seconds, "messages/s", GOAL, ">=", f"{note}; {count:,} of {len(texts):,} messages"),
        *(Measure(f"cpu of the hop, {name}", cpu / count * 1e6, "us a message") for name, cpu in spent.items()),
        Measure("memory of the service", resident, "MiB"),
        Measure("start of the service until it is ready", ready_seconds, "s", note="it waits for Kafka and PostgreSQL"),
    ]


def _item(number: int, text: str) -> dict[str, object]:
    return {
        "tool": "email",
        "inbox": INBOX,
        "recipient": {"address": f"hop{number % 8_000}@kunden.example"},
        "content": {"subject": f"Message {number}", "text": text},
        "purpose": "order-updates",
        "legal_basis": {"kind": "contract", "attested": True},
        "idempotency_key": f"hop-{number}",
    }


class _Verdicts:
    """How many verdicts Kafka holds, by the ends of its partitions: to count rows would cost what is measured."""

    def __init__(self, stack: Stack) -> None:
        access = stack.kafka_credentials(OPERATOR)
        options = client_options(access.bootstrap, access.username, access.password)
        self._consumer = Consumer({**options, "group.id": "waystation.bench", "enable.auto.commit": False})
        topic: Any = self._consumer.list_topics(VerdictReached.TOPIC, timeout=15).topics[VerdictReached.TOPIC]
        self._places = [TopicPartition(VerdictReached.TOPIC, number) for number in topic.partitions]

    def count(self) -> int:
        return sum(self._consumer.get_watermark_offsets(place, timeout=15)[1] for place in self._places)

    def wait_for(self, verdicts: int) -> int:
        ends = time.monotonic() + LAST_SECONDS
        while (count := self.count()) < verdicts:
            if time.monotonic() > ends:
                raise TimeoutError(f"{count:,} of {verdicts:,} verdicts after {LAST_SECONDS:.0f} s")
            time.sleep(LOOK_SECONDS)
        return count

    def close(self) -> None:
        self._consumer.close()


def _cpu_seconds(stack: Stack) -> dict[str, float]:
    spent = {}
    for one in stack.status():
        if one.pid is not None:
            process = psutil.Process(one.pid)
            seconds = 0.0
            for part in (process, *process.children(recursive=True)):
                try:
                    times = part.cpu_times()
                except psutil.NoSuchProcess:
                    continue
                seconds += times.user + times.system
            spent[one.name.removesuffix("-1")] = seconds
    return spent


def _resident_mib(stack: Stack) -> float:
    pid = next(one.pid for one in stack.status() if one.name == "moderation-1")
    return float(psutil.Process(pid).memory_info().rss) / 2**20
