"""The vault's seal, open and disclose: batches of up to 1,000 items, an answer per item, in order.

Keys and capsules are base64. An item that cannot be served, or has not the shape of an item, carries a problem document
instead of its answer; the call is refused as a whole when no item has the shape, or something beside them is wrong. The
`type` of a problem is one of `urn:waystation:problem:` + erased (410), account-ended (410), spent (409), stale-epoch
(409), withdrawn (403), expired-basis (403), suppressed (403), restricted (403), unknown-recipient (404), bad-capsule
(422), field-not-in-contract (403), provider-not-approved (403), objected (403), invalid-field (422), unknown-field
(422), invalid-address (422), invalid-phone (422), integrity-failed (500).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

ITEMS_MAX = 1000
FIELD_CHARACTERS_MAX = 1000

Id = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Bounded = Annotated[str, msgspec.Meta(max_length=200)]
Name = Annotated[str, msgspec.Meta(max_length=40)]
"""A purpose, a kind, a field: words of ours, checked against the tables that know them."""
Value = Annotated[str, msgspec.Meta(max_length=4000)]
"""A value as it comes; the vault checks its form and its own, lower limits item by item."""
MessageKey = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Capsule = Annotated[bytes, msgspec.Meta(max_length=500)]
Number = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class _Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """A call or a part of one: closed to fields it does not know."""


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An answer: a newer vault may add fields."""


class SealItem(_Call, frozen=True):
    """A person of an account, with the key of one message to wrap.

    The person is found by `address` (an e-mail address), or by `fields["phone"]` where there is no address. `fields`
    are stored encrypted: name, phone, postal_address, language, time_zone. `kind` is recipient, user, administrator or
    complainant; people of two kinds are two persons. Without `message_key` there is no capsule.
    """

    account_id: Id
    message_id: Id
    address: Value | None = None
    fields: Annotated[dict[Name, Value], msgspec.Meta(max_length=20)] = {}
    message_key: MessageKey | None = None
    kind: Name = "recipient"


class SealCall(_Call, frozen=True):
    """`POST /v1/seal:batch`, purpose `intake`, by ingestion; purpose `complaints`, for complainants, by enforcement."""

    purpose: Name
    items: Annotated[list[SealItem], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]


class SealAnswer(_Answer, frozen=True):
    """The person's token and the wrapped message key, or a problem."""

    token: str | None = None
    capsule: bytes | None = None
    problem: dict[str, Any] | None = None


class OpenItem(_Call, frozen=True):
    """A message whose key is asked for."""

    account_id: Id
    message_id: Id
    token: Id
    capsule: Capsule


class OpenCall(_Call, frozen=True):
    """`POST /v1/open:batch`; the purpose must be one that the caller has.

    `review` and `case` need `case_id`, `inbox` needs `user_id`: a person reads.
    """

    purpose: Name
    items: Annotated[list[OpenItem], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]
    case_id: Id | None = None
    user_id: Id | None = None


class OpenAnswer(_Answer, frozen=True):
    """The message key, or a problem."""

    message_key: bytes | None = None
    problem: dict[str, Any] | None = None


class DiscloseItem(_Call, frozen=True):
    """A delivery that is about to be handed over, with its lease epoch and the number its attempt would have.

    `message_purpose` is what the message is for, as instructed; consent is withdrawn by purpose.
    """

    account_id: Id
    message_id: Id
    token: Id
    capsule: Capsule
    instruction_digest: Id
    legal_basis: Bounded
    epoch: Number
    attempt: Number
    message_purpose: Bounded = ""


class DiscloseCall(_Call, frozen=True):
    """`POST /v1/disclose:batch`, purpose `delivery`, by routing."""

    purpose: Name
    provider: Id
    fields: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=20)]
    items: Annotated[list[DiscloseItem], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]


class DiscloseAnswer(_Answer, frozen=True):
    """The disclosed fields and the message key, or a problem."""

    fields: dict[str, str] | None = None
    message_key: bytes | None = None
    problem: dict[str, Any] | None = None


class Unsettled(_Answer, frozen=True):
    """A message that was disclosed and is not known to be handed over: highest epoch and attempt that were served."""

    message_id: str
    epoch: int
    attempt: int


class UnsettledAnswers(_Answer, frozen=True):
    """`GET /v1/disclosures/unsettled?since=`, by routing after its database was put back."""

    items: list[Unsettled]


class SealAnswers(_Answer, frozen=True):
    """One answer per item, in order."""

    items: list[SealAnswer]


class OpenAnswers(_Answer, frozen=True):
    """One answer per item, in order."""

    items: list[OpenAnswer]


class DiscloseAnswers(_Answer, frozen=True):
    """One answer per item, in order."""

    items: list[DiscloseAnswer]
