"""CloudEvents in binary mode: what decodes, what does not and why, and that a reason never repeats the data."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.events import EVENTS, EventError, StandingChanged, decode, encode
from common.events.envelope import traceparent_of

CANARY = "jane.roe@example.org"
STANDING = StandingChanged(
    account_id="acme",
    standing="suspended",
    revision=7,
    clause="3(a)",
    reason="complaint confirmed",
    complaint_id="c1",
    decided_by="person",
    since="2026-01-31T09:30:00.000Z",
)
RECORD = encode(STANDING)


def headers(**changes):
    given = {**dict(RECORD.headers), **changes}
    return [(name, value) for name, value in given.items() if value != b"absent"]


def body(**changes):
    return orjson.dumps({**orjson.loads(RECORD.value), **changes})


def test_an_event_is_the_same_after_the_journey():
    assert decode(StandingChanged, RECORD.value, RECORD.headers) == STANDING
    assert (RECORD.topic, RECORD.key) == ("enforcement.standings", b"acme")


def test_the_attributes_stand_in_headers():
    assert dict(RECORD.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"acme.7",
        "ce_type": b"enforcement.standing.changed.v1",
        "ce_source": b"waystation/enforcement",
        "ce_time": b"2026-01-31T09:30:00.000Z",
        "ce_subject": b"acme",
        "content-type": b"application/json",
    }


def test_a_trace_context_goes_along_as_it_came():
    traced = encode(STANDING, traceparent=b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    assert traceparent_of(traced.headers) == b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert traceparent_of(RECORD.headers) is None


def test_a_body_that_the_caller_has_already_is_taken_as_it_is():
    assert encode(STANDING, body=b'{"as": "it is"}').value == b'{"as": "it is"}'


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (b"absent", "found none"),
        (None, "found none"),
        (b"", "found ''"),
        (b"enforcement.standing.changed.v2", r"found 'enforcement\.standing\.changed\.v2'"),
        (b"enforcement.standing.changed.v1 ", "found"),
        (b"ENFORCEMENT.STANDING.CHANGED.V1", "found"),
        (b"\xff\xfe\x00", r"found '\\ufffd\\ufffd\\x00'"),
        (b"x" * 100_000, "found 'x{100}'$"),
    ],
)
def test_a_broken_type_is_named(kind, found):
    with pytest.raises(EventError, match="ce_type: expected enforcement.standing.changed.v1, " + found):
        decode(StandingChanged, RECORD.value, headers(ce_type=kind))


@pytest.mark.parametrize("value", [None, b""])
def test_an_empty_record_is_called_empty(value):
    with pytest.raises(EventError, match="value: the record is empty"):
        decode(StandingChanged, value, RECORD.headers)


def test_headers_that_are_no_text_or_null_do_not_disturb():
    odd = [("x", b"\xff\xfe"), ("x", None), ("ce_id", b"\xff"), ("", b""), *RECORD.headers]
    assert decode(StandingChanged, RECORD.value, odd) == STANDING


def test_unknown_fields_are_ignored():
    assert decode(StandingChanged, body(added_later={"deep": [1]}), RECORD.headers) == STANDING


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", "value: Invalid JSON"),
        (b"null", "value: "),
        (b"[]", "value: "),
        (b"\xff\xfe{}", "value: Invalid JSON"),
        (b"{}", "account_id: Field required"),
        (body(standing=CANARY), "standing: Input should be 'good'"),
        (body(revision=CANARY), "revision: Input should be a valid integer"),
        (body(account_id=[CANARY]), "account_id: Input should be a valid string"),
        (body(account_id={CANARY: CANARY}), "account_id: "),
        (body(reason=None), "reason: "),
        (body(decided_by="oracle " + CANARY), "decided_by: "),
        (body(account_id="x").replace(b'"x"', b'"\\ud800"'), "value: Invalid JSON"),
        (b"[" * 100_000, "value: Invalid JSON"),
        (CANARY.encode() * 50_000, "value: Invalid JSON"),
    ],
)
def test_a_broken_body_is_refused_by_field_and_never_repeated(value, reason):
    with pytest.raises(EventError, match=reason) as caught:
        decode(StandingChanged, value, RECORD.headers)
    assert CANARY not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("event", EVENTS)
@given(value=st.binary(max_size=200) | st.dictionaries(st.text(max_size=9), st.text(max_size=9)).map(orjson.dumps))
@settings(max_examples=60, deadline=None)
def test_garbage_is_an_event_error_for_every_type(event, value):
    with pytest.raises(EventError):
        decode(event, value, [("ce_type", event.TYPE.encode())])


@pytest.mark.parametrize("event", EVENTS)
def test_no_field_of_an_event_is_repeated_in_a_reason(event):
    fields = {name: {"statement": CANARY, "proof": [CANARY], CANARY: CANARY} for name in event.model_fields}
    with pytest.raises(EventError) as caught:
        decode(event, orjson.dumps(fields), [("ce_type", event.TYPE.encode())])
    assert CANARY not in str(caught.value)
