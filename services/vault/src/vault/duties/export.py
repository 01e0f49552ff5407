"""Everything the vault knows of a person (Art. 15 and 20 GDPR): fields, recipients, purposes, bases, opt-outs, erasure.

A person that was erased still gets an answer to "who received what about me": the ledger keeps tokens, never values.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from common.contracts.vault_people import (
    ENTRIES_MAX,
    Export,
    ExportCall,
    ExportedBasis,
    ExportedDisclosure,
    ExportedErasure,
    ExportedHandling,
    ExportedNotice,
    ExportedOptOut,
    ExportedPerson,
    ExportedRecipient,
    ExportedRetention,
)
from common.http.problems import Problem
from common.times import now, rfc3339
from vault import store
from vault.domain import FIELDS, RESTRICTED, field_names
from vault.duties import rows
from vault.finding import find_tokens, refuse_person_item
from vault.formats import normal_address
from vault.keys.blobs import BlobError
from vault.opening import report_broken
from vault.scope import scoped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date, datetime

    from common.postgres.pool import Connection, Pool
    from vault.domain import Access
    from vault.duties.rows import PersonRow
    from vault.keyring import Keyring
    from vault.keys.accounts import AccountKeys

NEWEST = (2**62, 0)
_NO_CONTENT: list[Any] = []


class Facts(NamedTuple):
    """What stands in the tables about some persons, by token; opt-outs by keyed hash."""

    persons: Mapping[str, PersonRow]
    accounts: Mapping[str, AccountKeys]
    erasures: Mapping[str, Mapping[str, Any]]
    disclosures: Mapping[str, list[Mapping[str, Any]]]
    bases: Mapping[str, list[Mapping[str, Any]]]
    handlings: Mapping[str, list[Mapping[str, Any]]]
    notices: Mapping[str, list[Mapping[str, Any]]]
    rules: Mapping[tuple[str, str], tuple[int, int | None]]
    basis_ends: Mapping[str, datetime]


async def export(call: ExportCall, access: Access, pool: Pool, keyring: Keyring) -> Export:
    """Return the persons that the call names, or raise the 404; the log row is there before the answer."""
    if refusal := refuse_person_item(call.person):
        raise Problem(refusal.status, refusal.kind, refusal.detail, **refusal.members)
    (tokens,) = await find_tokens([call.person], pool, keyring)
    account_id = call.person.account_id
    async with scoped(pool, [account_id]) as connection:
        persons = await read_persons(connection, keyring, account_id, tokens, before=_entry(call.before))
        touched = [person.token for person in persons]
        await store.log_access(connection, access, answered=bool(touched), touched=touched)
    if not persons:
        raise Problem(404, "unknown-recipient", "nobody of this account is known by this, or was")
    return Export(rfc3339(now()), persons)


def _entry(text: str | None) -> tuple[int, int]:
    if text is None:
        return NEWEST
    call_id, _, ordinal = text.partition(".")
    return int(call_id), int(ordinal)


async def read_persons(
    connection: Connection,
    keyring: Keyring,
    account_id: str,
    tokens: Sequence[str],
    *,
    before: tuple[int, int] = NEWEST,
    entries_max: int = ENTRIES_MAX,
) -> list[ExportedPerson]:
    """Return what is known of persons of one account, in the order given; tokens of nobody are left out."""
    facts = await _read(connection, keyring, account_id, tokens, before=before, entries_max=entries_max)
    opened = {token: open_fields(person, facts.accounts) for token, person in facts.persons.items()}
    hashes = {token: _hashes(facts.accounts.get(account_id), fields) for token, (fields, _) in opened.items()}
    opt_outs = await rows.opt_outs(connection, [one for some in hashes.values() for one in some])
    found: list[ExportedPerson] = []
    for token in tokens:
        if token in facts.persons:
            outs = [opt_outs[one] for one in hashes[token] if one in opt_outs]
            found.append(_kept(facts.persons[token], opened[token], outs, facts, entries_max))
        elif token in facts.erasures:
            found.append(_erased(facts.erasures[token], facts, entries_max))
    return found


async def _read(
    connection: Connection,
    keyring: Keyring,
    account_id: str,
    tokens: Sequence[str],
    *,
    before: tuple[int, int],
    entries_max: int,
) -> Facts:
    persons = await rows.persons(connection, tokens)
    needed = {(account_id, person.key.epoch) for person in persons.values() if person.key is not None}
    return Facts(
        persons,
        await keyring.of(connection, needed),
        await rows.erasures(connection, tokens),
        await rows.disclosures(connection, tokens, before, entries_max),
        await rows.bases(connection, tokens),
        await rows.handlings(connection, tokens, entries_max),
        await rows.notices_of(connection, tokens),
        await rows.rules_for(connection, [account_id]),
        await rows.basis_ends(connection, tokens),
    )


def open_fields(person: PersonRow, accounts: Mapping[str, AccountKeys]) -> tuple[dict[str, str], list[str]]:
    """Return a person's fields in clear, and the names of those that do not open."""
    stored = {name: blob for name, blob in zip(FIELDS, person.fields, strict=True) if blob is not None}
    account = accounts.get(person.account_id)
    if account is None or person.key is None:
        report_broken(person.token, "the data key")
        return {}, list(stored)
    opened: dict[str, str] = {}
    try:
        keys = account.subject(person.token, person.key.epoch, person.key.wrapped)
    except BlobError:
        report_broken(person.token, "the data key")
        return {}, list(stored)
    for name, blob in stored.items():
        try:
            opened[name] = keys.open_field(name, blob)
        except BlobError:
            report_broken(person.token, "a field")
    return opened, sorted(stored.keys() - opened.keys())


