"""The topic registry: what `deploy/topics.yaml` declares, and the rights and dead-letter topics that follow from it.

Pure: no Kafka client is imported here. `waystation topics` applies it to a cluster.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

OPERATOR = "operator"
DLQ_SUFFIX = ".dlq"
DLQ_PARTITIONS = 1
MILLISECONDS_PER_HOUR = 3_600_000

Operation = Literal["READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS", "DELETE"]
ResourceKind = Literal["TOPIC", "GROUP", "CLUSTER"]


class Acl(NamedTuple):
    """One right: `principal` may do `operation` on a resource; the name `*` means every one of its kind."""

    principal: str
    resource: ResourceKind
    name: str
    operation: Operation


class Reader(BaseModel):
    """A principal that reads a topic, in a consumer group or (`none`) the whole of it without one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    principal: str
    group: str

    @property
    def group_or_none(self) -> str | None:
        """The group's name, or None for a reader of the whole topic."""
        return None if self.group == "none" else self.group


class DeadLetters(BaseModel):
    """What all dead-letter topics share; they are derived, one per reading group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    retention_hours: int = Field(gt=0)
    config: dict[str, str] = {}


class Topic(BaseModel):
    """One topic as declared: who owns it, writes and reads it, what its key is and how long it stays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*(\.[a-z0-9-]+)+$", max_length=200)
    description: str
    owner: str
    key: str
    partitions: int = Field(gt=0)
    replication: int = Field(default=1, gt=0)
    cleanup: Literal["delete", "compact"]
    retention_hours: int | None = Field(default=None, gt=0)
    writers: tuple[str, ...]
    readers: tuple[Reader, ...]
    config: dict[str, str] = {}

    @model_validator(mode="after")
    def _retention_fits_cleanup(self) -> Self:
        if (self.cleanup == "delete") != (self.retention_hours is not None):
            raise ValueError(f"{self.name}: retention_hours belongs to cleanup: delete, and only there")
        return self

    @property
    def is_dlq(self) -> bool:
        """Whether this is a derived dead-letter topic."""
        return self.name.endswith(DLQ_SUFFIX)

    @property
    def broker_config(self) -> dict[str, str]:
        """The topic's configuration in Kafka's own names."""
        config = {"cleanup.policy": self.cleanup, **self.config}
        if self.retention_hours is not None:
            config["retention.ms"] = str(self.retention_hours * MILLISECONDS_PER_HOUR)
        return config


class TopicRegistry(BaseModel):
    """All declared topics; the derived dead-letter topics come with `all_topics`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topics: tuple[Topic, ...]
    dead_letters: DeadLetters

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [topic.name for topic in self.topics]
        groups = [reader.group for topic in self.topics for reader in topic.readers if reader.group_or_none]
        for kind, values in (("topic", names), ("group", groups)):
            twice = {value for value in values if values.count(value) > 1}
            if twice:
                raise ValueError(f"{kind} declared twice: {', '.join(sorted(twice))}")
        return self

    def topic(self, name: str) -> Topic:
        """The declared or derived topic of that name.

        Raises:
            KeyError: no such topic.
        """
        for topic in self.all_topics:
            if topic.name == name:
                return topic
        raise KeyError(f"topic {name!r} is not in the registry; it has {', '.join(t.name for t in self.all_topics)}")

    @property
    def dlqs(self) -> tuple[Topic, ...]:
        """One dead-letter topic per group and topic it reads, written by the group's principal."""
        return tuple(
            _dead_letter_topic(topic, reader, self.dead_letters)
            for topic in self.topics
            for reader in topic.readers
            if reader.group_or_none
        )

    @property
    def all_topics(self) -> tuple[Topic, ...]:
        """Declared topics, then dead-letter topics."""
        return (*self.topics, *self.dlqs)

    @property
    def principals(self) -> tuple[str, ...]:
        """Everybody that owns, writes or reads, sorted; the operator not included."""
        named = {topic.owner for topic in self.topics}
        named |= {writer for topic in self.topics for writer in topic.writers}
        named |= {reader.principal for topic in self.topics for reader in topic.readers}
        return tuple(sorted(named))

    def acls(self) -> frozenset[Acl]:
        """Every right that follows from the registry; whatever is not in it is denied."""
        rights = set(_operator_rights(self.topics))
        for topic in self.all_topics:
            for writer in topic.writers:
                rights |= {Acl(writer, "TOPIC", topic.name, "WRITE"), Acl(writer, "TOPIC", topic.name, "DESCRIBE")}
            for reader in topic.readers:
                rights |= _reader_rights(topic, reader)
        return frozenset(rights)


def dlq_name(topic: str, group: str) -> str:
    """The dead-letter topic of one group for one topic: `<topic>.<group>.dlq`."""
    return f"{topic}.{group}{DLQ_SUFFIX}"


def load_registry(path: Path) -> TopicRegistry:
    """Read and check `topics.yaml`.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not YAML, or breaks the model (pydantic's error names the field).
    """
    try:
        declared = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    return TopicRegistry.model_validate(declared)


def _dead_letter_topic(topic: Topic, reader: Reader, shared: DeadLetters) -> Topic:
    return Topic(
        name=dlq_name(topic.name, reader.group),
        description=f"Records of {topic.name} that {reader.group} gave up on, untouched, with reason headers",
        owner=reader.principal,
        key=topic.key,
        partitions=DLQ_PARTITIONS,
        replication=topic.replication,
        cleanup="delete",
        retention_hours=shared.retention_hours,
        writers=(reader.principal,),
        readers=(),
        config=shared.config,
    )


def _reader_rights(topic: Topic, reader: Reader) -> set[Acl]:
    rights = {
        Acl(reader.principal, "TOPIC", topic.name, "READ"),
        Acl(reader.principal, "TOPIC", topic.name, "DESCRIBE"),
    }
    if reader.group_or_none:
        rights.add(Acl(reader.principal, "GROUP", reader.group, "READ"))
    return rights


def _operator_rights(topics: tuple[Topic, ...]) -> list[Acl]:
    """The operator reads everything, moves groups' offsets and replays dead letters into their source topics."""
    rights = [Acl(OPERATOR, "TOPIC", "*", operation) for operation in ("READ", "DESCRIBE", "DESCRIBE_CONFIGS")]
    rights += [Acl(OPERATOR, "GROUP", "*", operation) for operation in ("READ", "DESCRIBE", "DELETE")]
    rights += [Acl(OPERATOR, "CLUSTER", "kafka-cluster", operation) for operation in ("DESCRIBE", "DESCRIBE_CONFIGS")]
    replayed = {topic.name for topic in topics if any(reader.group_or_none for reader in topic.readers)}
    return rights + [Acl(OPERATOR, "TOPIC", name, "WRITE") for name in sorted(replayed)]
