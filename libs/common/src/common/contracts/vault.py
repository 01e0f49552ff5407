"""The vault's seal, open and disclose: batches of up to 1,000 items, an answer per item, in order.

Keys and capsules are base64url. A refused item carries a problem document instead of its answer; its `type` is one of
`urn:waystation:problem:` + erased (410), spent (409), stale-epoch (409), unknown-recipient (404), bad-capsule (422),
field-not-in-contract (403), provider-not-approved (403), invalid-field (422).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

ITEMS_MAX = 1000

Id = Annotated[str, Field(min_length=1, max_length=100)]
MessageKey = Annotated[
    bytes,
    Field(min_length=32, max_length=32),
    WithJsonSchema({"type": "string", "format": "base64url", "minLength": 43, "maxLength": 44}),
]
Capsule = Annotated[
    bytes, Field(max_length=500), WithJsonSchema({"type": "string", "format": "base64url", "maxLength": 668})
]
"""Bounds are in bytes here, and in characters of base64 where JSON is described."""


class _Call(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")


class SealItem(_Call):
    """A recipient of an account by address, with the key of one message to wrap. `fields` are stored encrypted."""

    account_id: Id
    message_id: Id
    address: Annotated[str, Field(min_length=3, max_length=320)]
    fields: dict[Annotated[str, Field(pattern="^(name)$")], Annotated[str, Field(max_length=1000)]] = {}
    message_key: MessageKey


class SealCall(_Call):
    """`POST /v1/seal:batch`, purpose `intake`, by ingestion."""

    purpose: Literal["intake"]
    items: Annotated[list[SealItem], Field(min_length=1, max_length=ITEMS_MAX)]


class SealAnswer(_Call):
    """The recipient's token and the wrapped message key, or a problem."""

    token: str | None = None
    capsule: bytes | None = None
    problem: dict[str, Any] | None = None


class OpenItem(_Call):
    """A message whose key is asked for."""

    message_id: Id
    token: Id
    capsule: Capsule


class OpenCall(_Call):
    """`POST /v1/open:batch`; the purpose must be one that the caller has."""

    purpose: Literal["screening", "review", "inbox", "case"]
    case_id: Id | None = None
    items: Annotated[list[OpenItem], Field(min_length=1, max_length=ITEMS_MAX)]


class OpenAnswer(_Call):
    """The message key, or a problem."""

    message_key: bytes | None = None
    problem: dict[str, Any] | None = None


class DiscloseItem(_Call):
    """A delivery that is about to be handed over, with its lease epoch and the number its attempt would have."""

    account_id: Id
    message_id: Id
    token: Id
    capsule: Capsule
    instruction_digest: Id
    legal_basis: Annotated[str, Field(max_length=200)]
    epoch: Annotated[int, Field(ge=1)]
    attempt: Annotated[int, Field(ge=1)]


class DiscloseCall(_Call):
    """`POST /v1/disclose:batch`, purpose `delivery`, by routing."""

    purpose: Literal["delivery"]
    provider: Id
    fields: Annotated[list[Literal["address", "name"]], Field(min_length=1, max_length=2)]
    items: Annotated[list[DiscloseItem], Field(min_length=1, max_length=ITEMS_MAX)]


class DiscloseAnswer(_Call):
    """The disclosed fields and the message key, or a problem."""

    fields: dict[str, str] | None = None
    message_key: bytes | None = None
    problem: dict[str, Any] | None = None


class Unsettled(_Call):
    """A message that was disclosed and is not known to be handed over: highest epoch and attempt that were served."""

    message_id: str
    epoch: int
    attempt: int


class UnsettledAnswers(_Call):
    """`GET /v1/disclosures/unsettled?since=`, by routing after its database was put back."""

    items: list[Unsettled]


class SealAnswers(_Call):
    """One answer per item, in order."""

    items: list[SealAnswer]


class OpenAnswers(_Call):
    """One answer per item, in order."""

    items: list[OpenAnswer]


class DiscloseAnswers(_Call):
    """One answer per item, in order."""

    items: list[DiscloseAnswer]
