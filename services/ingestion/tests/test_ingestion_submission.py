from __future__ import annotations

import base64
import contextlib

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.http.problems import Problem
from ingestion.submission import ITEMS_MAX, MessageItem, parse_batch, parse_single


def an_item(**changes):
    item = {
        "tool": "email",
        "inbox": "hello@lindqvist.example",
        "recipient": {"address": "ines.moreau@mail.example", "name": "Ines Moreau"},
        "content": {"subject": "Your glasses are ready", "text": "They are at the counter until Friday.\n"},
        "purpose": "order-ready",
        "legal_basis": {"kind": "contract", "reference": "order-2041"},
    }
    item.update(changes)
    return {name: value for name, value in item.items() if value is not ...}


def body(item) -> bytes:
    return orjson.dumps(item)


def problem_with(item, header_key=None) -> Problem:
    parsed = parse_single(item if isinstance(item, bytes) else body(item), header_key)
    assert isinstance(parsed, Problem), parsed
    return parsed


def test_a_complete_item_is_read():
    parsed = parse_single(body(an_item()), "k-1")
    assert isinstance(parsed, MessageItem)
    assert parsed.idempotency_key == "k-1"


@pytest.mark.parametrize(
    ("change", "kind", "field", "limit"),
    [
        ({"colour": "red"}, "unknown-field", "colour", None),
        ({"recipient": {"address": "a@b.example", "phone": "1"}}, "unknown-field", "recipient.phone", None),
        ({"duplicates_allowed": "perhaps"}, "invalid-field", "duplicates_allowed", None),
        ({"recipient": 7}, "invalid-field", "recipient", None),
        ({"recipient": {"address": "a" * 100_001}}, "invalid-field", "recipient.address", 254),
        ({"purpose": "for ines@mail.example"}, "invalid-field", "purpose", None),
        ({"reference": "r" * 101}, "invalid-field", "reference", 100),
        ({"idempotency_key": "k" * 201}, "invalid-field", "idempotency_key", 200),
        ({"content": {"subject": "s" * 999, "text": "t"}}, "invalid-field", "content.subject", 998),
        ({"content": {"eml": "no base64!"}}, "invalid-field", "content.eml", None),
        ({"not_before": "2026-11-22T12:00:00"}, "invalid-field", "not_before", None),
        ({"legal_basis": {"kind": "because"}}, "invalid-field", "legal_basis.kind", None),
        ({"tool": "telegraph"}, "unknown-tool", "tool", None),
        ({"tool": "telephony"}, "unknown-tool", "tool", None),
        ({"purpose": ...}, "invalid-field", "purpose", None),
    ],
)
def test_what_does_not_fit_is_named(change, kind, field, limit):
    problem = problem_with(an_item(**change))
    assert (problem.status, problem.kind, problem.field, problem.limit) == (422, kind, field, limit)


def test_a_body_that_is_no_utf8_is_told_at_which_byte():
    problem = problem_with(body(an_item()).replace(b"Moreau", b"Mor\xffau"))
    assert (problem.status, problem.kind, problem.field) == (400, "invalid-utf-8", "body")


@pytest.mark.parametrize(
    "raw", [b"", b"{", b'{"tool": "\\ud800"}', b"[" * 100_000], ids=["empty", "open", "half", "deep"]
)
def test_a_body_that_is_no_json_is_refused(raw):
    problem = problem_with(raw)
    assert (problem.status, problem.kind, problem.field) == (400, "invalid-json", "body")


def test_no_value_is_ever_echoed():
    problem = problem_with(an_item(recipient={"address": 5, "secret-name": "ines"}))
    assert "ines" not in str(problem.document())


def test_header_and_body_may_not_name_different_idempotency_keys():
    problem = problem_with(an_item(idempotency_key="one"), "two")
    assert (problem.kind, problem.field) == ("invalid-field", "idempotency_key")
    assert isinstance(parse_single(body(an_item(idempotency_key="one")), "one"), MessageItem)


@pytest.mark.parametrize("key", ["", "k" * 201, "k\u00e9y"])
def test_an_idempotency_key_in_the_header_keeps_the_same_rules(key):
    assert problem_with(an_item(), key).field == "idempotency_key"


def test_a_batch_of_501_names_the_limit():
    with pytest.raises(Problem) as caught:
        parse_batch(body({"items": [an_item()] * (ITEMS_MAX + 1)}))
    problem = caught.value
    assert (problem.status, problem.kind, problem.field, problem.limit) == (422, "batch-too-large", "items", 500)


@pytest.mark.parametrize(
    ("envelope", "field"),
    [
        ({}, "items"),
        ({"items": []}, "items"),
        ({"items": 5}, "items"),
        ({"items": [an_item()], "x": 1}, "items"),
        ([], "body"),
    ],
)
def test_what_is_no_batch_is_refused_whole(envelope, field):
    with pytest.raises(Problem) as caught:
        parse_batch(body(envelope))
    assert (caught.value.status, caught.value.field) == (422, field)


def test_an_invalid_item_does_not_refuse_the_others():
    parsed = parse_batch(body({"items": [an_item(), an_item(colour="red"), 5, an_item()]}))
    assert [isinstance(each, MessageItem) for each in parsed] == [True, False, False, True]


def test_the_same_content_has_one_fingerprint_however_it_is_written():
    one = parse_single(body(an_item(not_before="2026-12-01T10:00:00Z")), "k-1")
    reordered = dict(reversed(an_item(not_before="2026-12-01T10:00:00+00:00", duplicates_allowed=False).items()))
    other_key = parse_single(body(reordered), "k-2")
    assert one.fingerprint() == other_key.fingerprint()
    assert one.fingerprint() != parse_single(body(an_item()), "k-1").fingerprint()


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_both_base64_alphabets_are_read(encode):
    raw = bytes(range(240, 256))
    parsed = parse_single(body(an_item(content={"eml": encode(raw).decode()})), None)
    assert parsed.content.eml == raw


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = [*an_item(), "not_before", "not_after", "duplicates_allowed", "idempotency_key", "reference", "colour"]
ITEMS = (
    st.builds(lambda changes: {**an_item(), **changes}, st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=2))
    | JSON
)


def outcome(parsed):
    return parsed.document() if isinstance(parsed, Problem) else parsed


@settings(max_examples=150, deadline=None)
@given(st.lists(ITEMS, min_size=1, max_size=4))
def test_an_item_of_a_batch_is_read_as_it_would_be_alone(items):
    alone = [outcome(parse_single(body(item), None)) for item in items]
    together = [outcome(parsed) for parsed in parse_batch(body({"items": items}))]
    assert together == alone


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(raw):
    parse_single(raw, None)
    with contextlib.suppress(Problem):
        parse_batch(raw)
