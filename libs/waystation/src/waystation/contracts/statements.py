"""Which signed statement an event carries: to the event's own schema it is any JSON object."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.events import (
    Event,
    ListChanged,
    MessageAdmitted,
    PolicyStated,
    ReceiptIssued,
    VerdictReached,
    VerdictRevised,
)
from common.events.intake import Instruction
from common.events.routing import Receipt
from common.events.screening import ListChange, PolicyState, Verdict, VerdictRevision

if TYPE_CHECKING:
    from common.events.envelope import Contract

STATEMENTS: dict[type[Event], type[Contract]] = {
    MessageAdmitted: Instruction,
    VerdictReached: Verdict,
    VerdictRevised: VerdictRevision,
    ListChanged: ListChange,
    ReceiptIssued: Receipt,
    PolicyStated: PolicyState,
}
SIGNED_FIELDS: dict[type[Event], str] = {
    MessageAdmitted: "instruction",
    VerdictReached: "verdict",
    VerdictRevised: "revision",
    ListChanged: "change",
    ReceiptIssued: "receipt",
    PolicyStated: "state",
}
"""The field of an event in which its statement stands."""
