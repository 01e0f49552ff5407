"""Topics and rights of a cluster against the registry: what differs, and making it the same.

A plan never deletes a topic and never shrinks one. Rights are the registry's alone: what it does not name is removed,
also what forbids, what holds for a prefix of names, and what holds from one host only.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

from waystation.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from common.kafka.topics import Acl, Topic, TopicRegistry

TIMEOUT_SECONDS = 30.0
POLL_SECONDS = 0.05
RESOURCES = {"TOPIC": ResourceType.TOPIC, "GROUP": ResourceType.GROUP, "CLUSTER": ResourceType.BROKER}

Kind = Literal["create topic", "add partitions", "set config", "reset config", "add right", "remove right", "by hand"]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: what to do, to what, and from what to what. `by hand` is shown and never done."""

    kind: Kind
    name: str
    detail: str
    topic: Topic | None = None
    right: AclBinding | None = None
    setting: tuple[str, str | None] | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """What a cluster has: partitions and dynamic configuration by topic, and all rights."""

    partitions: Mapping[str, int]
    config: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    rights: frozenset[AclBinding] = frozenset()


def plan(registry: TopicRegistry, observed: Observed) -> list[Change]:
    """The differences between the registry and a cluster, in the order in which to make them. Pure."""
    changes: list[Change] = []
    for topic in registry.all_topics:
        if topic.name not in observed.partitions:
            detail = f"{topic.partitions} partitions, {topic.cleanup}"
            changes.append(Change("create topic", topic.name, detail, topic=topic))
            continue
        changes += _partition_changes(topic, observed.partitions[topic.name])
        changes += _config_changes(topic, observed.config.get(topic.name, {}))
    declared = {topic.name for topic in registry.all_topics}
    changes += [
        Change("by hand", name, "not in the registry: declare it, or `waystation kafka --as admin topics --delete`")
        for name in sorted(set(observed.partitions) - declared)
    ]
    wanted = {right_of(acl) for acl in registry.acls()}
    changes += [_right_change("add right", right) for right in sorted(wanted - observed.rights)]
    changes += [_removal(right) for right in sorted(observed.rights - wanted)]
    return changes


def right_of(acl: Acl) -> AclBinding:
    """Return a right of the registry in Kafka's words: allowed, by the whole name, from everywhere."""
    return AclBinding(
        RESOURCES[acl.resource],
        acl.name,
        ResourcePatternType.LITERAL,
        f"User:{acl.principal}",
        "*",
        AclOperation[acl.operation],
        AclPermissionType.ALLOW,
    )


def observe(admin: AdminClient) -> Observed:
    """Read what a cluster has.

    Raises:
        CommandError: the cluster does not answer, or does not let this principal look.
    """
    try:
        metadata = admin.list_topics(timeout=TIMEOUT_SECONDS)
        partitions = {name: len(t.partitions) for name, t in metadata.topics.items() if not name.startswith("__")}
        return Observed(partitions, _read_config(admin, list(partitions)), _read_rights(admin))
    except KafkaException as error:
        raise CommandError(f"Kafka does not answer: {error.args[0].str()}", "is it up? waystation status") from error


def apply(admin: AdminClient, registry: TopicRegistry) -> list[Change]:
    """Make the differences go away and wait until the brokers act on it; returns those that were made.

    Raises:
        CommandError: Kafka refused a change (those before it are made), or does not act on it in time.
    """
    changes = _to_make(admin, registry)
    steps: tuple[tuple[set[Kind], Callable[[AdminClient, list[Change]], Mapping[Any, Any]]], ...] = (
        ({"create topic"}, _create_topics),
        ({"add partitions"}, _add_partitions),
        ({"set config", "reset config"}, _alter_config),
        ({"add right"}, _add_rights),
        ({"remove right"}, _remove_rights),
    )
    for kinds, make in steps:
        chosen = [change for change in changes if change.kind in kinds]
        if chosen:
            _wait(make(admin, chosen))
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while changes and _to_make(admin, registry):
        if time.monotonic() > deadline:
            raise CommandError("Kafka took the changes but does not act on them", "run `waystation topics plan` again")
        time.sleep(POLL_SECONDS)
    return changes


def _to_make(admin: AdminClient, registry: TopicRegistry) -> list[Change]:
    return [change for change in plan(registry, observe(admin)) if change.kind != "by hand"]


def _partition_changes(topic: Topic, present: int) -> list[Change]:
    if present == topic.partitions:
        return []
    if present > topic.partitions:
        return [
            Change(
                "by hand", topic.name, f"has {present} partitions, {topic.partitions} declared: none is ever removed"
            )
        ]
    return [Change("add partitions", topic.name, f"{present} -> {topic.partitions}", topic=topic)]