def _hashes(account: AccountKeys | None, fields: Mapping[str, str]) -> list[bytes]:
    if account is None:
        return []
    email = [account.suppression_of("email", normal_address(fields["address"]))] if "address" in fields else []
    phone = [account.suppression_of("telephony", fields["phone"])] if "phone" in fields else []
    return email + phone


def _kept(
    person: PersonRow,
    opened: tuple[dict[str, str], list[str]],
    opt_outs: Sequence[Mapping[str, Any]],
    facts: Facts,
    entries_max: int,
) -> ExportedPerson:
    fields, unreadable = opened
    return _person(
        person.token,
        person.account_id,
        facts,
        entries_max,
        state="restricted" if person.flags & RESTRICTED else "kept",
        kind=person.kind,
        fields=fields,
        created_on=person.created_at.date().isoformat(),
        used_on=person.used_on.isoformat(),
        opt_outs=[ExportedOptOut(row["tool"], row["reason"], rfc3339(row["made_at"])) for row in opt_outs],
        retention=_retention(person, facts),
        erasure=None,
        unreadable=unreadable,
    )


def _erased(row: Mapping[str, Any], facts: Facts, entries_max: int) -> ExportedPerson:
    unreadable_at = row["unreadable_at"]
    erasure = ExportedErasure(
        rfc3339(row["erased_at"]), row["reason"], None if unreadable_at is None else rfc3339(unreadable_at)
    )
    return _person(
        row["token"],
        row["account_id"],
        facts,
        entries_max,
        state="erased",
        kind=None,
        fields={},
        created_on=None,
        used_on=None,
        opt_outs=[],
        retention=None,
        erasure=erasure,
        unreadable=[],
    )


