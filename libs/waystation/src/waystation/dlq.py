"""Dead letters: what stands in the `*.dlq` topics, sending it again, putting it aside.

A dead-letter topic is append-only, so what was handled is remembered beside it: a file in the stack's Kafka folder
lists the positions that were replayed or discarded, and they are no longer shown. The file is written after Kafka
acknowledged a replay; a kill in between leads to a second replay, which every consumer survives.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from common.kafka.topics import DLQ_SUFFIX, dlq_name
from waystation.errors import CommandError
from waystation.stack.kafka import client_options
from waystation.stack.layout import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from common.kafka.settings import KafkaAccess

GROUP = "waystation.dlq"
TIMEOUT_SECONDS = 15.0
BATCH_RECORDS = 100
SCANNED_RECORDS_MAX = 10_000
RECORD_BYTES_MAX = 2 * 1024 * 1024
PREVIEW_BYTES = 200
REPLAYED_FROM = "dlq_replayed_from"
CORRECTED = "dlq_corrected"

Action = Literal["replayed", "discarded"]
Place = tuple[int, int]
"""Partition and offset."""
Corrections = Mapping[str, bytes]
"""Headers by name that a replay carries instead of those that the record came with."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record in a dead-letter topic."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    action: Action | None = None

    @property
    def place(self) -> Place:
        """Partition and offset."""
        return self.partition, self.offset

    def header(self, name: str) -> str:
        """The last header of that name: the group's own, also when the record came with one like it."""
        found = [value for header, value in self.headers if header == name]
        return (found[-1] or b"").decode("utf-8", "replace") if found else ""

    @property
    def reason(self) -> str:
        """Why the group gave up."""
        return self.header("dlq_reason") or "no reason given"


@dataclass(frozen=True, slots=True)
class Replay:
    """A record on its way back to where it came from."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """One dead-letter topic: open records, the oldest of them, how often each reason; `scanned_all` when exact."""

    topic: str
    open: int
    handled: int
    oldest_seconds: float | None
    reasons: Mapping[str, int]
    scanned_all: bool


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many records were sent back, and why others were not."""

    replayed: int
    refused: list[str]


class Letters(Protocol):
    """Reads dead letters and writes replays; `KafkaLetters` does."""

    def topics(self) -> list[str]:
        """All dead-letter topics, sorted."""

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """First and end offset of each partition."""

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[DeadLetter]:
        """The records from `start` up to but not `end`."""

    def send(self, replays: Sequence[Replay]) -> None:
        """Write all and wait for Kafka's acknowledgement."""


def replay_of(letter: DeadLetter, corrections: Corrections = MappingProxyType({})) -> Replay:
    """Return the record, addressed to the partition it came from: untouched but for corrected headers.

    Which headers were corrected stands in its `dlq_corrected`. Key and value are never changed: what gives a record its
    authority is signed inside the value.

    Raises:
        CommandError: its headers do not name a source that belongs to this dead-letter topic.
    """
    source, group, partition = letter.header("dlq_topic"), letter.header("dlq_group"), letter.header("dlq_partition")
    where = f"{letter.topic} {letter.partition}:{letter.offset}"
    if dlq_name(source, group) != letter.topic or source.endswith(DLQ_SUFFIX):
        raise CommandError(
            f"{where} does not say where it came from: its dlq_topic and dlq_group do not make the name of its topic",
            "it was not written by the group; look at it with `waystation dlq show` and discard it",
        )
    if not partition.isdecimal():
        raise CommandError(f"{where} has no dlq_partition", "look at it with `waystation dlq show` and discard it")
    dropped = {name for name, _ in letter.headers if name.startswith("dlq_")} | set(corrections)
    kept = tuple((name, value) for name, value in letter.headers if name not in dropped)
    marks: tuple[tuple[str, bytes], ...] = (
        (REPLAYED_FROM, f"{letter.topic}:{letter.partition}:{letter.offset}".encode()),
    )
    if corrections:
        marks = (*corrections.items(), *marks, (CORRECTED, ",".join(corrections).encode()))
    # Dead letters carry the empty key where the record had none (see common.kafka.consumer).
    return Replay(source, int(partition), letter.key or None, letter.value, (*kept, *marks))


