"""The vault's calls about persons: legal bases, opt-outs, restriction, and an operator's find and erase.

Values stand in bodies only.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from common.contracts.basis import CODE_CHARACTERS_MAX, CODE_PATTERN, BasisKind
from common.contracts.vault import ITEMS_MAX, Id, Name, Value

Purpose = Annotated[str, msgspec.Meta(pattern=CODE_PATTERN, max_length=CODE_CHARACTERS_MAX)]
Code = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9._:-]*$", max_length=100)]


class _Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A call or a part of one: closed to fields it does not know."""


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """An answer: a newer vault may add fields."""


class PersonItem(_Call, frozen=True):
    """Persons of an account: one by token, or all by address or phone, `kind` narrows them to one kind."""

    account_id: Id
    token: Id | None = None
    address: Value | None = None
    phone: Value | None = None
    kind: Name | None = None


Items = Annotated[list[PersonItem], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]


class FindCall(_Call, frozen=True):
    """`POST /v1/find:batch`, purpose `data-protection`."""

    purpose: Name
    items: Items


class FindAnswer(_Answer, frozen=True):
    """Tokens of persons, or a problem."""

    tokens: list[str] | None = None
    problem: dict[str, Any] | None = None


class FindAnswers(_Answer, frozen=True):
    """One answer per item, in order."""

    items: list[FindAnswer]


class EraseCall(_Call, frozen=True):
    """`POST /v1/erase:batch`, purpose `data-protection`; `reason` is a code such as `request-of-person`."""

    purpose: Name
    reason: Code
    items: Items


class EraseAnswer(_Answer, frozen=True):
    """Tokens erased now, or a problem: erased (410) before, unknown-recipient (404)."""

    tokens: list[str] | None = None
    erased_at: str | None = None
    problem: dict[str, Any] | None = None


class EraseAnswers(_Answer, frozen=True):
    """One answer per item, in order."""

    items: list[EraseAnswer]


Moment = Annotated[str, msgspec.Meta(max_length=40)]


class BasisItem(_Call, frozen=True):
    """A legal basis of a person for a purpose, with its evidence. `attested`: the account vouches, without evidence.

    `text_digest` is the SHA-256 of the text that was agreed to; times are RFC 3339.
    """

    person: PersonItem
    purpose: Purpose
    kind: BasisKind
    given_at: Moment
    attested: bool = False
    text_digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)] | None = None
    language: Annotated[str, msgspec.Meta(max_length=35)] | None = None
    source: Code | None = None
    expires_at: Moment | None = None


class BasisCall(_Call, frozen=True):
    """`POST /v1/record-basis:batch`, purpose `legal-basis`. A person without `kind` is a recipient."""

    purpose: Name
    items: Annotated[list[BasisItem], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]


class WithdrawItem(_Call, frozen=True):
    """A basis that ends now: messages for this purpose that rest on it are not disclosed any more."""

    person: PersonItem
    purpose: Purpose
    kind: BasisKind


class WithdrawCall(_Call, frozen=True):
    """`POST /v1/withdraw:batch`, purpose `legal-basis`."""

    purpose: Name
    items: Annotated[list[WithdrawItem], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]


class SuppressItem(_Call, frozen=True):
    """An opt-out of an address (tool `email`) or a phone (tool `telephony`), known or not; `lift` takes it back."""

    account_id: Id
    tool: Literal["email", "telephony"]
    address: Value | None = None
    phone: Value | None = None
    reason: Code = "opt-out"
    lift: bool = False


class SuppressCall(_Call, frozen=True):
    """`POST /v1/suppress:batch`, purpose `legal-basis`."""

    purpose: Name
    items: Annotated[list[SuppressItem], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]


class RestrictItem(_Call, frozen=True):
    """Restriction of processing (Art. 18 GDPR): nothing of the person is disclosed until it is lifted."""

    person: PersonItem
    restricted: bool


class RestrictCall(_Call, frozen=True):
    """`POST /v1/restrict:batch`, purpose `data-protection`."""

    purpose: Name
    items: Annotated[list[RestrictItem], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]


class DoneAnswer(_Answer, frozen=True):
    """The persons that the item is about (none for an opt-out of an unknown address), or a problem."""

    tokens: list[str] | None = None
    problem: dict[str, Any] | None = None


class DoneAnswers(_Answer, frozen=True):
    """One answer per item, in order."""

    items: list[DoneAnswer]
