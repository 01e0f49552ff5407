"""What the vault decides: who may do what, what a provider may get, why an item is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from common.times import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

Operation = Literal["seal", "open", "disclose", "read-ledger", "read-unauthorised", "read-unsettled"]

# Caller and operation to the purposes allowed; what is not in the table is refused and logged.
CALLERS: Mapping[tuple[str, str], frozenset[str | None]] = MappingProxyType(
    {
        ("ingestion", "seal"): frozenset({"intake"}),
        ("ingestion", "open"): frozenset({"inbox"}),
        ("moderation", "open"): frozenset({"screening", "review"}),
        ("routing", "disclose"): frozenset({"delivery"}),
        ("routing", "read-unsettled"): frozenset({None}),
        ("enforcement", "open"): frozenset({"case"}),
        ("operator", "read-ledger"): frozenset({None}),
        ("operator", "read-unauthorised"): frozenset({None}),
    }
)
PURPOSES_OF_A_CASE = frozenset({"review", "case"})

# The fields a subject can have, each with its bit in the ledger's field set.
FIELD_BITS: Mapping[str, int] = MappingProxyType({"address": 1, "name": 2})


def may_call(caller: str, operation: str) -> bool:
    """Whether a principal may use an operation for any purpose."""
    return (caller, operation) in CALLERS


def is_allowed(caller: str, operation: str, purpose: str | None) -> bool:
    """Whether the caller table has this row."""
    return purpose in CALLERS.get((caller, operation), ())


def field_set(names: Iterable[str]) -> int:
    """Return the bit set of field names."""
    return sum(FIELD_BITS[name] for name in names)


def field_names(bits: int) -> list[str]:
    """Return the field names of a bit set."""
    return [name for name, bit in FIELD_BITS.items() if bits & bit]


@dataclass(frozen=True, slots=True)
class Access:
    """One call, as the access log keeps it."""

    caller: str
    operation: Operation
    purpose: str | None
    case_id: str | None
    items: int


@dataclass(frozen=True, slots=True)
class Processor:
    """A provider that may be given personal data, and which fields its contract names."""

    name: str
    tool: str
    fields: frozenset[str]
    approved: bool
    country: str
    purpose: str


@dataclass(frozen=True, slots=True)
class Instruction:
    """What the vault knows of an instruction: highest epoch served, and the receipt that spent it."""

    epoch: int
    spent_at: datetime | None = None
    entry: int | None = None
    entry_asked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one item is not answered."""

    status: int
    kind: str
    detail: str
    members: Mapping[str, Any] = field(default_factory=dict)


UNKNOWN_RECIPIENT = Refusal(404, "unknown-recipient", "no recipient of this account has this token")
BAD_CAPSULE = Refusal(422, "bad-capsule", "the capsule was not sealed for this message and recipient")
INTEGRITY_FAILED = Refusal(
    500, "integrity-failed", "stored data of this recipient do not open: tell an operator, the row was changed"
)
TWICE_IN_CALL = Refusal(422, "invalid-field", "message_id: ask for a message once in a call", {"field": "message_id"})


def refuse_provider(provider: str, processor: Processor | None, asked: Sequence[str]) -> Refusal | None:
    """Return why a provider gets nothing, or None when its contract names all fields asked for."""
    if processor is None or not processor.approved:
        return Refusal(
            403, "provider-not-approved", f"{provider} is not an approved processor; see the processors register"
        )
    outside = sorted(set(asked) - processor.fields)
    if outside:
        names = ", ".join(outside)
        detail = f"the contract of {provider} has no {names}"
        return Refusal(403, "field-not-in-contract", detail, {"field": outside[0]})
    return None


def refuse_instruction(instruction: Instruction, epoch: int) -> Refusal:
    """Return why a disclosure was not entered: rule `spent` before rule `vaultEpoch`."""
    if instruction.spent_at is None:
        detail = f"epoch {instruction.epoch} was served; epoch {epoch} has lost the delivery: drop it"
        return Refusal(409, "stale-epoch", detail, {"served_epoch": instruction.epoch})
    told = {"spent_at": rfc3339(instruction.spent_at)}
    if instruction.entry is not None and instruction.entry_asked_at is not None:
        told |= {"entry": str(instruction.entry), "entry_asked_at": rfc3339(instruction.entry_asked_at)}
    return Refusal(409, "spent", "the message was handed over: nothing more is disclosed for it", told)
