from __future__ import annotations

from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.events.routing import Receipt, SentReceipt
from common.kafka.consumer import Received
from common.security.signing import SentStatement, Signer, TrustedKeys
from vault.handlers import read_receipt
from vault.store import Spent, Unauthorised

KEY = Ed25519PrivateKey.generate()
TRUSTED = TrustedKeys("receipt", [KEY.public_key()])


def statement(**changes):
    receipt = Receipt(
        message_id="m-1",
        account_id="account-a",
        recipient_token="rt_a",
        instruction_digest="d",
        content_digest="c",
        sequence=2,
        state="handed_over",
        reason="accepted",
        attempt=1,
        provider="smtp.default",
        reply_code=250,
        reply_digest=None,
        occurred_at="2026-01-31T09:30:00.000Z",
    )
    return {**receipt.statement(), **changes}


def received(statement, key=KEY, headers=(("ce_id", b"m-1.2"),)):
    (signed,) = Signer("receipt", key).sign([statement])
    record = SimpleNamespace(topic="routing.receipts", partition=3, offset=42, headers=headers)
    return Received(SentReceipt(SentStatement.of(signed)), record)


@pytest.mark.parametrize("state", ["handed_over", "delivered"])
def test_rule_spent_follows_from_a_hand_over(state):
    found = read_receipt(received(statement(state=state)), TRUSTED)
    assert isinstance(found, Spent)
    assert (found.message_id, found.state, found.attempt) == ("m-1", state, 1)


@pytest.mark.parametrize("state", ["planned", "handing", "held", "in_doubt", "refused", "withheld", "expired"])
def test_other_states_spend_nothing(state):
    assert read_receipt(received(statement(state=state)), TRUSTED) is None


def test_a_receipt_signed_with_another_key_is_counted_and_not_believed():
    found = read_receipt(received(statement(), key=Ed25519PrivateKey.generate()), TRUSTED)
    assert found == Unauthorised(
        "routing.receipts", 3, 42, "m-1.2", "receipt: signed with a key that was never published"
    )


def test_a_changed_receipt_is_counted_and_not_believed():
    genuine = received(statement(state="refused"))
    signed = genuine.event.receipt.taken_apart()
    forged = SentStatement.of(signed.model_copy(update={"statement": statement(state="handed_over")}))
    found = read_receipt(Received(SentReceipt(forged), genuine.record), TRUSTED)
    assert isinstance(found, Unauthorised)
    assert "does not fit" in found.reason


@pytest.mark.parametrize("broken", [{"state": "vanished"}, {"occurred_at": "yesterday"}, {"message_id": None}])
def test_a_signed_statement_that_is_no_receipt_is_counted(broken):
    found = read_receipt(received(statement(**broken)), TRUSTED)
    assert isinstance(found, Unauthorised)
    assert "no receipt" in found.reason


@pytest.mark.parametrize("headers", [(), (("ce_id", None),), (("ce_id", b"\xff\x00" + b"x" * 500),)])
def test_a_record_without_a_readable_id_is_counted_all_the_same(headers):
    found = read_receipt(received(statement(state="vanished"), headers=headers), TRUSTED)
    assert isinstance(found, Unauthorised)
    assert "\x00" not in found.event_id
    assert len(found.event_id) <= 200
