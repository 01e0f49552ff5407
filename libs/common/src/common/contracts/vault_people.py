"""The vault's calls for a processor's duties: export, rectification, retention, objections, notices, an account's end.

Values stand in bodies only. Times are RFC 3339, days are dates.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from common.contracts.vault import ITEMS_MAX, Bounded, Id, Name, Value
from common.contracts.vault_duties import PersonItem  # noqa: TC001  msgspec reads it at runtime

RETENTION_AT_ONCE_MAX = 20_000
ENTRIES_MAX = 10_000
Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
Days = Annotated[int, msgspec.Meta(ge=1, le=36_500)]
AtOnce = Annotated[int, msgspec.Meta(ge=1, le=RETENTION_AT_ONCE_MAX)]
Entry = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,18}[.][0-9]{1,4}$", max_length=23)]


class _Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A call or a part of one: closed to fields it does not know."""


class _Answer(msgspec.Struct, frozen=True):
    """An answer: a newer vault may add fields."""


class ExportCall(_Call, frozen=True):
    """`POST /v1/export`, purpose `data-protection`. `before` goes on where an export said `more`."""

    purpose: Name
    person: PersonItem
    before: Entry | None = None


class ExportedDisclosure(_Answer, frozen=True):
    """What one provider received, or may have: `hand_over` is `acknowledged` only with the provider's receipt.

    `why` and `country` are the processor's in the register of today; null when it is in none any more.
    """

    entry: str
    at: str
    provider: str
    country: str | None
    why: str | None
    fields: list[str]
    message_id: str
    legal_basis: str
    attempt: int
    hand_over: Literal["acknowledged", "may-have-happened"]
    acknowledged_at: str | None


class ExportedRecipient(_Answer, frozen=True):
    """One provider with everything that it received of the person (among the disclosures of this export)."""

    provider: str
    country: str | None
    why: str | None
    fields: list[str]
    disclosures: int
    acknowledged: int
    first: str
    last: str


class ExportedBasis(_Answer, frozen=True):
    """A legal basis with its evidence; `in_force` at the time of the export."""

    purpose: str
    kind: str
    in_force: bool
    attested: bool
    text_digest: str | None
    language: str | None
    source: str | None
    given_at: str
    expires_at: str | None
    withdrawn_at: str | None
    recorded_by: str


class ExportedOptOut(_Answer, frozen=True):
    """An opt-out of the person's address (`email`) or phone (`telephony`)."""

    tool: str
    reason: str
    made_at: str


class ExportedHandling(_Answer, frozen=True):
    """A call by which somebody looked the person up, read a message to it, or changed something of it."""

    at: str
    caller: str
    operation: str
    purpose: str | None


class ExportedNotice(_Answer, frozen=True):
    """A provider that has to be told of an erasure, rectification or restriction."""

    provider: str
    kind: str
    made_at: str
    due_at: str
    done_at: str | None


class ExportedRetention(_Answer, frozen=True):
    """How long the person is kept: the rule in force, and the day from which it would be erased without further use."""

    unused_days: int
    basis_ended_days: int | None
    erased_from: str


class ExportedErasure(_Answer, frozen=True):
    """When and why the person was erased, and since when every older copy is unreadable."""

    erased_at: str
    reason: str
    older_copies_unreadable_at: str | None


class ExportedPerson(_Answer, frozen=True):
    """All that the vault knows of a person. Of an erased one there are no fields, and all that is not personal data."""

    account_id: str
    token: str
    state: Literal["kept", "restricted", "erased"]
    kind: str | None
    fields: dict[str, str]
    created_on: str | None
    used_on: str | None
    purposes: list[str]
    bases: list[ExportedBasis]
    opt_outs: list[ExportedOptOut]
    recipients: list[ExportedRecipient]
    disclosures: list[ExportedDisclosure]
    handlings: list[ExportedHandling]
    notices: list[ExportedNotice]
    retention: ExportedRetention | None
    erasure: ExportedErasure | None
    unreadable: list[str]
    more: str | None


class Export(_Answer, frozen=True):
    """Everything about the persons that an address, a phone or a token names in one account."""

    exported_at: str
    persons: list[ExportedPerson]


class RectifyItem(_Call, frozen=True):
    """New values of a person's fields; null removes one. A person keeps an address or a phone."""

    person: PersonItem
    fields: Annotated[dict[Name, Value | None], msgspec.Meta(min_length=1, max_length=20)]


class RectifyCall(_Call, frozen=True):
    """`POST /v1/rectify:batch`, purpose `data-protection`."""

    purpose: Name
    items: Annotated[list[RectifyItem], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]


