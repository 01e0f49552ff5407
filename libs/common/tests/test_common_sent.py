"""Events as they were sent: read without their models, verified by the bytes that came, and never more trusting."""

from __future__ import annotations

import orjson
import pytest

from common.events import EventError, ReceiptIssued, VerdictReached, decode
from common.events.intake import MessageAdmitted, SentMessage, VerifiedInstruction, admitted_body
from common.events.routing import SentReceipt
from common.events.screening import SentVerdict, VerifiedVerdict
from common.security.signing import SignatureError, SignedJson, canonical

HEADERS = [("ce_type", VerdictReached.TYPE.encode())]


@pytest.fixture
def reached(admitted, key_pair, verdict_on):
    """A verdict's record as moderation makes it, with the keys of the door and of moderation."""
    message, keys = admitted
    moderation = key_pair("verdict")
    statement = canonical(message.instruction.statement)
    instruction = SignedJson(statement, "", orjson.dumps(message.instruction.proof.__dict__))
    digest = VerifiedInstruction.verify(message, keys.trusted).digest
    (verdict,) = moderation.signer.sign_json([canonical(verdict_on(digest).statement())])
    sealed = message.sealed
    body = admitted_body(instruction, sealed.capsule, sealed.envelope, sealed.content)
    return VerdictReached.body(verdict, body), keys.trusted, moderation.trusted


def verified(event, instructions, verdicts):
    instruction = VerifiedInstruction.verify(event.message, instructions)
    verdict = VerifiedVerdict.verify(event.verdict, instruction, verdicts)
    return instruction.digest, instruction.instruction, instruction.sealed, verdict.verdict


def spaced(value):
    return orjson.dumps(orjson.loads(value), option=orjson.OPT_INDENT_2)


def backwards(value):
    event = orjson.loads(value)
    event["verdict"]["statement"] = dict(reversed(event["verdict"]["statement"].items()))
    return orjson.dumps(event)


def with_number_as_text(value):
    event = orjson.loads(value)
    event["verdict"]["proof"]["size"] = "1"
    return orjson.dumps(event)


@pytest.mark.parametrize("form", [bytes, spaced, backwards, with_number_as_text])
def test_what_was_sent_verifies_as_its_model_does(reached, form):
    value, instructions, verdicts = reached
    sent = decode(SentVerdict, form(value), HEADERS)
    model = decode(VerdictReached, form(value), HEADERS)
    assert verified(sent, instructions, verdicts) == verified(model, instructions, verdicts)


def changed(value, *path, to):
    event = orjson.loads(value)
    *within, last = path
    part = event
    for name in within:
        part = part[name]
    part[last] = to
    return orjson.dumps(event)


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("message", "instruction", "statement", "recipient_token"), "rt_other"),
        (("message", "instruction", "proof", "index"), 1),
        (("message", "instruction", "proof", "path"), "*"),
        (("message", "instruction", "proof", "key"), "00" * 8),
        (("message", "sealed", "content"), "b3RoZXI="),
        (("verdict", "statement", "action"), "block"),
        (("verdict", "statement"), {}),
    ],
)
def test_what_was_changed_on_its_way_is_refused_for_the_same_reason(reached, path, to):
    value, instructions, verdicts = reached
    value = changed(value, *path, to=to)
    with pytest.raises(SignatureError) as of_model:
        verified(decode(VerdictReached, value, HEADERS), instructions, verdicts)
    with pytest.raises(SignatureError) as of_sent:
        verified(decode(SentVerdict, value, HEADERS), instructions, verdicts)
    assert str(of_sent.value) == str(of_model.value)


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("verdict",), None),
        (("verdict", "statement"), "text"),
        (("verdict", "proof", "size"), "many"),
        (("message", "sealed", "content"), "no base64!"),
        (("message", "sealed"), {}),
        (("message",), []),
    ],
)
def test_what_is_no_event_is_refused_in_the_words_of_its_model(reached, path, to):
    value = changed(reached[0], *path, to=to)
    with pytest.raises(EventError) as of_model:
        decode(VerdictReached, value, HEADERS)
    with pytest.raises(EventError) as of_sent:
        decode(SentVerdict, value, HEADERS)
    assert str(of_sent.value) == str(of_model.value)


@pytest.mark.parametrize(
    ("sent", "model", "parts"),
    [
        (SentReceipt, ReceiptIssued, b'{"receipt":{"statement":{"a":"\xff"},"proof":{}}}'),
        (SentMessage, MessageAdmitted, b'{"instruction":{},"sealed":{}}'),
    ],
)
def test_what_is_no_event_at_all_is_refused_in_the_words_of_its_model_too(sent, model, parts):
    headers = [("ce_type", model.TYPE.encode())]
    for value in (b"{", b"\xff", b"[]", parts):
        with pytest.raises(EventError) as of_model:
            decode(model, value, headers)
        with pytest.raises(EventError) as of_sent:
            decode(sent, value, headers)
        assert str(of_sent.value) == str(of_model.value)


def test_a_statement_that_is_nested_beyond_reading_is_refused(reached, key_pair):
    nested = b'{"a":' + b"[" * 600 + b"]" * 600 + b"}"
    (signed,) = key_pair("receipt").signer.sign_json([nested])
    sent = decode(SentReceipt, ReceiptIssued.body(signed), [("ce_type", ReceiptIssued.TYPE.encode())])
    with pytest.raises(SignatureError):
        key_pair("receipt").trusted.verify(sent.receipt)


@pytest.mark.parametrize("form", [bytes, spaced])
def test_an_admitted_message_that_was_sent_verifies_as_its_model_does(admitted, form):
    message, keys = admitted
    value = form(message.model_dump_json().encode())
    headers = [("ce_type", MessageAdmitted.TYPE.encode())]
    sent, model = decode(SentMessage, value, headers), decode(MessageAdmitted, value, headers)
    one, other = (VerifiedInstruction.verify(event, keys.trusted) for event in (sent, model))
    assert (one.digest, one.instruction, one.sealed) == (other.digest, other.instruction, other.sealed)
