"""Contracts: every event that travels between services, one module per producing service."""

from common.events.enforcement import StandingChanged
from common.events.envelope import Event, EventError, decode, encode
from common.events.intake import MessageAdmitted
from common.events.routing import ReceiptIssued
from common.events.screening import PolicyStated, VerdictReached, VerdictRevised
from common.events.vault import CheckpointSigned, ErasureRecorded, WithdrawalRecorded

EVENTS: tuple[type[Event], ...] = (
    MessageAdmitted,
    VerdictReached,
    VerdictRevised,
    ReceiptIssued,
    StandingChanged,
    ErasureRecorded,
    CheckpointSigned,
    WithdrawalRecorded,
    PolicyStated,
)

__all__ = [
    "EVENTS",
    "CheckpointSigned",
    "ErasureRecorded",
    "Event",
    "EventError",
    "MessageAdmitted",
    "PolicyStated",
    "ReceiptIssued",
    "StandingChanged",
    "VerdictReached",
    "VerdictRevised",
    "WithdrawalRecorded",
    "decode",
    "encode",
]