def _person(token: str, account_id: str, facts: Facts, entries_max: int, **rest: Any) -> ExportedPerson:
    disclosures = [_disclosure(row) for row in facts.disclosures.get(token, _NO_CONTENT)]
    bases = [_basis(row) for row in facts.bases.get(token, _NO_CONTENT)]
    return ExportedPerson(
        account_id=account_id,
        token=token,
        purposes=sorted({basis.purpose for basis in bases}),
        bases=bases,
        recipients=sum_up(disclosures),
        disclosures=disclosures,
        handlings=[
            ExportedHandling(rfc3339(row["at"]), row["caller"], row["operation"], row["purpose"])
            for row in facts.handlings.get(token, _NO_CONTENT)
        ],
        notices=[_notice(row) for row in facts.notices.get(token, _NO_CONTENT)],
        more=disclosures[-1].entry if len(disclosures) == entries_max else None,
        **rest,
    )


def _disclosure(row: Mapping[str, Any]) -> ExportedDisclosure:
    acknowledged_at = row["acknowledged_at"]
    return ExportedDisclosure(
        entry=f"{row['call_id']}.{row['ordinal']}",
        at=rfc3339(row["at"]),
        provider=row["provider"],
        country=row["country"],
        why=row["why"],
        fields=field_names(row["fields"]),
        message_id=row["message_id"],
        legal_basis=row["legal_basis"],
        attempt=row["attempt"],
        hand_over="may-have-happened" if acknowledged_at is None else "acknowledged",
        acknowledged_at=None if acknowledged_at is None else rfc3339(acknowledged_at),
    )


def sum_up(disclosures: Sequence[ExportedDisclosure]) -> list[ExportedRecipient]:
    """Return one row per provider from disclosures, newest first as they come."""
    by_provider: dict[str, list[ExportedDisclosure]] = {}
    for one in disclosures:
        by_provider.setdefault(one.provider, []).append(one)
    return [
        ExportedRecipient(
            provider=provider,
            country=some[0].country,
            why=some[0].why,
            fields=[name for name in FIELDS if any(name in one.fields for one in some)],
            disclosures=len(some),
            acknowledged=sum(one.hand_over == "acknowledged" for one in some),
            first=some[-1].at,
            last=some[0].at,
        )
        for provider, some in sorted(by_provider.items())
    ]


def _basis(row: Mapping[str, Any]) -> ExportedBasis:
    return ExportedBasis(
        purpose=row["purpose"],
        kind=row["kind"],
        in_force=row["in_force"],
        attested=row["attested"],
        text_digest=row["text_digest"],
        language=row["language"],
        source=row["source"],
        given_at=rfc3339(row["given_at"]),
        expires_at=_moment(row["expires_at"]),
        withdrawn_at=_moment(row["withdrawn_at"]),
        recorded_by=row["recorded_by"],
    )


def _notice(row: Mapping[str, Any]) -> ExportedNotice:
    times = (rfc3339(row["made_at"]), rfc3339(row["due_at"]), _moment(row["done_at"]))
    return ExportedNotice(row["provider"], row["kind"], *times)


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def _retention(person: PersonRow, facts: Facts) -> ExportedRetention | None:
    rule = facts.rules.get((person.account_id, person.kind)) or facts.rules.get(("*", person.kind))
    if rule is None:
        return None
    unused_days, basis_ended_days = rule
    day = erased_from(person.used_on, facts.basis_ends.get(person.token), unused_days, basis_ended_days)
    return ExportedRetention(unused_days, basis_ended_days, day.isoformat())


def erased_from(used_on: date, basis_ended_at: datetime | None, unused_days: int, basis_ended_days: int | None) -> date:
    """Return the first day on which a retention run would erase a person that is not used again.

    Args:
        used_on: when the person was last written to.
        basis_ended_at: when the last of all its recorded bases ended; None while one is in force, or none is recorded.
        unused_days: days that a person is kept after its last use.
        basis_ended_days: days that it is kept after its last basis ended, unless it was used since; None for no rule.
    """
    day = used_on + timedelta(days=unused_days + 1)
    if basis_ended_days is None or basis_ended_at is None or basis_ended_at.date() < used_on:
        return day
    return min(day, basis_ended_at.date() + timedelta(days=basis_ended_days + 1))
