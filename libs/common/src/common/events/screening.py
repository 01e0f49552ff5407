"""What moderation tells: a verdict was reached on an admitted message."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from common.events.envelope import Contract, Event
from common.events.intake import MessageAdmitted, VerifiedInstruction
from common.security.signing import SignatureError, Signed, Statement

if TYPE_CHECKING:
    from common.security.signing import SignedJson, TrustedKeys

Action = Literal["allow", "hold", "block"]


class Evidence(Contract):
    """Where a rule matched: part of the mail, character span, SHA-256 of the matched text; never the text."""

    rule: str
    part: str
    start: int
    end: int
    digest: str


class Verdict(Contract):
    """The decision on one instruction, as signed by moderation.

    `heads` are the categories over their threshold, `scores` their probabilities and `features` what was known of the
    message (see moderation's `features`), all numbers in ten-thousandths: from policy and features the decision can be
    reached again. `tiers` tells which parts of screening have spoken; `model` is None when no model has.
    """

    message_id: str
    instruction_digest: str
    content_digest: str
    action: Action
    clauses: tuple[str, ...]
    rules: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    degraded: tuple[str, ...]
    policy: str
    engine: str
    screened_at: str
    features: dict[str, int | str] = Field(default_factory=dict)
    heads: tuple[str, ...] = ()
    model: str | None = None
    scores: dict[str, int] = Field(default_factory=dict)
    tiers: tuple[str, ...] = ()
    tool: str = "email"

    def statement(self) -> Statement:
        """Return the JSON object that is signed."""
        return self.model_dump(mode="json")


class VerdictReached(Event):
    """A verdict, with the message that it judges as it was received."""

    TYPE: ClassVar[str] = "screening.verdict.reached.v1"
    TOPIC: ClassVar[str] = "screening.verdicts"
    SOURCE: ClassVar[str] = "waystation/moderation"

    verdict: Signed
    message: MessageAdmitted

    @property
    def event_id(self) -> str:
        """The message's id with a suffix: one verdict per message."""
        return self.id_for(self.message.event_id)

    @staticmethod
    def id_for(message_id: str) -> str:
        """Return the id of the event that tells the verdict on a message."""
        return f"{message_id}.verdict"

    @property
    def key(self) -> str:
        """The recipient token."""
        return self.message.key

    @property
    def time(self) -> str:
        """The time of screening."""
        return str(self.verdict.statement["screened_at"])

    @staticmethod
    def body(verdict: SignedJson, message_json: bytes) -> bytes:
        """Return the JSON of the event around the message's JSON as it was received, unknown fields included."""
        return b'{"verdict":%b,"message":%b}' % (verdict.whole, message_json)


class VerifiedVerdict:
    """A verdict whose signature was checked here and which judges the instruction beside it; made by `verify` only."""

    __slots__ = ("verdict",)

    verdict: Verdict

    def __init__(self) -> None:
        raise TypeError("only VerifiedVerdict.verify makes one")

    @classmethod
    def verify(cls, signed: Signed, instruction: VerifiedInstruction, keys: TrustedKeys) -> VerifiedVerdict:
        """Check signature, shape and that it judges this instruction; raise SignatureError with the reason."""
        keys.verify(signed)
        try:
            verdict = Verdict.model_validate(signed.statement)
        except ValueError:
            raise SignatureError("verdict: the signed statement has not the shape of a verdict") from None
        if verdict.instruction_digest != instruction.digest:
            raise SignatureError("verdict: it judges another instruction")
        verified = object.__new__(cls)
        verified.verdict = verdict
        return verified
