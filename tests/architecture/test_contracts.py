"""Contracts between services: snapshots, golden examples, and the topics that carry them."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import orjson
import pytest

from common.events import (
    EVENTS,
    MessageAdmitted,
    PolicyStated,
    ReceiptIssued,
    StandingChanged,
    VerdictReached,
    decode,
    encode,
)
from common.events.envelope import traceparent_of
from common.events.intake import VerifiedInstruction
from common.events.routing import Receipt
from common.events.screening import VerifiedPolicyState, VerifiedVerdict
from common.kafka.topics import load_registry
from common.security.signing import TrustedKeys
from waystation import contracts
from waystation.contracts.statements import STATEMENTS

CHECKOUT = Path(__file__).parents[2]
REGISTRY = load_registry(CHECKOUT / "deploy" / "topics.yaml")
KEYS = CHECKOUT / "contracts" / "keys"
EXAMPLES = [
    (event, path) for event in EVENTS for path in sorted((CHECKOUT / "contracts" / event.TYPE).glob("examples/*"))
]
FOR_AUDITORS = {"vault.checkpoints", "vault.withdrawals"}
"""Read by people outside, who may as the operator."""
every_event = pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.TYPE)
every_example = pytest.mark.parametrize(("event", "path"), EXAMPLES, ids=lambda part: getattr(part, "stem", ""))


def read(event, path):
    """The example as bytes of a record: key, headers, value."""
    example = json.loads(path.read_text("utf-8"))
    headers = [(name, text.encode()) for name, text in example["headers"].items()]
    return example["key"].encode(), headers, orjson.dumps(example["body"])


def decoded(event, path):
    _, headers, value = read(event, path)
    return decode(event, value, headers)


@pytest.fixture(scope="module")
def wanted():
    return contracts.generate(CHECKOUT)


def test_generated_files_are_those_of_the_models_the_routes_and_the_registry(wanted):
    assert contracts.differences(CHECKOUT, wanted) == [], "run `make contracts` and review what changed"


def test_a_difference_is_found_and_written_once(tmp_path, wanted):
    stale = tmp_path / "contracts" / "intake.message.admitted.v0" / "schema.json"
    stale.parent.mkdir(parents=True)
    stale.touch()
    written = contracts.write(tmp_path, wanted)
    assert str(stale.relative_to(tmp_path)) in written
    assert not stale.exists()
    assert contracts.write(tmp_path, wanted) == contracts.differences(tmp_path, wanted) == []
    (tmp_path / "docs" / "events.md").write_text("edited by hand")
    (tmp_path / "contracts" / "openapi" / "former.json").touch()
    assert contracts.differences(tmp_path, wanted) == ["contracts/openapi/former.json", "docs/events.md"]


@every_event
def test_what_is_written_has_the_same_schema_as_what_is_read(event):
    for model in filter(None, (event, STATEMENTS.get(event))):
        assert model.model_json_schema(mode="serialization") == model.model_json_schema(mode="validation")


@every_event
def test_every_event_has_examples(event):
    assert [path for of, path in EXAMPLES if of is event]


def test_every_folder_of_contracts_belongs_to_an_event():
    folders = {path.name for path in (CHECKOUT / "contracts").iterdir() if path.is_dir()}
    assert folders == {"keys", "openapi", *(event.TYPE for event in EVENTS)}


@every_example
def test_an_example_decodes(event, path):
    key, headers, value = read(event, path)
    found = decode(event, value, headers)
    attributes = dict(headers)
    assert (found.key.encode(), found.event_id.encode()) == (key, attributes["ce_id"])
    assert (found.time.encode(), key) == (attributes["ce_time"], attributes["ce_subject"])


@every_example
def test_an_example_encodes_to_the_same_record_but_for_fields_that_are_not_known(event, path):
    key, headers, value = read(event, path)
    again = encode(decode(event, value, headers), traceparent=traceparent_of(headers))
    assert (again.topic, again.key, list(again.headers)) == (event.TOPIC, key, headers)
    missing = unlike(orjson.loads(value), orjson.loads(again.value))
    assert missing == ({"received_at", "sealed.format"} if "newer" in path.stem else set())


@every_example
def test_an_example_with_more_fields_decodes_to_the_same(event, path):
    _, headers, value = read(event, path)
    more = orjson.dumps(with_unknown_fields(orjson.loads(value)))
    assert decode(event, more, headers) == decode(event, value, headers)


@every_example
def test_an_example_without_a_required_field_does_not_decode(event, path):
    _, headers, value = read(event, path)
    body = orjson.loads(value)
    for name, field in event.model_fields.items():
        less = orjson.dumps({k: v for k, v in body.items() if k != name})
        if not field.is_required():  # added since: events of before do not have it
            assert decode(event, less, headers)
            continue
        with pytest.raises(Exception, match=f"{name}: Field required"):
            decode(event, less, headers)


def test_examples_of_messages_and_verdicts_are_genuinely_signed():
    instructions, verdicts = (TrustedKeys.from_folder(purpose, KEYS) for purpose in ("instruction", "verdict"))
    for event, path in EXAMPLES:
        if event is MessageAdmitted:
            assert VerifiedInstruction.verify(decoded(event, path), instructions)
        if event is VerdictReached:
            found = decoded(event, path)
            instruction = VerifiedInstruction.verify(found.message, instructions)
            assert VerifiedVerdict.verify(found.verdict, instruction, verdicts).verdict.action == path.stem


def test_examples_of_receipts_are_genuinely_signed():
    receipts = TrustedKeys.from_folder("receipt", KEYS)
    for event, path in EXAMPLES:
        if event is ReceiptIssued:
            signed = decoded(event, path).receipt
            assert receipts.verify(signed)
            assert Receipt.model_validate(signed.statement).statement() == signed.statement


def test_examples_of_policies_are_genuinely_signed_and_the_highest_revision_holds():
    keys = TrustedKeys.from_folder("policy", KEYS), TrustedKeys.from_folder("verdict", KEYS)
    found = [decoded(event, path) for event, path in EXAMPLES if event is PolicyStated]
    states = sorted((VerifiedPolicyState.verify(one.state, *keys).state for one in found), key=lambda one: one.revision)
    assert [(one.status, one.decided_by) for one in states] == [
        ("shadow", "person"),
        ("active", "person"),
        ("rolled-back", "machine"),
    ]


def test_the_standing_with_the_higher_revision_holds():
    found = [decoded(event, path) for event, path in EXAMPLES if event is StandingChanged]
    assert [one.standing for one in sorted(found, key=lambda one: one.revision)] == ["suspended", "good"]


@every_event
def test_an_event_travels_on_a_declared_topic_that_its_producer_alone_writes(event):
    topic = REGISTRY.topic(event.TOPIC)
    producer = event.SOURCE.removeprefix("waystation/")
    assert topic.writers == (producer,)
    assert topic.owner == producer


@every_event
def test_an_event_is_named_for_the_context_of_its_topic(event):
    context, noun, past_tense, major = event.TYPE.split(".")
    assert event.TOPIC.startswith(f"{context}.{noun[:5]}")
    assert past_tense.endswith("ed")
    assert major.startswith("v")
    assert "Event" not in event.__name__


def test_every_declared_topic_carries_an_event():
    assert {topic.name for topic in REGISTRY.topics} == {event.TOPIC for event in EVENTS}


def test_every_topic_is_owned_by_a_service_and_read_by_services():
    services = {path.name for path in (CHECKOUT / "services").iterdir() if path.is_dir()}
    for topic in REGISTRY.topics:
        assert {topic.owner, *topic.writers, *(reader.principal for reader in topic.readers)} <= services
        assert topic.description
        assert topic.readers or topic.name in FOR_AUDITORS, "what nobody reads is not needed yet"


def test_groups_are_named_for_their_service():
    for topic in REGISTRY.topics:
        for reader in topic.readers:
            assert reader.group == "none" or reader.group.startswith(f"{reader.principal}.")


def test_topics_that_share_a_key_have_equal_partition_counts():
    counts = defaultdict(set)
    for topic in REGISTRY.topics:
        counts[topic.key].add(topic.partitions)
    assert all(len(partitions) == 1 for partitions in counts.values()), dict(counts)


def test_what_is_compacted_is_read_without_a_group_by_all_and_else_by_who_writes_or_decides_again():
    for topic in REGISTRY.topics:
        without_group = {reader.principal for reader in topic.readers if reader.group_or_none is None}
        if topic.cleanup == "compact":
            assert without_group == {reader.principal for reader in topic.readers}
        else:
            assert without_group <= set(topic.writers)  # what it said itself, after its database was put back


def unlike(wanted, found, place=""):
    """The places of an example's fields that are missing or other after the journey."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return {
            where
            for name, value in wanted.items()
            for where in (
                unlike(value, found[name], f"{place}.{name}") if name in found else {f"{place}.{name}".strip(".")}
            )
        }
    return set() if wanted == found else {place.strip(".")}


def with_unknown_fields(body):
    """Every object gets one, but what is signed stays as it is."""
    if isinstance(body, dict):
        inner = {name: value if name == "statement" else with_unknown_fields(value) for name, value in body.items()}
        return {**inner, "field_of_the_future": {"deep": [1, None]}}
    return body
