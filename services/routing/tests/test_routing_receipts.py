"""Receipts as they are signed."""

from __future__ import annotations

from datetime import UTC, datetime

from common.events.routing import Receipt
from routing.domain import Change, Delivery, DeliveryState
from routing.receipts import receipt

MOMENT = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def test_a_receipt_is_what_its_contract_says_field_by_field():
    delivery = Delivery("m", "a", "rt", "i", "c", DeliveryState.HANDING, 1, 0, 0, 1, MOMENT)
    change = Change(delivery, DeliveryState.HANDED_OVER, "said 250", 1, 0, MOMENT, 1, "smtp.default", 250, "d")
    statement = receipt(change, MOMENT)
    assert Receipt.model_validate(statement, strict=True).statement() == statement
    assert list(statement) == list(Receipt.model_fields)
    assert statement["occurred_at"] == "2026-01-31T09:30:00.000Z"
