"""The AsyncAPI document is one by its official schema, and says of every topic what the registry says."""

from __future__ import annotations

import copy
import json
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator

from common.events import EVENTS
from common.kafka.topics import load_registry
from waystation.contracts import ASYNCAPI

CHECKOUT = Path(__file__).parents[2]
SCHEMA_BYTES = (Path(__file__).parent / "asyncapi" / "3.0.0.json").read_bytes()
DOCUMENT = yaml.safe_load((CHECKOUT / ASYNCAPI).read_text("utf-8"))
REGISTRY = load_registry(CHECKOUT / "deploy" / "topics.yaml")


@pytest.fixture(scope="module")
def official():
    return Draft7Validator(json.loads(SCHEMA_BYTES))


def resolved(reference):
    node = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        node = node[part]
    return node


def references(node):
    if isinstance(node, dict):
        yield from ([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from references(part)


def test_the_schema_is_the_published_one():
    assert sha256(SCHEMA_BYTES).hexdigest() in (Path(__file__).parent / "asyncapi" / "README.md").read_text("utf-8")


def test_the_document_is_valid_by_the_official_schema(official):
    assert [f"{error.json_path}: {error.message[:200]}" for error in official.iter_errors(DOCUMENT)] == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda document: document.pop("asyncapi"),
        lambda document: document["info"].pop("title"),
        lambda document: document["channels"]["intakeMessages"].update(adress="a slip of the pen"),
        lambda document: next(iter(document["operations"].values())).update(action="publish"),
        lambda document: document["channels"]["intakeMessages"]["bindings"]["kafka"].update(partitions="six"),
        lambda document: document["servers"]["kafka"].pop("protocol"),
    ],
)
def test_the_official_schema_finds_what_is_spoilt(official, spoil):
    """The check above could not fail otherwise."""
    document = copy.deepcopy(DOCUMENT)
    spoil(document)
    assert not official.is_valid(document)


def test_every_reference_leads_somewhere():
    found = set(references(DOCUMENT))
    assert len(found) > 20
    for reference in found:
        assert resolved(reference)


def test_channels_are_the_topics_of_the_registry():
    found = {channel["address"]: channel["bindings"]["kafka"] for channel in DOCUMENT["channels"].values()}
    assert found.keys() == {topic.name for topic in REGISTRY.all_topics}
    for topic in REGISTRY.all_topics:
        said = found[topic.name]
        assert (said["topic"], said["partitions"], said["replicas"]) == (
            topic.name,
            topic.partitions,
            topic.replication,
        )
        assert said["topicConfiguration"]["cleanup.policy"] == [topic.cleanup]


def test_operations_are_the_writers_and_readers_of_the_registry():
    told = set()
    for operation in DOCUMENT["operations"].values():
        address = resolved(operation["channel"]["$ref"])["address"]
        (tag,) = operation["tags"]
        group = operation.get("bindings", {}).get("kafka", {}).get("groupId", {"enum": [None]})["enum"][0]
        told.add((operation["action"], address, tag["name"], group))
    writers = {("send", topic.name, writer, None) for topic in REGISTRY.topics for writer in topic.writers}
    readers = {
        ("receive", topic.name, reader.principal, reader.group_or_none)
        for topic in REGISTRY.topics
        for reader in topic.readers
    }
    assert told == writers | readers


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.TYPE)
def test_every_example_fits_the_message_it_is_an_example_of(event):
    message = DOCUMENT["components"]["messages"][event.__name__]
    assert message["examples"]
    for part in ("headers", "payload"):
        schema = {**message[part], "components": DOCUMENT["components"]}
        for example in message["examples"]:
            errors = Draft202012Validator(schema).iter_errors(example[part])
            assert [f"{example['name']} {error.json_path}: {error.message[:200]}" for error in errors] == []


def test_an_example_without_a_field_of_its_statement_does_not_fit():
    message = DOCUMENT["components"]["messages"]["ReceiptIssued"]
    example = copy.deepcopy(message["examples"][0]["payload"])
    del example["receipt"]["statement"]["sequence"]
    schema = {**message["payload"], "components": DOCUMENT["components"]}
    assert not Draft202012Validator(schema).is_valid(example)
