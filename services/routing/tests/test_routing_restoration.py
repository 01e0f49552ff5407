"""What a database that was put back makes of receipts and of the vault's ledger."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from common.contracts.vault import Unsettled
from common.events.routing import Receipt
from routing.domain import Delivery, DeliveryState
from routing.restoration import UNKNOWN_OUTCOME, in_doubt, is_unknown, recalled, unknown

NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
SERVED = Unsettled(message_id="m1", epoch=3, attempt=2)


def delivery(state, attempts):
    return Delivery("m1", "acme", "rt", "i", "c", state, epoch=1, round=0, sequence=4, attempts=attempts, not_after=NOW)


def receipt(state, attempt):
    return Receipt(
        message_id="m1", account_id="acme", recipient_token="rt", instruction_digest="i", content_digest="c", sequence=5,
        state=state, reason="r", attempt=attempt, provider="smtp.default", reply_code=250, reply_digest=None,
        occurred_at="2026-01-31T09:30:00.000Z",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "attempts", "doubtful"),
    [
        ("planned", 1, True),
        ("handing", 1, True),
        ("held", 0, True),
        ("planned", 2, False),
        ("handed_over", 1, False),
        ("refused", 1, False),
        ("in_doubt", 1, False),
    ],
)
def test_an_attempt_that_the_vault_served_and_no_receipt_accounts_for_is_unknown(state, attempts, doubtful):
    assert is_unknown(delivery(DeliveryState(state), attempts), SERVED) == doubtful


@pytest.mark.parametrize(
    ("state", "result"),
    [
        ("handed_over", "accepted"),
        ("delivered", "accepted"),
        ("refused", "refused"),
        ("in_doubt", "doubt"),
        ("planned", "later"),
        ("expired", "later"),
    ],
)
def test_a_receipt_tells_the_result_of_its_attempt(state, result):
    assert recalled(receipt(state, 2), "another")[:5] == ("m1", 2, 0, "smtp.default", result)


def test_an_unknown_outcome_is_a_doubtful_attempt_and_a_delivery_in_doubt():
    assert unknown(SERVED, "smtp.default")[:6] == ("m1", 2, 3, "smtp.default", "doubt", UNKNOWN_OUTCOME)
    change = in_doubt(delivery(DeliveryState.PLANNED, 1), SERVED, "smtp.default", NOW)
    assert (change.state, change.sequence, change.attempt) == (DeliveryState.IN_DOUBT, 5, 2)
