"""The OpenAPI documents: valid by the specification, and written so that a stranger can call a service by them alone."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from common.http.problems import MEDIA_TYPE, TYPE_PREFIX, ProblemDocument
from waystation.stack import SERVICES

CHECKOUT = Path(__file__).parents[2]
DOCUMENTS = {
    service: json.loads((CHECKOUT / "contracts" / "openapi" / f"{service}.json").read_text("utf-8"))
    for service in SERVICES
}
OPEN_TO_ANYBODY = {"fileComplaint", "fileFeedbackReport", "getRules", "livez", "readyz"}
BOUND_BY_THE_REQUEST = {"text", "html", "eml", "content"}
"""Texts that have no bound of their own: what bounds them is the size of the request."""


class Operation(NamedTuple):
    """One operation with the document that it stands in."""

    document: dict
    method: str
    path: str
    said: dict

    @property
    def is_health(self):
        return self.said["tags"] == ["health"]


OPERATIONS = [
    Operation(document, method, path, said)
    for document in DOCUMENTS.values()
    for path, methods in document["paths"].items()
    for method, said in methods.items()
]
every_service = pytest.mark.parametrize("service", SERVICES)
every_operation = pytest.mark.parametrize(
    "operation", OPERATIONS, ids=lambda one: f"{one.document['info']['title'].split()[1]}-{one.said['operationId']}"
)


def problems_with(operation, schema, value):
    """What keeps a value from fitting a schema of the operation's document."""
    validator = Draft202012Validator(
        {**schema, "components": operation.document["components"]},
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]


@every_service
def test_a_document_is_valid_openapi_3_1(service):
    document = DOCUMENTS[service]
    assert document["openapi"].startswith("3.1.")
    validate(document)


@every_service
def test_a_document_says_what_the_service_is_for_and_how_much_it_takes(service):
    document = DOCUMENTS[service]
    assert document["info"]["license"]["identifier"] == "Apache-2.0"
    assert len(document["info"]["description"]) > 80
    assert all(tag["description"].endswith(".") for tag in document["tags"])
    takes_bodies = any("requestBody" in each.said for each in OPERATIONS if each.document is document)
    assert ("Limits: " in document["info"]["description"]) == (takes_bodies and service != "routing")


@every_service
def test_operation_ids_are_unique_within_a_service(service):
    ids = [each.said["operationId"] for each in OPERATIONS if each.document is DOCUMENTS[service]]
    assert [name for name, count in Counter(ids).items() if count > 1] == []


@every_operation
def test_an_operation_is_named_and_described(operation):
    said = operation.said
    assert re.fullmatch(r"[a-z]+([A-Z][a-z]*)*", said["operationId"])
    assert re.match(r"[A-Z]", said["summary"])
    assert 8 < len(said["summary"]) <= 80
    assert said["description"].endswith(".")
    assert set(said["tags"]) <= {tag["name"] for tag in operation.document["tags"]}
    assert len(said["tags"]) == 1


@every_operation
def test_an_operation_says_who_may_use_it(operation):
    schemes = {name for one in operation.said["security"] for name in one}
    assert (not schemes) == (operation.said["operationId"] in OPEN_TO_ANYBODY)
    assert schemes <= operation.document["components"]["securitySchemes"].keys()
    if schemes:
        assert "401" in operation.said["responses"]
    if schemes == {"operatorToken"}:
        assert "403" in operation.said["responses"]


@every_operation
def test_every_refusal_is_a_problem_document_of_a_listed_type(operation):
    for status, response in operation.said["responses"].items():
        if status.startswith("2") or operation.is_health:
            continue
        assert list(response["content"]) == [MEDIA_TYPE], status
        media = response["content"][MEDIA_TYPE]
        whole, narrowed = media["schema"]["allOf"]
        assert whole == {"$ref": "#/components/schemas/ProblemDocument"}
        kinds = [each.removeprefix(TYPE_PREFIX) for each in narrowed["properties"]["type"]["enum"]]
        assert sorted(kinds) == sorted(media["examples"])
        assert all(f"`{kind}`: " in response["description"] for kind in kinds)


@every_operation
def test_an_operation_lists_the_refusals_that_cannot_be_missing(operation):
    responses = operation.said["responses"]
    if operation.is_health:
        return
    if "application/json" in operation.said.get("requestBody", {}).get("content", {}):
        assert {"400", "413", "422"} - responses.keys() <= {"413"}
    if operation.said.get("parameters"):
        assert "422" in responses
    assert ("503" in responses) == (operation.said["operationId"] != "getRules")
    for status in ("429", "503"):
        if status in responses:
            assert responses[status]["headers"]["Retry-After"]["required"]


@every_operation
def test_every_body_has_an_example_that_fits_its_schema(operation):
    bodies = dict(operation.said.get("requestBody", {}).get("content", {}))
    (good,) = (response for status, response in operation.said["responses"].items() if status.startswith("2"))
    for kind, media in [*bodies.items(), *good["content"].items()]:
        assert "example" in media, kind
        if kind == "application/json":
            assert problems_with(operation, media["schema"], media["example"]) == []


@every_operation
def test_every_parameter_in_the_path_has_an_example_that_fits(operation):
    for parameter in operation.said.get("parameters", ()):
        if parameter["in"] == "path":
            assert "example" in parameter, parameter["name"]
        if "example" in parameter:
            assert problems_with(operation, parameter["schema"], parameter["example"]) == []


@every_service
def test_every_example_of_a_problem_is_one(service):
    for kind, example in DOCUMENTS[service]["components"]["examples"].items():
        found = ProblemDocument.model_validate(example["value"])
        assert found.type == TYPE_PREFIX + kind


@every_operation
def test_what_a_caller_may_write_is_bounded(operation):
    for media in operation.said.get("requestBody", {}).get("content", {}).values():
        assert unbounded(operation, media["schema"], "body", set()) == []


def unbounded(operation, schema, place, seen):
    """Places of a request's schema where a text, a list or an object could be of any size."""
    if "$ref" in schema:
        if schema["$ref"] in seen:
            return []
        name = schema["$ref"].rpartition("/")[2]
        return unbounded(operation, operation.document["components"]["schemas"][name], place, seen | {schema["$ref"]})
    found = [
        part
        for option in (*schema.get("anyOf", ()), *schema.get("allOf", ()))
        for part in unbounded(operation, option, place, seen)
    ]
    kind = schema.get("type")
    fixed = {"maxLength", "enum", "const", "format"} & schema.keys() or place.rpartition(".")[2] in BOUND_BY_THE_REQUEST
    if kind == "string" and not fixed:
        found.append(place)
    if kind == "array":
        found += [] if "maxItems" in schema else [place]
        found += unbounded(operation, schema["items"], f"{place}[]", seen)
    for name, part in schema.get("properties", {}).items():
        found += unbounded(operation, part, f"{place}.{name}", seen)
    return found
