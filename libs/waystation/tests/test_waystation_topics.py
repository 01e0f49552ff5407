"""The topic registry: what it declares, the rights that follow, and the differences to a cluster."""

from __future__ import annotations

import pytest
import yaml
from confluent_kafka.admin import AclBinding, AclOperation, AclPermissionType, ResourcePatternType, ResourceType
from pydantic import ValidationError

from common.kafka.topics import Acl, TopicRegistry, dlq_name, load_registry
from waystation.stack import SERVICES, checkout_folder
from waystation.topics import Observed, plan, right_of

PATH = checkout_folder() / "deploy" / "topics.yaml"


@pytest.fixture(scope="module")
def registry():
    """The registry of the checkout."""
    return load_registry(PATH)


@pytest.fixture
def declared():
    """The registry's file as plain data."""
    return yaml.safe_load(PATH.read_text())


def same(registry):
    """A cluster that is exactly as declared."""
    return Observed(
        {topic.name: topic.partitions for topic in registry.all_topics},
        {topic.name: topic.broker_config for topic in registry.all_topics},
        frozenset(right_of(acl) for acl in registry.acls()),
    )


def stray_right(declared, **differs):
    parts = ("restype", "name", "resource_pattern_type", "principal", "host", "operation", "permission_type")
    return AclBinding(**{**{part: getattr(declared, part) for part in parts}, **differs})


def changes_with(registry, right):
    """What a cluster has to change that is as declared and has one right more."""
    cluster = same(registry)
    return plan(registry, Observed(cluster.partitions, cluster.config, cluster.rights | {right}))


def test_every_principal_is_a_service(registry):
    assert set(registry.principals) == set(SERVICES)


def test_topics_with_one_key_have_equal_partition_counts(registry):
    by_key = {}
    for topic in registry.topics:
        by_key.setdefault(topic.key, set()).add(topic.partitions)
    assert all(len(counts) == 1 for counts in by_key.values())


def test_each_reading_group_has_a_dead_letter_topic_that_only_its_principal_writes(registry):
    dlq = registry.topic(dlq_name("routing.receipts", "vault.spending"))
    assert (dlq.owner, dlq.writers, dlq.readers) == ("vault", ("vault",), ())
    assert dlq.broker_config["retention.ms"] == str(30 * 24 * 3600 * 1000)
    assert len(registry.dlqs) == 5


def test_a_dead_letter_topic_takes_the_largest_record_with_its_reasons(registry):
    largest = max(int(topic.config.get("max.message.bytes", 1_048_588)) for topic in registry.topics)
    assert all(int(dlq.config["max.message.bytes"]) >= largest + 65_536 for dlq in registry.dlqs)


def test_a_reader_without_a_group_reads_the_topic_and_joins_nothing(registry):
    rights = registry.acls()
    assert Acl("ingestion", "TOPIC", "enforcement.standings", "READ") in rights
    assert {acl.name for acl in rights if acl.principal == "ingestion" and acl.resource == "GROUP"} == {
        "ingestion.tracing"
    }


def test_nobody_but_the_declared_writers_and_the_operator_writes(registry):
    rights = registry.acls()
    for topic in registry.all_topics:
        writers = {acl.principal for acl in rights if acl.operation == "WRITE" and acl.name == topic.name}
        replays = {"operator"} if any(reader.group_or_none for reader in topic.readers) else set()
        assert writers == set(topic.writers) | replays
    assert not [acl for acl in rights if acl.operation == "WRITE" and acl.name == "*"]


def test_the_operator_reads_all_and_moves_offsets(registry):
    rights = registry.acls()
    assert {acl.operation for acl in rights if acl[:3] == ("operator", "GROUP", "*")} == {"READ", "DESCRIBE", "DELETE"}
    assert Acl("operator", "TOPIC", "*", "READ") in rights


def test_a_cluster_as_declared_differs_in_nothing(registry):
    assert plan(registry, same(registry)) == []


def test_an_empty_cluster_lacks_everything(registry):
    kinds = [change.kind for change in plan(registry, Observed({}))]
    assert kinds.count("create topic") == len(registry.all_topics)
    assert kinds.count("add right") == len(registry.acls())


@pytest.mark.parametrize(("present", "kind"), [(3, "add partitions"), (9, "by hand")])
def test_partitions_grow_and_never_shrink(registry, present, kind):
    cluster = same(registry)
    cluster.partitions["intake.messages"] = present
    assert [(change.kind, change.name) for change in plan(registry, cluster)] == [(kind, "intake.messages")]


def test_a_setting_that_is_not_declared_goes_back_to_the_default(registry):
    cluster = same(registry)
    cluster.config["routing.receipts"] = {"cleanup.policy": "delete", "retention.ms": "1", "segment.bytes": "9"}
    changes = plan(registry, cluster)
    assert [(change.kind, change.setting) for change in changes] == [
        ("set config", ("retention.ms", "604800000")),
        ("reset config", ("segment.bytes", None)),
    ]


@pytest.mark.parametrize(
    ("differs", "principal", "detail"),
    [
        ({"principal": "User:vault"}, "vault", "WRITE topic intake.messages"),
        ({"permission_type": AclPermissionType.DENY}, "ingestion", "DENY WRITE topic intake.messages"),
        ({"resource_pattern_type": ResourcePatternType.PREFIXED}, "ingestion", "WRITE topic prefixed intake.messages"),
        ({"host": "192.0.2.7"}, "ingestion", "WRITE topic intake.messages from 192.0.2.7"),
        ({"restype": ResourceType.TRANSACTIONAL_ID}, "ingestion", "WRITE transactional_id intake.messages"),
    ],
)
def test_a_right_that_differs_from_the_declared_ones_in_anything_is_removed(registry, differs, principal, detail):
    declared = right_of(Acl("ingestion", "TOPIC", "intake.messages", "WRITE"))
    assert declared in same(registry).rights
    (change,) = changes_with(registry, stray_right(declared, **differs))
    assert (change.kind, change.name, change.detail) == ("remove right", principal, detail)


@pytest.mark.parametrize("unknown", [{"restype": ResourceType.UNKNOWN}, {"operation": AclOperation.UNKNOWN}])
def test_a_right_of_a_kind_that_the_client_has_no_word_for_is_removed_by_hand(registry, unknown):
    declared = right_of(Acl("ingestion", "TOPIC", "intake.messages", "WRITE"))
    (change,) = changes_with(registry, stray_right(declared, **unknown))
    assert (change.kind, change.name) == ("by hand", "ingestion")
    assert "waystation kafka --as admin acls" in change.detail


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("partitions", 0, "partitions"),
        ("name", "Intake_Messages", "name"),
        ("cleanup", "compact", "retention_hours belongs"),
        ("retention_hours", None, "retention_hours belongs"),
        ("surprise", 1, "surprise"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(declared, field, value, complaint):
    declared["topics"][0][field] = value
    with pytest.raises(ValidationError, match=complaint):
        TopicRegistry.model_validate(declared)


def test_a_topic_or_group_declared_twice_is_refused(declared):
    declared["topics"].append(declared["topics"][0])
    with pytest.raises(ValidationError, match="declared twice: intake"):
        TopicRegistry.model_validate(declared)
    declared["topics"][-1] = {**declared["topics"][0], "name": "intake.others"}
    with pytest.raises(ValidationError, match="group declared twice"):
        TopicRegistry.model_validate(declared)


def test_an_unknown_topic_is_named_with_those_that_exist(registry):
    with pytest.raises(KeyError, match=r"intake\.messages"):
        registry.topic("nowhere")