class Handled:
    """Which dead letters were replayed or discarded, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def actions(self, topic: str) -> dict[Place, Action]:
        """What was done with the records of a topic."""
        found: dict[Place, Action] = {}
        for place, action in self._content().get(topic, {}).items():
            partition, _, offset = place.partition(":")
            found[int(partition), int(offset)] = action
        return found

    def mark(self, letters: Sequence[DeadLetter], action: Action) -> None:
        """Remember what was done with records."""
        with self._lock():
            content = self._content()
            for letter in letters:
                content.setdefault(letter.topic, {})[f"{letter.partition}:{letter.offset}"] = action
            write_atomically(self._path, json.dumps(content, indent=1) + "\n")

    def _content(self) -> dict[str, dict[str, Action]]:
        try:
            content: dict[str, dict[str, Action]] = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise CommandError(
                f"{self._path} is damaged: {error}", "remove it; then all dead letters are shown as open again"
            ) from error
        return content

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


@dataclass(frozen=True, slots=True)
class DeadLetterOffice:
    """What an operator can do with dead letters."""

    letters: Letters
    handled: Handled

    def summaries(self) -> list[Summary]:
        """Every dead-letter topic."""
        return [self._summary(topic) for topic in self.letters.topics()]

    def open_letters(
        self, topic: str, *, start: Place | None = None, with_handled: bool = False
    ) -> Iterator[DeadLetter]:
        """The records of a topic that nobody handled yet (or all), in the order of partitions and offsets.

        Args:
            topic: a dead-letter topic.
            start: partition and offset to begin at; then only that partition is read.
            with_handled: show those that were handled too.
        """
        actions = self.handled.actions(self._known(topic))
        for partition, (first, end) in sorted(self.letters.bounds(topic).items()):
            if start is not None and partition != start[0]:
                continue
            begin = first if start is None else max(first, start[1])
            for letter in self.letters.read(topic, partition, begin, end):
                action = actions.get(letter.place)
                if action is None:
                    yield letter
                elif with_handled:
                    yield _marked(letter, action)

    def one(self, topic: str, partition: int, offset: int) -> DeadLetter:
        """One record that nobody handled yet.

        Raises:
            CommandError: there is no such record, or it was handled before.
        """
        letter = next(iter(self.open_letters(topic, start=(partition, offset), with_handled=True)), None)
        if letter is None or letter.offset != offset:
            raise CommandError(f"{topic} has no record at {partition}:{offset}", f"look: waystation dlq show {topic}")
        if letter.action is not None:
            raise CommandError(f"{topic} {partition}:{offset} was {letter.action} before", "nothing was done")
        return letter

    def replay(self, letters: Iterator[DeadLetter], corrections: Corrections = MappingProxyType({})) -> Replayed:
        """Send records back to where they came from; those that do not say from where stay open."""
        count, refused = 0, []
        for batch in _batches(letters):
            sent: list[DeadLetter] = []
            replays: list[Replay] = []
            for letter in batch:
                try:
                    replays.append(replay_of(letter, corrections))
                    sent.append(letter)
                except CommandError as error:
                    refused.append(error.message)
            self.letters.send(replays)
            self.handled.mark(sent, "replayed")
            count += len(sent)
        return Replayed(count, refused)

    def discard(self, letters: Iterator[DeadLetter]) -> int:
        """Put records aside; returns how many. They stay in Kafka until retention removes them."""
        count = 0
        for batch in _batches(letters):
            self.handled.mark(batch, "discarded")
            count += len(batch)
        return count

    def _known(self, topic: str) -> str:
        topics = self.letters.topics()
        if topic not in topics:
            raise CommandError(
                f"{topic} is not a dead-letter topic of this cluster", f"choose from: {', '.join(topics) or 'none'}"
            )
        return topic

    def _summary(self, topic: str) -> Summary:
        bounds = self.letters.bounds(topic)
        stored = sum(end - first for first, end in bounds.values())
        handled = sum(
            1
            for partition, offset in self.handled.actions(topic)
            if partition in bounds and bounds[partition][0] <= offset < bounds[partition][1]
        )
        reasons: Counter[str] = Counter()
        oldest_ms: int | None = None
        for letter in self.open_letters(topic):
            reasons[letter.reason] += 1
            oldest_ms = letter.timestamp_ms if oldest_ms is None else min(oldest_ms, letter.timestamp_ms)
            if reasons.total() >= SCANNED_RECORDS_MAX:
                break
        age = None if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)
        left = stored - handled
        return Summary(topic, left, handled, age, dict(reasons.most_common()), reasons.total() >= left)


class KafkaLetters:
    """Dead letters of a real cluster, read without committing anything."""

    def __init__(self, access: KafkaAccess) -> None:
        self._options = client_options(access.bootstrap, access.username, access.password)
        self._bootstrap = access.bootstrap

    def topics(self) -> list[str]:
        """All dead-letter topics, sorted."""
        with self._consumer() as consumer:
            names = consumer.list_topics(timeout=TIMEOUT_SECONDS).topics
        return sorted(name for name in names if name.endswith(DLQ_SUFFIX))

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """First and end offset of each partition."""
        with self._consumer() as consumer:
            partitions = consumer.list_topics(topic, timeout=TIMEOUT_SECONDS).topics[topic].partitions
            return {
                number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=TIMEOUT_SECONDS)
                for number in sorted(partitions)
            }

    def read(self, topic: str, partition: int, start: int, end: int) -> Iterator[DeadLetter]:
        """The records from `start` up to but not `end`."""
        if start >= end:
            return
        with self._consumer() as consumer:
            consumer.assign([TopicPartition(topic, partition, start)])
            while True:
                message: Any = consumer.poll(TIMEOUT_SECONDS)
                if message is None:
                    raise CommandError(f"Kafka did not give {topic} {partition}:{start} in time", "try again")
                if message.error() is not None:
                    if message.error().code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  its public name
                        return
                    raise KafkaException(message.error())
                if message.offset() >= end:
                    return
                yield _letter(message)
                if message.offset() + 1 >= end:
                    return

    def send(self, replays: Sequence[Replay]) -> None:
        """Write all and wait for Kafka's acknowledgement."""
        if not replays:
            return
        failures: list[str] = []

        def delivered(error: Any, _: Any) -> None:
            if error is not None:
                failures.append(error.str())

        producer = Producer(
            {
                **self._options,
                "enable.idempotence": True,
                "acks": "all",
                "message.max.bytes": RECORD_BYTES_MAX,
                "delivery.timeout.ms": int(TIMEOUT_SECONDS * 1000),
            }
        )
        for replay in replays:
            producer.produce(
                replay.topic,
                value=replay.value,
                key=replay.key,
                partition=replay.partition,
                headers=list(replay.headers),
                on_delivery=delivered,
            )
        left = producer.flush(TIMEOUT_SECONDS * 2)
        if failures or left:
            why = failures[0] if failures else "Kafka did not acknowledge in time"
            raise CommandError(
                f"{len(failures) or left} of {len(replays)} records may not have been replayed: {why}",
                "none of them is marked as handled; repeat the command, consumers drop what they have seen",
            )

    @contextmanager
    def _consumer(self) -> Iterator[Consumer]:
        consumer = Consumer(
            {
                **self._options,
                "group.id": GROUP,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.message.max.bytes": RECORD_BYTES_MAX,
            }
        )
        try:
            yield consumer
        except KafkaException as error:
            raise CommandError(
                f"Kafka at {self._bootstrap} did not answer as it should: {error.args[0].str()}",
                "see whether it runs: waystation status",
            ) from error
        finally:
            consumer.close()


def _letter(message: Any) -> DeadLetter:
    headers = tuple((name, value) for name, value in message.headers() or ())
    _, timestamp_ms = message.timestamp()
    return DeadLetter(
        message.topic(), message.partition(), message.offset(), timestamp_ms, message.key(), message.value(), headers
    )


def _marked(letter: DeadLetter, action: Action) -> DeadLetter:
    return DeadLetter(
        letter.topic,
        letter.partition,
        letter.offset,
        letter.timestamp_ms,
        letter.key,
        letter.value,
        letter.headers,
        action,
    )


def _batches(letters: Iterator[DeadLetter]) -> Iterator[list[DeadLetter]]:
    batch: list[DeadLetter] = []
    for letter in letters:
        batch.append(letter)
        if len(batch) == BATCH_RECORDS:
            yield batch
            batch = []
    if batch:
        yield batch
