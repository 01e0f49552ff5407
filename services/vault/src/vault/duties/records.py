"""Records of processing (Art. 30(2) GDPR) and the register of sub-processors, from what is in force now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from common.times import now, rfc3339
from vault.domain import EEA, field_names
from vault.duties import rows
from vault.scope import EVERY_ACCOUNT, scoped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.postgres.pool import Pool


@dataclass(frozen=True, slots=True)
class Deployment:
    """What the process knows of its deployment that the records name."""

    operator_name: str
    operator_contact: str
    protection_officer: str
    root: str
    epoch_hours: float
    production: bool


class Processing(BaseModel):
    """A kind of processing for an account: whose data, which fields, how many persons, how long."""

    kind: str
    persons: int
    fields: list[str]
    unused_days: int | None
    basis_ended_days: int | None


class Controller(BaseModel):
    """An account on whose behalf data are processed."""

    account_id: str
    since: str
    purposes: list[str]
    processing: list[Processing]
    objects_to: list[str]


class SubProcessor(BaseModel):
    """A provider of the register. `in-notice`: announced, gets nothing before `approved_from`."""

    name: str
    tool: str
    fields: list[str]
    purpose: str
    reasons: str
    country: str
    outside_eea: bool
    transfer: str
    sub_processors: list[str]
    state: str
    announced_on: str | None
    approved_from: str


class Measure(BaseModel):
    """A technical or organisational measure (Art. 32 GDPR), and how it stands right now."""

    measure: str
    now: str
    holds: bool


class Records(BaseModel):
    """The records of processing of this vault."""

    made_at: str
    operator: str
    operator_contact: str
    protection_officer: str
    categories: list[str]
    controllers: list[Controller]
    processors: list[SubProcessor]
    transfers: list[str]
    measures: list[Measure]


class Register(BaseModel):
    """The providers that may be given personal data, for the accounts to read."""

    made_at: str
    operator: str
    operator_contact: str
    processors: list[SubProcessor]


CATEGORIES = [
    "storage of recipients' contact data, encrypted, on the account's instruction",
    "transfer of the contracted fields to a Service provider, one message at a time",
    "automated screening of message content by machines; by a person only within an opened case",
    "records of legal bases, opt-outs and objections",
]


async def read_register(pool: Pool, deployment: Deployment) -> Register:
    """Return the register of sub-processors."""
    async with scoped(pool, EVERY_ACCOUNT) as connection:
        register = await rows.register(connection)
    return Register(
        made_at=rfc3339(now()),
        operator=deployment.operator_name,
        operator_contact=deployment.operator_contact,
        processors=[_sub_processor(row) for row in register],
    )


async def read_records(pool: Pool, deployment: Deployment) -> Records:
    """Return the records of processing, from the rows and the settings as they are."""
    async with scoped(pool, EVERY_ACCOUNT) as connection:
        register = [_sub_processor(row) for row in await rows.register(connection)]
        measures = await rows.measures(connection)
        accounts = await rows.all_accounts(connection)
        counts = await rows.account_counts(connection)
        purposes = await rows.account_purposes(connection)
        rules = {(row["account_id"], row["kind"]): row for row in await rows.all_rules(connection)}
        objections = await rows.objections(connection)
    controllers = [
        Controller(
            account_id=account_id,
            since=since.date().isoformat(),
            purposes=purposes.get(account_id, []),
            processing=[_processing(row, rules) for row in counts if row["account_id"] == account_id],
            objects_to=[row["processor"] for row in objections if row["account_id"] == account_id],
        )
        for account_id, since in accounts.items()
    ]
    return Records(
        made_at=rfc3339(now()),
        operator=deployment.operator_name,
        operator_contact=deployment.operator_contact,
        protection_officer=deployment.protection_officer,
        categories=CATEGORIES,
        controllers=controllers,
        processors=register,
        transfers=[_transfer(one) for one in register if one.outside_eea],
        measures=describe_measures(deployment, measures),
    )


def _processing(row: Mapping[str, Any], rules: Mapping[tuple[str, str], Mapping[str, Any]]) -> Processing:
    rule = rules.get((row["account_id"], row["kind"])) or rules.get(("*", row["kind"]))
    return Processing(
        kind=row["kind"],
        persons=row["persons"],
        fields=field_names(row["fields"]),
        unused_days=None if rule is None else rule["unused_days"],
        basis_ended_days=None if rule is None else rule["basis_ended_days"],
    )


def _sub_processor(row: Mapping[str, Any]) -> SubProcessor:
    return SubProcessor(
        name=row["name"],
        tool=row["tool"],
        fields=field_names(row["fields"]),
        purpose=row["purpose"],
        reasons=row["reasons"],
        country=row["country"],
        outside_eea=row["country"] not in EEA,
        transfer=row["transfer"],
        sub_processors=list(row["sub_processors"]),
        state=row["state"],
        announced_on=None if row["announced_on"] is None else row["announced_on"].isoformat(),
        approved_from=row["approved_from"].isoformat(),
    )


def _transfer(processor: SubProcessor) -> str:
    tool = processor.transfer or "no transfer tool is named in the register"
    return f"{processor.name} in {processor.country}: {tool}"


def describe_measures(deployment: Deployment, found: Mapping[str, Any]) -> list[Measure]:
    """Return the measures with their present state, read from the database and the settings."""
    log_size, signed_at = found["log_size"], found["log_signed_at"]
    in_file = deployment.root.startswith("file")
    return [
        Measure(
            measure="encryption with a key per person (AES-256-GCM), wrapped per account and epoch under a root key",
            now=f"root: {deployment.root}; {'production' if deployment.production else 'development'} mode",
            holds=not (in_file and deployment.production),
        ),
        Measure(
            measure="erasure reaches every copy: keys of an epoch are destroyed at its end",
            now=f"epoch {found['epoch']} since {rfc3339(found['epoch_began_at'])}, ends after"
            f" {deployment.epoch_hours:g} h; {found['erased']} persons erased so far",
            holds=(now() - found["epoch_began_at"]).total_seconds() < (deployment.epoch_hours + 1) * 3600,
        ),
        Measure(
            measure="accounts are kept apart by row-level security that binds the owner of the tables, too",
            now=f"{found['walled_tables']} tables with it, {found['unwalled_tables']} with an account and without it",
            holds=found["unwalled_tables"] == 0 and not found["is_above_walls"],
        ),
        Measure(
            measure="every call is logged in a Merkle tree with signed, published heads",
            now="no head is signed yet" if signed_at is None else f"{log_size} entries, head of {rfc3339(signed_at)}",
            holds=signed_at is not None,
        ),
        Measure(
            measure="a provider gets the fields of its contract only, one message at a time, entered in a ledger",
            now="in force: the statement that enters the ledger row checks the contract",
            holds=True,
        ),
    ]
