"""Signed `MessageAdmitted` events as ingestion would make them, with the keys that open them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.events.envelope import encode
from common.events.intake import Instruction, MessageAdmitted, SealedContent, SentMessage
from common.ids import new_id, new_recipient_token
from common.kafka.consumer import Received
from common.security.sealing import new_message_key, seal
from common.security.signing import Signer, TrustedKeys
from common.times import now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from common.kafka.records import Record

PLAIN_MAIL = (
    b"From: Shop <shop@example.com>\r\nTo: Ada <ada@example.org>\r\nSubject: Your order\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n\r\nYour order has been sent.\r\n"
)


@dataclass(frozen=True, slots=True)
class DoorKeys:
    """The signing key of a door (ingestion) and what others trust of it."""

    signer: Signer
    trusted: TrustedKeys


@dataclass(frozen=True, slots=True)
class Admitted:
    """An admitted message with what only the sender and the vault know of it."""

    event: MessageAdmitted
    message_key: bytes
    content: bytes

    @property
    def message_id(self) -> str:
        return self.event.event_id

    def received(self, offset: int = 0, *, partition: int = 0, traceparent: bytes | None = None) -> Received[Any]:
        return received(self.event, offset, partition=partition, traceparent=traceparent)


@dataclass(frozen=True, slots=True)
class FakeRecord:
    """A consumed record, as far as handlers look at one."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def new_door_keys() -> DoorKeys:
    key = Ed25519PrivateKey.generate()
    return DoorKeys(Signer("instruction", key), TrustedKeys("instruction", [key.public_key()]))


def admitted_message(keys: DoorKeys, content: bytes = PLAIN_MAIL, **fields: Any) -> Admitted:
    """Return one message; `fields` override those of its instruction before it is signed."""
    return admitted_messages(keys, [content], **fields)[0]


def admitted_messages(keys: DoorKeys, contents: Sequence[bytes], **fields: Any) -> list[Admitted]:
    """Return messages whose instructions were signed as one batch."""
    drafts = [_draft(content, fields) for content in contents]
    signed = keys.signer.sign([instruction.statement() for instruction, _, _ in drafts])
    return [
        Admitted(MessageAdmitted(instruction=proof, sealed=sealed), key, content)
        for (_, sealed, key), proof, content in zip(drafts, signed, contents, strict=True)
    ]


def received(
    event: MessageAdmitted, offset: int = 0, *, partition: int = 0, traceparent: bytes | None = None
) -> Received[Any]:
    """Return the event as a handler gets it."""
    record = encode(event, traceparent=traceparent)
    return Received(SentMessage.from_json(record.value or b""), fake_record(record, offset, partition))


def fake_record(record: Record, offset: int = 0, partition: int = 0) -> FakeRecord:
    return FakeRecord(record.topic, partition, offset, record.key, record.value, record.headers)


def _draft(content: bytes, fields: dict[str, Any]) -> tuple[Instruction, SealedContent, bytes]:
    key, message_id, moment = new_message_key(), fields.get("message_id") or new_id(), now()
    sealed = SealedContent(
        capsule=os.urandom(60),
        envelope=seal(key, message_id, "envelope", b'{"mail_from":"shop@example.com","smtputf8":false}'),
        content=seal(key, message_id, "content", content),
    )
    defaults: dict[str, Any] = {
        "message_id": message_id,
        "account_id": "acme",
        "user_id": "u1",
        "grants": ("g1",),
        "rules_version": "1",
        "tool": "email",
        "direction": "outbound",
        "inbox_id": "shop",
        "recipient_token": new_recipient_token(),
        "purpose": "order",
        "legal_basis": "contract",
        "content_digest": sha256(content).hexdigest(),
        "content_bytes": len(content),
        "sealed_digest": sealed.digest(),
        "not_before": moment,
        "not_after": moment + timedelta(days=1),
        "duplicates_allowed": False,
        "admitted_at": moment,
    }
    return Instruction(**{**defaults, **fields}), sealed, key