class ObjectItem(_Call, frozen=True):
    """An account's objection to a processor, until the day from which its approval holds; `lift` takes it back.

    `late` records one after that day, where operator and account agreed on it.
    """

    account_id: Id
    processor: Id
    reason: Reason
    lift: bool = False
    late: bool = False


class ObjectCall(_Call, frozen=True):
    """`POST /v1/object:batch`, purpose `data-protection`."""

    purpose: Name
    items: Annotated[list[ObjectItem], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]


class ObjectAnswer(_Answer, frozen=True, omit_defaults=True):
    """Whether the account objects now, and from which day the approval holds for others; or a problem."""

    objects: bool | None = None
    approved_from: str | None = None
    problem: dict[str, Any] | None = None


class ObjectAnswers(_Answer, frozen=True):
    """One answer per item, in order."""

    items: list[ObjectAnswer]


class RuleItem(_Call, frozen=True):
    """How long persons of a kind are kept: days after their last use, days after the end of their last basis.

    Account `*` is the rule of all accounts that have none of their own; `remove` ends an account's own.
    """

    account_id: Id
    kind: Name
    unused_days: Days
    basis_ended_days: Days | None = None
    remove: bool = False


class RulesCall(_Call, frozen=True):
    """`POST /v1/retention-rules:batch`, purpose `data-protection`."""

    purpose: Name
    items: Annotated[list[RuleItem], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]


class RuleAnswer(_Answer, frozen=True, omit_defaults=True):
    """The rule that is in force now for the account and kind, or a problem."""

    account_id: str | None = None
    kind: str | None = None
    unused_days: int | None = None
    basis_ended_days: int | None = None
    problem: dict[str, Any] | None = None


class RuleAnswers(_Answer, frozen=True):
    """One answer per item, in order."""

    items: list[RuleAnswer]


class RetentionCall(_Call, frozen=True):
    """`POST /v1/retention-runs`, purpose `data-protection`. Nothing is erased unless `dry_run` is false.

    One call erases up to `limit` persons; the answer says how many are left.
    """

    purpose: Name
    dry_run: bool = True
    account_id: Id | None = None
    limit: AtOnce = RETENTION_AT_ONCE_MAX


class DuePersons(_Answer, frozen=True):
    """How many persons of an account and kind are due, under which rule. Restricted ones are kept, and counted."""

    account_id: str
    kind: str
    rule: Literal["unused", "basis-ended"]
    days: int
    persons: int
    kept_as_restricted: int


class RetentionRun(_Answer, frozen=True):
    """What was due when the run began, how many it erased, how many are left for the next."""

    dry_run: bool
    due: list[DuePersons]
    erased: int
    remaining: int


class NoticeDone(_Call, frozen=True):
    """A provider was told; `evidence` says how it can be checked (a ticket, a message id), without personal data."""

    id: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    evidence: Reason


class NoticesCall(_Call, frozen=True):
    """`POST /v1/notices:done`, purpose `data-protection`."""

    purpose: Name
    items: Annotated[list[NoticeDone], msgspec.Meta(min_length=1, max_length=ITEMS_MAX)]


class NoticeAnswer(_Answer, frozen=True, omit_defaults=True):
    """When the notice was done, or a problem."""

    done_at: str | None = None
    problem: dict[str, Any] | None = None


class NoticeAnswers(_Answer, frozen=True):
    """One answer per item, in order."""

    items: list[NoticeAnswer]


class AccountCall(_Call, frozen=True):
    """`POST /v1/account-export`, and `POST /v1/account-ends`, the first step of an end; purpose `data-protection`."""

    purpose: Name
    account_id: Id


class EndCall(_Call, frozen=True):
    """`POST /v1/account-ends:confirm`, purpose `data-protection`. Repeat it until the state is `ended`.

    It needs the confirmation that the first step gave, and a whole export after that step, unless `without_export`.
    """

    purpose: Name
    account_id: Id
    confirmation: Bounded
    without_export: bool = False
    limit: AtOnce = RETENTION_AT_ONCE_MAX


class AccountEnd(_Answer, frozen=True):
    """How far an account's end is. `confirmation` is shown by the first step only."""

    account_id: str
    state: Literal["asked", "exported", "ending", "ended"]
    persons: int
    erased: int
    confirmation: str | None
    ended_at: str | None


class Rectified(_Answer, frozen=True, omit_defaults=True):
    """The persons changed, or a problem: erased (410), unknown-recipient (404), address-taken (409)."""

    tokens: list[str] | None = None
    problem: dict[str, Any] | None = None


class RectifyAnswers(_Answer, frozen=True):
    """One answer per item, in order."""

    items: list[Rectified]