def _config_changes(topic: Topic, present: Mapping[str, str]) -> list[Change]:
    wanted = topic.broker_config
    changes = [
        Change("set config", topic.name, f"{key}: {present.get(key, 'default')} -> {value}", setting=(key, value))
        for key, value in sorted(wanted.items())
        if present.get(key) != value
    ]
    return changes + [
        Change("reset config", topic.name, f"{key}: {present[key]} -> default", setting=(key, None))
        for key in sorted(set(present) - set(wanted))
    ]


def _removal(right: AclBinding) -> Change:
    if right.restype is ResourceType.UNKNOWN or right.operation is AclOperation.UNKNOWN:
        # newer kinds of rights have no number in the client, so it could not say which to delete
        return _right_change("by hand", right, ": remove it by `waystation kafka --as admin acls`")
    return _right_change("remove right", right)


def _right_change(kind: Kind, right: AclBinding, advice: str = "") -> Change:
    resource = "cluster" if right.restype is ResourceType.BROKER else _name(right.restype).lower()
    words = [] if right.permission_type is AclPermissionType.ALLOW else [_name(right.permission_type)]
    words += [_name(right.operation), resource]
    if right.resource_pattern_type is not ResourcePatternType.LITERAL:
        words.append(_name(right.resource_pattern_type).lower())
    words += [right.name] if right.host == "*" else [right.name, "from", right.host]
    return Change(kind, right.principal.removeprefix("User:"), " ".join(words) + advice, right=right)


def _name(part: Any) -> str:
    name: str = part.name  # the stubs of confluent-kafka allow words and numbers, which Kafka's answers never hold
    return name


def _read_config(admin: AdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
    if not resources:
        return {}
    answers = admin.describe_configs(resources, request_timeout=TIMEOUT_SECONDS)
    return {
        resource.name: {
            entry.name: str(entry.value)
            for entry in answer.result().values()
            if entry.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
        }
        for resource, answer in answers.items()
    }


def _read_rights(admin: AdminClient) -> frozenset[AclBinding]:
    anything: Any = None  # the stubs of confluent-kafka do not know that a filter may leave names open
    everything = AclBindingFilter(
        ResourceType.ANY,
        anything,
        ResourcePatternType.ANY,
        anything,
        anything,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    return frozenset(admin.describe_acls(everything, request_timeout=TIMEOUT_SECONDS).result())


def _create_topics(admin: AdminClient, changes: list[Change]) -> Mapping[Any, Any]:
    wanted = [change.topic for change in changes if change.topic]
    new = [NewTopic(t.name, t.partitions, t.replication, config=t.broker_config) for t in wanted]
    created: Mapping[Any, Any] = admin.create_topics(new, operation_timeout=TIMEOUT_SECONDS)
    return created


def _add_partitions(admin: AdminClient, changes: list[Change]) -> Mapping[Any, Any]:
    wanted = [NewPartitions(change.topic.name, change.topic.partitions) for change in changes if change.topic]
    grown: Mapping[Any, Any] = admin.create_partitions(wanted, operation_timeout=TIMEOUT_SECONDS)
    return grown


def _alter_config(admin: AdminClient, changes: list[Change]) -> Mapping[Any, Any]:
    entries: dict[str, list[ConfigEntry]] = {}
    for change in changes:
        assert change.setting is not None
        key, value = change.setting
        operation = AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET
        entries.setdefault(change.name, []).append(ConfigEntry(key, value, incremental_operation=operation))
    resources = [
        ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=of_topic)
        for name, of_topic in entries.items()
    ]
    altered: Mapping[Any, Any] = admin.incremental_alter_configs(resources, request_timeout=TIMEOUT_SECONDS)
    return altered


def _add_rights(admin: AdminClient, changes: list[Change]) -> Mapping[Any, Any]:
    rights = [change.right for change in changes if change.right]
    created: Mapping[Any, Any] = admin.create_acls(rights, request_timeout=TIMEOUT_SECONDS)
    return created


def _remove_rights(admin: AdminClient, changes: list[Change]) -> Mapping[Any, Any]:
    exactly = [_exactly(change.right) for change in changes if change.right]
    deleted: Mapping[Any, Any] = admin.delete_acls(exactly, request_timeout=TIMEOUT_SECONDS)
    return deleted


def _exactly(right: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        right.restype,
        right.name,
        right.resource_pattern_type,
        right.principal,
        right.host,
        right.operation,
        right.permission_type,
    )


def _wait(futures: Mapping[Any, Any]) -> None:
    for subject, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            raise CommandError(f"Kafka refused a change of {subject}: {error.args[0].str()}") from error
