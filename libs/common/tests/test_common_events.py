"""What may be acted upon: only an instruction and a verdict that were verified here, and that belong together."""

from __future__ import annotations

import orjson
import pytest

from common.events import MessageAdmitted, ReceiptIssued, VerdictReached, decode, encode
from common.events.intake import Instruction, SealedContent, VerifiedInstruction
from common.events.routing import TERMINAL_STATES, DeliveryState, Receipt
from common.events.screening import VerifiedVerdict
from common.security.signing import SignatureError, Signed, canonical


def test_a_verified_instruction_is_made_by_verification_only():
    with pytest.raises(TypeError, match=r"only VerifiedInstruction\.verify"):
        VerifiedInstruction()


def test_a_verified_verdict_is_made_by_verification_only():
    with pytest.raises(TypeError, match=r"only VerifiedVerdict\.verify"):
        VerifiedVerdict()


def test_a_genuine_message_verifies_after_its_journey(admitted, instruction):
    message, keys = admitted
    record = encode(message)
    received = decode(MessageAdmitted, record.value, record.headers)
    verified = VerifiedInstruction.verify(received, keys.trusted)
    assert (verified.instruction, verified.sealed) == (instruction, message.sealed)
    assert (received.event_id, received.key) == (instruction.message_id, instruction.recipient_token)


def test_an_instruction_is_the_same_after_its_statement(instruction):
    assert Instruction.model_validate(orjson.loads(canonical(instruction.statement()))) == instruction


@pytest.mark.parametrize("part", ["capsule", "envelope", "content"])
def test_swapped_sealed_content_is_noticed(admitted, part):
    message, keys = admitted
    swapped = message.model_copy(update={"sealed": message.sealed.model_copy(update={part: b"of another message"})})
    with pytest.raises(SignatureError, match="sealed content is not the one"):
        VerifiedInstruction.verify(swapped, keys.trusted)


def test_bytes_that_move_from_one_part_to_the_next_change_the_digest():
    one = SealedContent(capsule=b"ab", envelope=b"c", content=b"d")
    other = SealedContent(capsule=b"a", envelope=b"bc", content=b"d")
    assert one.digest() != other.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"recipient_token": "rt_other"},
        {"account_id": "other"},
        {"duplicates_allowed": True},
        {"not_after": "2027-01-31T09:30:00.000Z"},
        {"sealed_digest": "00" * 32},
    ],
)
def test_a_genuine_instruction_with_another_field_is_refused(admitted, change):
    message, keys = admitted
    forged = Signed(statement={**message.instruction.statement, **change}, proof=message.instruction.proof)
    with pytest.raises(SignatureError, match="does not fit"):
        VerifiedInstruction.verify(message.model_copy(update={"instruction": forged}), keys.trusted)


@pytest.mark.parametrize("statement", [{}, {"message_id": 5}, {"message_id": "m", "recipient_token": "rt_x"}])
def test_a_signed_statement_of_another_shape_is_no_instruction(admitted, statement):
    message, keys = admitted
    odd = message.model_copy(update={"instruction": keys.signer.sign([statement])[0]})
    with pytest.raises(SignatureError, match="not the shape of an instruction"):
        VerifiedInstruction.verify(odd, keys.trusted)


def test_a_genuine_verdict_on_this_instruction_verifies(admitted, key_pair, verdict_on):
    message, keys = admitted
    moderation = key_pair("verdict")
    verified = VerifiedInstruction.verify(message, keys.trusted)
    verdict = verdict_on(verified.digest)
    signed = moderation.signer.sign([verdict.statement()])[0]
    assert VerifiedVerdict.verify(signed, verified, moderation.trusted).verdict == verdict


def test_a_verdict_on_another_instruction_is_refused(admitted, key_pair, verdict_on):
    message, keys = admitted
    moderation = key_pair("verdict")
    signed = moderation.signer.sign([verdict_on("00" * 32).statement()])[0]
    with pytest.raises(SignatureError, match="judges another instruction"):
        VerifiedVerdict.verify(signed, VerifiedInstruction.verify(message, keys.trusted), moderation.trusted)


def test_a_block_that_was_turned_into_an_allow_is_refused(admitted, key_pair, verdict_on):
    message, keys = admitted
    moderation = key_pair("verdict")
    verified = VerifiedInstruction.verify(message, keys.trusted)
    signed = moderation.signer.sign([verdict_on(verified.digest, "block").statement()])[0]
    forged = Signed(statement={**signed.statement, "action": "allow"}, proof=signed.proof)
    with pytest.raises(SignatureError, match="does not fit"):
        VerifiedVerdict.verify(forged, verified, moderation.trusted)


def test_a_verdict_signed_with_the_key_of_instructions_is_refused(admitted, key_pair, verdict_on):
    message, keys = admitted
    verified = VerifiedInstruction.verify(message, keys.trusted)
    signed = keys.signer.sign([verdict_on(verified.digest).statement()])[0]
    with pytest.raises(SignatureError, match="never published"):
        VerifiedVerdict.verify(signed, verified, key_pair("verdict").trusted)


def test_a_signed_statement_of_another_shape_is_no_verdict(admitted, key_pair):
    message, keys = admitted
    moderation = key_pair("verdict")
    signed = moderation.signer.sign([{"action": "allow"}])[0]
    with pytest.raises(SignatureError, match="not the shape of a verdict"):
        VerifiedVerdict.verify(signed, VerifiedInstruction.verify(message, keys.trusted), moderation.trusted)


def test_a_verdict_carries_the_message_as_it_came_with_fields_that_moderation_does_not_know(
    admitted, key_pair, verdict_on
):
    message, keys = admitted
    received = orjson.loads(encode(message).value)
    received["added_later"] = "by a newer ingestion"
    signed = key_pair("verdict").signer.sign_json([canonical(verdict_on("ab").statement())])[0]
    verdict = Signed.model_validate_json(signed.whole)
    text = VerdictReached.body(signed, orjson.dumps(received))
    assert orjson.loads(text)["message"] == received
    event = decode(VerdictReached, text, [("ce_type", VerdictReached.TYPE.encode())])
    assert event == VerdictReached(verdict=verdict, message=message)
    assert (event.key, event.event_id) == (message.key, f"{message.event_id}.verdict")
    assert VerifiedInstruction.verify(event.message, keys.trusted)


def test_a_receipt_names_message_and_number(key_pair):
    receipt = Receipt(
        message_id="m1",
        account_id="acme",
        recipient_token="rt_1",
        instruction_digest="ab",
        content_digest="cd",
        sequence=3,
        state="handed_over",
        reason="250",
        attempt=1,
        provider="smtp",
        reply_code=250,
        reply_digest=None,
        occurred_at="2026-01-31T09:30:00.000Z",
    )
    event = ReceiptIssued(receipt=key_pair("receipt").signer.sign([receipt.statement()])[0])
    assert (event.event_id, event.key, event.time) == ("m1.3", "rt_1", "2026-01-31T09:30:00.000Z")
    assert Receipt.model_validate(event.receipt.statement) == receipt


def test_terminal_states_are_states():
    assert set(DeliveryState.__args__) > TERMINAL_STATES
