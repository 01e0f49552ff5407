"""What ingestion tells: a message was admitted."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import msgspec
from pydantic_core import to_json

from common.events.envelope import Contract, Event, SentEvent
from common.security.signing import SentStatement, SignatureError, Signed, Statement, raised_or
from common.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.security.signing import SignedJson, TrustedKeys

Tool = Literal["email", "telephony", "widget", "form"]


class SealedContent(Contract):
    """Ciphertext of one message: the capsule wraps the message key under the recipient's key (only the vault opens it).

    `envelope` holds what the provider needs beside the content (JSON), `content` the final bytes; both AES-256-GCM.
    """

    capsule: bytes
    envelope: bytes
    content: bytes

    def digest(self) -> str:
        """Return what the instruction signs of it."""
        return sealed_digest(self.capsule, self.envelope, self.content)


def sealed_digest(capsule: bytes, envelope: bytes, content: bytes) -> str:
    """Return SHA-256 over the three parts of sealed content, each behind its length (8 bytes), hexadecimal."""
    state = sha256()
    for part in (capsule, envelope, content):
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return state.hexdigest()


class Instruction(Contract):
    """An account's instruction to hand one message to one recipient, as signed by ingestion.

    Digests are SHA-256, hexadecimal. `content_digest` covers the final bytes that the provider must receive.
    """

    message_id: str
    account_id: str
    user_id: str
    grants: tuple[str, ...]
    rules_version: str
    tool: Tool
    direction: Literal["outbound", "inbound"]
    inbox_id: str
    recipient_token: str
    purpose: str
    legal_basis: str
    content_digest: str
    content_bytes: int
    sealed_digest: str
    not_before: datetime
    not_after: datetime
    duplicates_allowed: bool
    admitted_at: datetime

    def statement(self) -> Statement:
        """Return the JSON object that is signed."""
        return {
            name: rfc3339(value) if isinstance(value, datetime) else list(value) if isinstance(value, tuple) else value
            for name, value in self.__dict__.items()
        }


class MessageAdmitted(Event):
    """A message was admitted at the door: signed instruction and sealed content, nothing readable."""

    TYPE: ClassVar[str] = "intake.message.admitted.v1"
    TOPIC: ClassVar[str] = "intake.messages"
    SOURCE: ClassVar[str] = "waystation/ingestion"

    instruction: Signed
    sealed: SealedContent

    @property
    def event_id(self) -> str:
        """The message's id."""
        return str(self.instruction.statement["message_id"])

    @property
    def key(self) -> str:
        """The recipient token."""
        return str(self.instruction.statement["recipient_token"])

    @property
    def time(self) -> str:
        """The time of admission."""
        return str(self.instruction.statement["admitted_at"])


class SentParts(msgspec.Struct, gc=False):
    """The two parts of a `MessageAdmitted` as it was sent."""

    instruction: SentStatement
    sealed: msgspec.Raw


_PARTS = msgspec.json.Decoder(SentParts)


class SentMessage(SentEvent, frozen=True, gc=False):
    """A `MessageAdmitted` as it was sent."""

    TYPE: ClassVar[str] = MessageAdmitted.TYPE
    TOPIC: ClassVar[str] = MessageAdmitted.TOPIC
    MODEL: ClassVar[type[Event]] = MessageAdmitted
    instruction: SentStatement
    sealed: SealedContent

    @classmethod
    def as_sent(cls, value: bytes) -> Self:
        """Read its usual form."""
        return cls.of_parts(_PARTS.decode(value))

    @classmethod
    def of(cls, event: MessageAdmitted) -> Self:
        """Return what would have been sent."""
        return cls(SentStatement.of(event.instruction), event.sealed)

    @classmethod
    def of_parts(cls, parts: SentParts) -> Self:
        """Open the base64; a pydantic ValidationError says what is wrong with it."""
        return cls(parts.instruction, SealedContent.model_validate_json(bytes(parts.sealed)))


def admitted_body(instruction: SignedJson, capsule: bytes, envelope: bytes, content: bytes) -> bytes:
    """Return the JSON of a `MessageAdmitted`, made in bulk without a model of it."""
    sealed = {"capsule": capsule, "envelope": envelope, "content": content}
    return b'{"instruction":%b,"sealed":%b}' % (instruction.whole, to_json(sealed, bytes_mode="base64"))


class VerifiedInstruction:
    """An instruction whose signature and sealed content were checked in this process; made by `verify_all` only."""

    __slots__ = ("digest", "instruction", "sealed")

    instruction: Instruction
    digest: str
    sealed: SealedContent

    def __init__(self) -> None:
        raise TypeError("only VerifiedInstruction.verify makes one")

    @classmethod
    def verify(cls, message: MessageAdmitted | SentMessage, keys: TrustedKeys) -> VerifiedInstruction:
        """Check signature, shape and sealed content; raise SignatureError with the reason."""
        return raised_or(cls.verify_all([message], keys)[0])

    @classmethod
    def verify_all(
        cls, messages: Sequence[MessageAdmitted | SentMessage], keys: TrustedKeys
    ) -> list[VerifiedInstruction | SignatureError]:
        """Do for each, in their order, what `verify` does: check by check for all, which the caches reward."""
        digests = keys.verify_all([message.instruction for message in messages])
        shapes = [
            digest if isinstance(digest, SignatureError) else _instruction(message.instruction)
            for digest, message in zip(digests, messages, strict=True)
        ]
        sealed = [message.sealed.digest() for message in messages]
        return [cls._verified(*checks) for checks in zip(messages, digests, shapes, sealed, strict=True)]

    @classmethod
    def _verified(
        cls,
        message: MessageAdmitted | SentMessage,
        digest: str | SignatureError,
        instruction: Instruction | SignatureError,
        sealed: str,
    ) -> VerifiedInstruction | SignatureError:
        if isinstance(digest, SignatureError):
            return digest
        if isinstance(instruction, SignatureError):
            return instruction
        if sealed != instruction.sealed_digest:
            return SignatureError("instruction: the sealed content is not the one that was instructed")
        verified = object.__new__(cls)
        verified.instruction, verified.digest, verified.sealed = instruction, digest, message.sealed
        return verified


def _instruction(signed: Signed | SentStatement) -> Instruction | SignatureError:
    try:
        return signed.read(Instruction)
    except ValueError:
        return SignatureError("instruction: the signed statement has not the shape of an instruction")
