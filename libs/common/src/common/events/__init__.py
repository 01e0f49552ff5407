"""Contracts: every event that travels between services, one module per producing service."""

from common.events.enforcement import StandingChanged
from common.events.envelope import Event, EventError, decode, encode
from common.events.intake import MessageAdmitted
from common.events.routing import ReceiptIssued
from common.events.screening import ListChanged, PolicyStated, VerdictReached, VerdictRevised
from common.events.vault import CheckpointSigned, ErasureRecorded, WithdrawalRecorded

EVENTS: tuple[type[Event], ...] = (
    MessageAdmitted,
    VerdictReached,
    VerdictRevised,
    ListChanged,
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
    "ListChanged",
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
