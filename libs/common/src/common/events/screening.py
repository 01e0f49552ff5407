"""What moderation tells: a verdict was reached, or revised later; a policy is in shadow, active or rolled back."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import msgspec
from pydantic import Field

from common.events.envelope import Contract, Event, SentEvent
from common.events.intake import MessageAdmitted, SentMessage, SentParts, VerifiedInstruction
from common.security.signing import SentStatement, SignatureError, Signed, Statement, raised_or

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.security.signing import SignedJson, TrustedKeys

Action = Literal["allow", "hold", "block"]
PolicyStatus = Literal["shadow", "active", "rolled-back"]
POLICY_CHARACTERS_MAX = 500_000


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


class _SentVerdictParts(msgspec.Struct, gc=False):
    verdict: SentStatement
    message: SentParts


_VERDICT_PARTS = msgspec.json.Decoder(_SentVerdictParts)


class SentVerdict(SentEvent, frozen=True, gc=False):
    """A `VerdictReached` as it was sent."""

    TYPE: ClassVar[str] = VerdictReached.TYPE
    TOPIC: ClassVar[str] = VerdictReached.TOPIC
    MODEL: ClassVar[type[Event]] = VerdictReached
    verdict: SentStatement
    message: SentMessage

    @classmethod
    def as_sent(cls, value: bytes) -> Self:
        """Read its usual form."""
        parts = _VERDICT_PARTS.decode(value)
        return cls(parts.verdict, SentMessage.of_parts(parts.message))

    @classmethod
    def of(cls, event: VerdictReached) -> Self:
        """Return what would have been sent."""
        return cls(SentStatement.of(event.verdict), SentMessage.of(event.message))


class VerdictRevision(Contract):
    """A later word on a message that was judged, as signed by moderation; of two the higher `revision` holds.

    `cause`: a person in case `case_id`, or a list that names `signal` (kind and SHA-256 prefix of what is listed).
    `screened_at` is when it was decided, named as in a verdict: by it a retired key is judged.
    """

    message_id: str
    account_id: str
    recipient_token: str
    instruction_digest: str
    revision: int = Field(ge=1)
    action: Literal["allow", "block"]
    clauses: tuple[str, ...]
    cause: Literal["person", "list"]
    case_id: str | None
    signal: str | None
    exposure: int
    screened_at: str

    def statement(self) -> Statement:
        """Return the JSON object that is signed."""
        return self.model_dump(mode="json")


class VerdictRevised(Event):
    """A verdict was revised. It follows the verdict on the same partition, so who reads in order knows the message."""

    TYPE: ClassVar[str] = "screening.verdict.revised.v1"
    TOPIC: ClassVar[str] = "screening.verdicts"
    SOURCE: ClassVar[str] = "waystation/moderation"

    revision: Signed

    @property
    def event_id(self) -> str:
        """The message's id with the number of the revision."""
        statement = self.revision.statement
        return f"{statement['message_id']}.revision.{statement['revision']}"

    @property
    def key(self) -> str:
        """The recipient token."""
        return str(self.revision.statement["recipient_token"])

    @property
    def time(self) -> str:
        """When it was decided."""
        return str(self.revision.statement["screened_at"])


def verified_revision(signed: Signed, keys: TrustedKeys) -> VerdictRevision:
    """Return what a revision says once its signature and shape were checked; raise SignatureError with the reason."""
    keys.verify(signed)
    try:
        return VerdictRevision.model_validate(signed.statement)
    except ValueError:
        raise SignatureError("revision: the signed statement has not the shape of a revision") from None


class VerifiedVerdict:
    """A verdict that was checked here and judges the instruction beside it; made by `verify_all` only."""

    __slots__ = ("verdict",)

    verdict: Verdict

    def __init__(self) -> None:
        raise TypeError("only VerifiedVerdict.verify makes one")

    @classmethod
    def verify(
        cls, signed: Signed | SentStatement, instruction: VerifiedInstruction, keys: TrustedKeys
    ) -> VerifiedVerdict:
        """Check signature, shape and that it judges this instruction; raise SignatureError with the reason."""
        return raised_or(cls.verify_all([(signed, instruction)], keys)[0])

    @classmethod
    def verify_all(
        cls, pairs: Sequence[tuple[Signed | SentStatement, VerifiedInstruction]], keys: TrustedKeys
    ) -> list[VerifiedVerdict | SignatureError]:
        """Do for each verdict and its instruction, in their order, what `verify` does: check by check for all."""
        digests = keys.verify_all([signed for signed, _ in pairs])
        return [
            digest if isinstance(digest, SignatureError) else cls._verified(*pair)
            for digest, pair in zip(digests, pairs, strict=True)
        ]

    @classmethod
    def _verified(
        cls, signed: Signed | SentStatement, instruction: VerifiedInstruction
    ) -> VerifiedVerdict | SignatureError:
        try:
            verdict = signed.read(Verdict)
        except ValueError:
            return SignatureError("verdict: the signed statement has not the shape of a verdict")
        if verdict.instruction_digest != instruction.digest:
            return SignatureError("verdict: it judges another instruction")
        verified = object.__new__(cls)
        verified.verdict = verdict
        return verified

    def revised(self, signed: Signed, keys: TrustedKeys) -> VerifiedVerdict:
        """Return what holds after a later signed word on the same instruction; raise SignatureError with the reason."""
        word = verified_revision(signed, keys)
        if word.instruction_digest != self.verdict.instruction_digest:
            raise SignatureError("revision: it is about another instruction")
        verified = object.__new__(type(self))
        verified.verdict = self.verdict.model_copy(update={"action": word.action})
        return verified


