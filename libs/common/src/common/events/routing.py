"""What routing tells: each step of a delivery."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

import msgspec

from common.events.envelope import Contract, Event, SentEvent
from common.security.signing import SentStatement, Signed, Statement

if TYPE_CHECKING:
    from common.security.signing import SignedJson

DeliveryState = Literal[
    "planned", "handing", "held", "in_doubt", "handed_over", "delivered", "refused", "withheld", "expired"
]
TERMINAL_STATES = frozenset({"handed_over", "delivered", "refused", "withheld", "expired"})


class Receipt(Contract):
    """One change of a delivery's state, as signed by routing.

    `sequence` counts the changes of one delivery from 1. `reply_digest` is an HMAC under the message key: it can be
    compared with the sealed reply by who may open the message, and tells nothing to others.
    """

    message_id: str
    account_id: str
    recipient_token: str
    instruction_digest: str
    content_digest: str
    sequence: int
    state: DeliveryState
    reason: str
    attempt: int | None
    provider: str | None
    reply_code: int | None
    reply_digest: str | None
    occurred_at: str

    def statement(self) -> Statement:
        """Return the JSON object that is signed."""
        return dict(self.__dict__)


class ReceiptIssued(Event):
    """A delivery changed its state."""

    TYPE: ClassVar[str] = "routing.receipt.issued.v1"
    TOPIC: ClassVar[str] = "routing.receipts"
    SOURCE: ClassVar[str] = "waystation/routing"

    receipt: Signed

    @property
    def event_id(self) -> str:
        """Message id and number of the change."""
        return self.id_for(self.receipt.statement["message_id"], self.receipt.statement["sequence"])

    @staticmethod
    def id_for(message_id: str, sequence: int) -> str:
        """Return the id of the event that tells a change of a message."""
        return f"{message_id}.{sequence}"

    @staticmethod
    def body(receipt: SignedJson) -> bytes:
        """Return the JSON of the event, made in bulk without a model of it."""
        return b'{"receipt":%b}' % receipt.whole

    @property
    def key(self) -> str:
        """The recipient token."""
        return str(self.receipt.statement["recipient_token"])

    @property
    def time(self) -> str:
        """When the state changed."""
        return str(self.receipt.statement["occurred_at"])


class SentReceipt(SentEvent, frozen=True, gc=False):
    """A `ReceiptIssued` as it was sent."""

    TYPE: ClassVar[str] = ReceiptIssued.TYPE
    TOPIC: ClassVar[str] = ReceiptIssued.TOPIC
    MODEL: ClassVar[type[Event]] = ReceiptIssued
    receipt: SentStatement

    @classmethod
    def as_sent(cls, value: bytes) -> Self:
        """Read its usual form."""
        return msgspec.json.decode(value, type=cls)

    @classmethod
    def of(cls, event: ReceiptIssued) -> Self:
        """Return what would have been sent."""
        return cls(SentStatement.of(event.receipt))
