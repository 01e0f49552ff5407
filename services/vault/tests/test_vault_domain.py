from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import pytest

from common.contracts.vault import SealCall, SealItem
from vault.domain import (
    CALLERS,
    FIELD_BITS,
    KINDS,
    Instruction,
    Processor,
    field_names,
    field_set,
    is_allowed,
    may_call,
    refuse_fields,
    refuse_instruction,
    refuse_provider,
)
from vault.formats import Given
from vault.sealing import read_persons

PRINCIPALS = ("ingestion", "moderation", "routing", "enforcement", "vault", "operator", "stranger", "")
BASES = ("record-basis", "withdraw", "suppress")
DUTIES = ("find", "erase", "end-epoch", "restrict", "object", "export", "read-processors")
READS = ("read-erasure", "read-breach-scope", "read-log")
OPERATIONS = ("seal", "open", "disclose", "read-ledger", "read-unauthorised", "read-unsettled", *BASES, *DUTIES, *READS)
OF_DUTIES = ("data-protection", "legal-basis")
PURPOSES = ("intake", "inbox", "screening", "review", "delivery", "complaints", "case", *OF_DUTIES, "", None)
ALLOWED = {
    ("ingestion", "seal", "intake"),
    ("ingestion", "open", "inbox"),
    ("moderation", "open", "screening"),
    ("moderation", "open", "review"),
    ("routing", "disclose", "delivery"),
    ("enforcement", "seal", "complaints"),
    ("enforcement", "open", "case"),
    *((caller, operation, "legal-basis") for caller in ("ingestion", "operator") for operation in BASES),
    *(("operator", operation, "data-protection") for operation in ("restrict", "object", "export", "read-processors")),
    ("operator", "find", "data-protection"),
    ("operator", "erase", "data-protection"),
    ("operator", "end-epoch", "data-protection"),
    ("operator", "read-erasure", "data-protection"),
    ("operator", "read-breach-scope", "data-protection"),
    ("operator", "read-log", "data-protection"),
    ("operator", "read-ledger", None),
    ("operator", "read-unauthorised", None),
    ("routing", "read-unsettled", None),
}
NOW = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
SMTP = Processor("smtp.default", "email", frozenset({"address"}), approved=True, country="DE", purpose="hand-over")


@pytest.mark.parametrize("row", list(product(PRINCIPALS, OPERATIONS, PURPOSES)), ids=str)
def test_the_caller_table_allows_its_rows_and_nothing_else(row):
    assert is_allowed(*row) == (row in ALLOWED)


def test_an_operation_is_closed_to_who_has_no_purpose_for_it():
    allowed = {(caller, operation) for caller, operation, _ in ALLOWED}
    assert {row for row in product(PRINCIPALS, OPERATIONS) if may_call(*row)} == allowed


def test_what_takes_complaints_seals_no_persons_of_another_kind():
    items = [SealItem("a", "m", "jo@example.org", kind=kind) for kind in KINDS]
    sealed = [one for one in read_persons(SealCall("complaints", items)) if isinstance(one, Given)]
    assert [one.kind for one in sealed] == ["complainant"]
    assert all(isinstance(one, Given) for one in read_persons(SealCall("intake", items)))


def test_the_caller_table_cannot_be_changed():
    with pytest.raises(TypeError):
        CALLERS["stranger", "open"] = frozenset()  # type: ignore[index]


@pytest.mark.parametrize("names", [[], ["address"], ["name"], ["address", "name"]])
def test_a_field_set_keeps_its_names(names):
    assert field_names(field_set(names)) == names


def test_a_field_that_is_named_twice_is_no_other_field():
    assert field_names(field_set(["address", "address", "name"])) == ["address", "name"]


def test_each_field_has_a_bit_of_its_own():
    assert sorted(FIELD_BITS.values()) == [1 << place for place in range(len(FIELD_BITS))]


def test_a_field_that_no_person_has_is_refused_without_repeating_it():
    refusal = refuse_fields(["address", "canary"])
    assert (refusal.status, refusal.kind) == (422, "unknown-field")
    assert "canary" not in refusal.detail
    assert refuse_fields(["address", "phone"]) is None


def test_an_approved_provider_gets_what_its_contract_names():
    assert refuse_provider("smtp.default", SMTP, ["address"]) is None


def test_a_field_outside_of_the_contract_is_refused_by_name():
    refusal = refuse_provider("smtp.default", SMTP, ["address", "name"])
    assert refusal is not None
    assert (refusal.status, refusal.kind, refusal.members["field"]) == (403, "field-not-in-contract", "name")


@pytest.mark.parametrize("processor", [None, Processor("x", "email", frozenset({"address"}), False, "DE", "y")])
def test_a_provider_without_approval_gets_nothing(processor):
    refusal = refuse_provider("x", processor, ["address"])
    assert refusal is not None
    assert (refusal.status, refusal.kind) == (403, "provider-not-approved")


def test_rule_spent_names_the_ledger_entry_that_was_acknowledged():
    refusal = refuse_instruction(Instruction(3, NOW, "17.4", NOW), 3)
    assert (refusal.status, refusal.kind) == (409, "spent")
    assert refusal.members["entry"] == "17.4"
    assert refusal.members["entry_asked_at"] == "2026-01-31T09:30:00.000Z"


def test_rule_vault_epoch_names_the_epoch_that_was_served():
    refusal = refuse_instruction(Instruction(3), 2)
    assert (refusal.status, refusal.kind, refusal.members["served_epoch"]) == (409, "stale-epoch", 3)