class PolicyState(Contract):
    """A policy with its whole text, and what is to be done with it, as signed.

    `policy` is its name, `<id>@sha256:<digest of the text, UTF-8>`. Of the states of one policy the one with the
    highest `revision` holds; in force is, of all that are active, the one with the highest. Who takes the newest back
    thereby puts the one before it in force again. An operator signs with the purpose `policy`; moderation itself may
    only take a policy back, and signs that with its own key (purpose `verdict`).
    """

    policy: str = Field(pattern=r"^[a-z0-9-]+@sha256:[0-9a-f]{64}$", max_length=140)
    text: str = Field(max_length=POLICY_CHARACTERS_MAX)
    status: PolicyStatus
    revision: int = Field(ge=1, le=2**53)
    reason: str = Field(max_length=500)
    decided_by: Literal["person", "machine"]
    changed_at: str = Field(max_length=40)

    def statement(self) -> Statement:
        """Return the JSON object that is signed."""
        return self.model_dump(mode="json")


class PolicyStated(Event):
    """The state of one policy; the topic keeps the newest of each."""

    TYPE: ClassVar[str] = "screening.policy.stated.v1"
    TOPIC: ClassVar[str] = "screening.policies"
    SOURCE: ClassVar[str] = "waystation/moderation"

    state: Signed

    @property
    def event_id(self) -> str:
        """Policy and revision."""
        return f"{self.key}.{self.state.statement['revision']}"

    @property
    def key(self) -> str:
        """The policy's name."""
        return str(self.state.statement["policy"])

    @property
    def time(self) -> str:
        """When the state was decided."""
        return str(self.state.statement["changed_at"])


class VerifiedPolicyState:
    """A state whose signature was checked here and whose text has the digest of its name; made by `verify` only."""

    __slots__ = ("state",)

    state: PolicyState

    def __init__(self) -> None:
        raise TypeError("only VerifiedPolicyState.verify makes one")

    @classmethod
    def verify(
        cls, signed: Signed, policy_keys: TrustedKeys, verdict_keys: TrustedKeys | None = None
    ) -> VerifiedPolicyState:
        """Check signature, shape and digest; raise SignatureError with the reason.

        Without `verdict_keys` only a person's statement will do.
        """
        machine = signed.statement.get("decided_by") == "machine"
        if machine and (verdict_keys is None or signed.statement.get("status") != "rolled-back"):
            raise SignatureError("policy: a machine may only take a policy back")
        (verdict_keys if machine and verdict_keys is not None else policy_keys).verify(signed)
        try:
            state = PolicyState.model_validate(signed.statement)
        except ValueError:
            raise SignatureError("policy: the signed statement has not the shape of a policy's state") from None
        if state.policy.partition("@sha256:")[2] != sha256(state.text.encode("utf-8", "replace")).hexdigest():
            raise SignatureError("policy: the text has not the digest of the policy's name")
        verified = object.__new__(cls)
        verified.state = state
        return verified


class ListChange(Contract):
    """What was put on a list of bad things, or taken off, as signed by moderation; nothing of it can be read back.

    An `address` or `file` is named by the first 8 bytes of a SHA-256, a `text` by its four sketches, hexadecimal.
    `approved`: a person has said that these may hit as many messages as they do. `screened_at` is when it was said.
    """

    change_id: str
    list: str
    kind: Literal["address", "file", "text"]
    clause: str
    add: tuple[str, ...]
    remove: tuple[str, ...]
    approved: bool
    screened_at: str

    def statement(self) -> Statement:
        """Return the JSON object that is signed."""
        return self.model_dump(mode="json")


class ListChanged(Event):
    """A list of bad addresses, files or texts was changed."""

    TYPE: ClassVar[str] = "screening.list.changed.v1"
    TOPIC: ClassVar[str] = "screening.lists"
    SOURCE: ClassVar[str] = "waystation/moderation"

    change: Signed

    @property
    def event_id(self) -> str:
        """The change's id."""
        return str(self.change.statement["change_id"])

    @property
    def key(self) -> str:
        """The name of the list: its changes stay in order."""
        return str(self.change.statement["list"])

    @property
    def time(self) -> str:
        """When it was said."""
        return str(self.change.statement["screened_at"])


def verified_change(signed: Signed, keys: TrustedKeys) -> ListChange:
    """Return what a change of a list says once it was checked; raise SignatureError with the reason."""
    keys.verify(signed)
    try:
        return ListChange.model_validate(signed.statement)
    except ValueError:
        raise SignatureError("list: the signed statement has not the shape of a change") from None
