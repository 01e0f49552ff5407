"""What the vault decides: who may do what, what a provider may get, why an item is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from common.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

# Caller and operation to the purposes allowed; what is not in the table is refused and logged.
CALLERS: Mapping[tuple[str, str], frozenset[str | None]] = MappingProxyType(
    {
        ("ingestion", "seal"): frozenset({"intake"}),
        ("ingestion", "open"): frozenset({"inbox"}),
        ("moderation", "open"): frozenset({"screening", "review"}),
        ("routing", "disclose"): frozenset({"delivery"}),
        ("routing", "read-unsettled"): frozenset({None}),
        ("enforcement", "seal"): frozenset({"complaints"}),
        ("enforcement", "open"): frozenset({"case"}),
        ("ingestion", "record-basis"): frozenset({"legal-basis"}),
        ("ingestion", "withdraw"): frozenset({"legal-basis"}),
        ("ingestion", "suppress"): frozenset({"legal-basis"}),
        ("operator", "record-basis"): frozenset({"legal-basis"}),
        ("operator", "withdraw"): frozenset({"legal-basis"}),
        ("operator", "suppress"): frozenset({"legal-basis"}),
        ("operator", "restrict"): frozenset({"data-protection"}),
        ("operator", "object"): frozenset({"data-protection"}),
        ("operator", "export"): frozenset({"data-protection"}),
        ("operator", "export-account"): frozenset({"data-protection"}),
        ("operator", "end-account"): frozenset({"data-protection"}),
        ("operator", "rectify"): frozenset({"data-protection"}),
        ("operator", "set-retention"): frozenset({"data-protection"}),
        ("operator", "read-retention"): frozenset({"data-protection"}),
        ("operator", "run-retention"): frozenset({"data-protection"}),
        ("operator", "notify"): frozenset({"data-protection"}),
        ("operator", "read-processors"): frozenset({"data-protection"}),
        ("operator", "read-records"): frozenset({"data-protection"}),
        ("operator", "find"): frozenset({"data-protection"}),
        ("operator", "erase"): frozenset({"data-protection"}),
        ("operator", "end-epoch"): frozenset({"data-protection"}),
        ("operator", "read-erasure"): frozenset({"data-protection"}),
        ("operator", "read-breach-scope"): frozenset({"data-protection"}),
        ("operator", "read-log"): frozenset({"data-protection"}),
        ("operator", "read-ledger"): frozenset({None}),
        ("operator", "read-unauthorised"): frozenset({None}),
    }
)
PURPOSES = frozenset(purpose for purposes in CALLERS.values() for purpose in purposes)
# How many items a second one caller may ask for, by purpose: machines as fast as the road may ever be, people less.
ITEMS_PER_SECOND: Mapping[str, float] = MappingProxyType(
    {
        "intake": 20_000,
        "screening": 20_000,
        "delivery": 20_000,
        "inbox": 500,
        "complaints": 100,
        "review": 50,
        "case": 50,
        "legal-basis": 1000,
        "data-protection": 1000,
    }
)
PURPOSES_OF_A_CASE = frozenset({"review", "case"})
PURPOSES_OF_PEOPLE = PURPOSES_OF_A_CASE | {"inbox"}

# The fields a subject can have, each with its bit in the ledger's field set.
FIELD_BITS: Mapping[str, int] = MappingProxyType(
    {"address": 1, "name": 2, "phone": 4, "postal_address": 8, "language": 16, "time_zone": 32}
)
FIELDS = tuple(FIELD_BITS)
FIELD_PLACES: Mapping[str, int] = MappingProxyType({name: place for place, name in enumerate(FIELDS)})
# What stands against disclosures to a person, bit by bit: restriction, opt-outs by tool, bases that must be looked at.
RESTRICTED, CHECK_BASES = 1, 8
FLAG_OF_TOOL: Mapping[str, int] = MappingProxyType({"email": 2, "telephony": 4})
KINDS = ("recipient", "user", "administrator", "complainant")
# Purposes that seal persons of some kinds only: who takes complaints cannot touch the people of an account.
KINDS_OF_PURPOSE: Mapping[str, frozenset[str]] = MappingProxyType({"complaints": frozenset({"complainant"})})

# Countries of the European Economic Area: elsewhere a transfer needs a tool (Art. 44-49 GDPR).
EEA = frozenset(
    "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IS IT LI LT LU LV MT NL NO PL PT RO SE SI SK".split()  # noqa: SIM905  thirty codes read better so
)


def may_call(caller: str, operation: str) -> bool:
    """Whether a principal may use an operation for any purpose."""
    return (caller, operation) in CALLERS


def is_allowed(caller: str, operation: str, purpose: str | None) -> bool:
    """Whether the caller table has this row."""
    return purpose in CALLERS.get((caller, operation), ())


def field_set(names: Iterable[str]) -> int:
    """Return the bit set of field names."""
    return sum(FIELD_BITS[name] for name in set(names))


def field_names(bits: int) -> list[str]:
    """Return the field names of a bit set."""
    return [name for name, bit in FIELD_BITS.items() if bits & bit]


@dataclass(frozen=True, slots=True)
class Access:
    """One call, as the access log keeps it."""

    caller: str
    operation: str
    purpose: str | None
    case_id: str | None
    items: int
    user_id: str | None = None
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class Processor:
    """A provider that may be given personal data, and which fields its contract names."""

    name: str
    tool: str
    fields: frozenset[str]
    approved: bool
    country: str
    purpose: str
    approved_from: date = date(2000, 1, 1)
    sub_processors: tuple[str, ...] = ()
    transfer: str = ""
    reasons: str = ""
    announced_on: date | None = None


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the vault knows of an instruction: highest epoch served, and the receipt that spent it."""

    epoch: int
    spent_at: datetime | None = None
    entry: str | None = None
    entry_asked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one item is not answered."""

    status: int
    kind: str
    detail: str
    members: Mapping[str, Any] = field(default_factory=dict)


ERASED = Refusal(410, "erased", "this person was erased")
ACCOUNT_ENDED = Refusal(410, "account-ended", "the account has ended: the vault keeps nothing for it any more")
UNKNOWN_RECIPIENT = Refusal(404, "unknown-recipient", "no recipient of this account has this token")
BAD_CAPSULE = Refusal(422, "bad-capsule", "the capsule was not sealed for this message and recipient")
INTEGRITY_FAILED = Refusal(
    500, "integrity-failed", "stored data of this recipient do not open: tell an operator, the row was changed"
)
NOT_STORABLE = Refusal(
    422, "invalid-field", "item: a text holds a NUL or U+001F, or the account is *", {"field": "item"}
)
KIND_OF_ANOTHER_PURPOSE = Refusal(
    422, "invalid-field", "kind: the purpose of this call is not for persons of this kind", {"field": "kind"}
)
TWICE_IN_CALL = Refusal(422, "invalid-field", "message_id: ask for a message once in a call", {"field": "message_id"})


def refuse_fields(asked: Sequence[str]) -> Refusal | None:
    """Return the refusal of a field that no person has, or None."""
    strange = next((name for name in asked if name not in FIELD_BITS), None)
    if strange is None:
        return None
    return Refusal(422, "unknown-field", f"fields: a person's fields are {', '.join(FIELDS)}", {"field": "fields"})


def refuse_provider(provider: str, processor: Processor | None, asked: Sequence[str]) -> Refusal | None:
    """Return why a provider gets nothing, or None when its contract names all fields asked for."""
    if processor is None or not processor.approved:
        detail = "provider: no approved processor has this name; see the processors register"
        return Refusal(403, "provider-not-approved", detail, {"field": "provider"})
    outside = sorted(set(asked) - processor.fields)
    if outside:
        names = ", ".join(outside)
        detail = f"the contract of {provider} has no {names}"
        return Refusal(403, "field-not-in-contract", detail, {"field": outside[0]})
    return None


def refuse_person(flags: int, tool: str) -> Refusal | None:
    """Return what stands against disclosures to a person through a tool, or None."""
    if flags & RESTRICTED:
        return Refusal(403, "restricted", "the person's data are restricted: nothing is disclosed until that is lifted")
    if flags & FLAG_OF_TOOL["email" if tool == "email" else "telephony"]:
        return Refusal(403, "suppressed", "the person has opted out of this tool")
    return None


WITHDRAWN = Refusal(403, "withdrawn", "the legal basis for this purpose was withdrawn")
EXPIRED_BASIS = Refusal(403, "expired-basis", "the legal basis for this purpose has expired")
OBJECTED = Refusal(403, "objected", "the account objects to this processor")


def refuse_instruction(instruction: Instruction, epoch: int) -> Refusal:
    """Return why a disclosure was not entered: rule `spent` before rule `vaultEpoch`."""
    if instruction.spent_at is None:
        detail = f"epoch {instruction.epoch} was served; epoch {epoch} has lost the delivery: drop it"
        return Refusal(409, "stale-epoch", detail, {"served_epoch": instruction.epoch})
    told = {"spent_at": rfc3339(instruction.spent_at)}
    if instruction.entry is not None and instruction.entry_asked_at is not None:
        told |= {"entry": instruction.entry, "entry_asked_at": rfc3339(instruction.entry_asked_at)}
    return Refusal(409, "spent", "the message was handed over: nothing more is disclosed for it", told)
