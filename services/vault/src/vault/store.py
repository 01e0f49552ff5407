"""The vault's rows: each function runs one named query, in a transaction that is scoped to the accounts it names."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from common.contracts.vault import Unsettled
from common.http.problems import Problem
from common.outbox.relay import StoredRecord, outbox_columns
from common.postgres.queries import load_queries
from vault.domain import Access, Instruction, Processor, field_names, field_set
from vault.keys.accounts import AccountSecrets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from common.contracts.vault import DiscloseItem
    from common.kafka.records import Record
    from common.postgres.pool import Connection, Pool

SQL = load_queries("vault")
LEDGER_ROWS_MAX = 1000
_SEPARATOR = "\x1f"

# Sealed fields in the order of `FIELDS`.
Blobs = tuple[bytes | None, ...]


class WrappedAccount(NamedTuple):
    """What the database holds of an account: (epoch, wrapped key) pairs and the wrapped secrets."""

    keys: Sequence[tuple[int, bytes]]
    secrets: AccountSecrets


class IdentityKey(NamedTuple):
    """How a person is found: account and blind index of the address or phone."""

    account_id: str
    identity_index: bytes


class WrappedKey(NamedTuple):
    """A person's wrapped data key."""

    token: str
    account_id: str
    epoch: int
    wrapped: bytes


class StoredSubject(NamedTuple):
    """A person as stored: wrapped data key and sealed fields; stale when it was not used today."""

    token: str
    epoch: int
    wrapped: bytes
    is_stale: bool
    fields: Blobs


class Disclosable(NamedTuple):
    """An item whose ledger row was written: its place in the call, wrapped data key and sealed fields."""

    key: WrappedKey
    ordinal: int
    fields: Blobs


class NewSubject(NamedTuple):
    """A person to create."""

    token: str
    account_id: str
    kind: str
    identity_index: bytes
    phone_index: bytes | None
    epoch: int
    wrapped: bytes
    fields: Blobs
    email_hash: bytes | None
    telephony_hash: bytes | None


class ChangedFields(NamedTuple):
    """New sealed values of a person; None leaves the stored one."""

    token: str
    phone_index: bytes | None
    fields: Blobs


class PersonState(NamedTuple):
    """What stands against a disclosure, as a bit set."""

    account_id: str
    flags: int


class Erasure(NamedTuple):
    """A person that is erased, or is to be."""

    token: str
    account_id: str
    erased_at: datetime
    reason: str
    asked_by: str
    epoch: int


class NewBasis(NamedTuple):
    """A legal basis to record."""

    account_id: str
    token: str
    purpose: str
    kind: str
    attested: bool
    text_digest: str | None
    language: str | None
    source: str | None
    given_at: datetime
    expires_at: datetime | None
    recorded_by: str


class Spent(NamedTuple):
    """An instruction whose message was handed over, by a verified receipt."""

    account_id: str
    message_id: str
    state: str
    attempt: int | None
    occurred_at: datetime


class Unauthorised(NamedTuple):
    """A record without authority."""

    topic: str
    partition: int
    record_offset: int
    event_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One disclosure, without personal data. `hand_over`: the provider acknowledged it, or it may have happened."""

    id: str
    asked_at: datetime
    message_id: str
    account_id: str
    recipient_token: str
    provider: str
    fields: list[str]
    purpose: str
    legal_basis: str
    instruction_digest: str
    epoch: int
    attempt: int
    caller: str
    acknowledged_at: datetime | None
    hand_over: Literal["acknowledged", "may-have-happened"]


async def living_epochs(connection: Connection) -> list[int]:
    """Return the epochs whose keys are not destroyed, oldest first."""
    return [row[0] for row in await connection.fetch(SQL["living_epochs"])]


async def has_accounts(connection: Connection) -> bool:
    """Whether the database knows any account."""
    return bool(await connection.fetchval(SQL["has_accounts"]))


async def account_keys(connection: Connection, account_ids: Sequence[str]) -> Mapping[str, WrappedAccount]:
    """Return the wrapped keys of the accounts that have some."""
    return _by_account(await connection.fetch(SQL["account_keys"], account_ids))


async def any_account(connection: Connection) -> Mapping[str, WrappedAccount]:
    """Return the keys of one account, if there is one."""
    return _by_account(await connection.fetch(SQL["any_account"]))


def _by_account(rows: Iterable[Sequence[Any]]) -> Mapping[str, WrappedAccount]:
    accounts: dict[str, WrappedAccount] = {}
    for account_id, epoch, wrapped, index, suppression in rows:
        keys = accounts[account_id].keys if account_id in accounts else ()
        accounts[account_id] = WrappedAccount([*keys, (epoch, wrapped)], AccountSecrets(index, suppression))
    return accounts


async def create_accounts(
    connection: Connection, accounts: Mapping[str, tuple[AccountSecrets, bytes]], epoch: int
) -> None:
    """Store accounts with their secrets and first key; those that exist keep theirs."""
    rows = [(account_id, *secrets, wrapped) for account_id, (secrets, wrapped) in accounts.items()]
    await connection.execute(SQL["create_accounts"], *_columns(rows, 4), epoch)


async def ended_accounts(connection: Connection, account_ids: Iterable[str]) -> set[str]:
    """Return which accounts have ended, or are about to."""
    return {row[0] for row in await connection.fetch(SQL["ended_accounts"], list(account_ids))}


async def find_subjects(
    connection: Connection, identities: Sequence[IdentityKey]
) -> Mapping[IdentityKey, StoredSubject]:
    """Return the persons that exist, by account and blind index."""
    accounts, indexes = _joined([one.account_id for one in identities]), [one.identity_index for one in identities]
    rows = await connection.fetch(SQL["find_subjects"], accounts, indexes)
    return {IdentityKey(row[0], row[1]): StoredSubject(row[2], row[3], row[4], row[5], row[6:]) for row in rows}


async def create_subjects(connection: Connection, subjects: Sequence[NewSubject]) -> set[str]:
    """Create persons; return the tokens of those that did not exist."""
    columns = (
        _joined([one.token for one in subjects]),
        _joined([one.account_id for one in subjects]),
        _joined([one.kind for one in subjects]),
        [one.identity_index for one in subjects],
        _sparse([one.phone_index for one in subjects]),
        *_field_columns([one.fields for one in subjects]),
        _joined([str(one.epoch) for one in subjects]),
        [one.wrapped for one in subjects],
        _sparse([one.email_hash for one in subjects]),
        _sparse([one.telephony_hash for one in subjects]),
    )
    return {row[0] for row in await connection.fetch(SQL["create_subjects"], *columns)}


async def update_fields(connection: Connection, changes: Sequence[ChangedFields]) -> None:
    """Replace stored fields."""
    tokens, phones = [one.token for one in changes], [one.phone_index for one in changes]
    fields = _field_columns([one.fields for one in changes])
    await connection.execute(SQL["update_fields"], _joined(tokens), _sparse(phones), *fields)


async def wrapped_keys(connection: Connection, tokens: Iterable[str]) -> Mapping[str, WrappedKey]:
    """Return wrapped data keys by token."""
    return {row[0]: WrappedKey(*row) for row in await connection.fetch(SQL["wrapped_keys"], _joined(list(tokens)))}


async def processor(connection: Connection, name: str) -> Processor | None:
    """Return a processor's contract."""
    row = await connection.fetchrow(SQL["processor"], name)
    return row and _processor(row)


async def processors(connection: Connection | Pool) -> list[Processor]:
    """Return the whole register."""
    return [_processor(row) for row in await connection.fetch(SQL["processors"])]


def _processor(row: Sequence[Any]) -> Processor:
    name, tool, fields, approved, country, purpose, approved_from, sub_processors, transfer, reasons = row
    return Processor(
        name,
        tool,
        frozenset(field_names(fields)),
        approved,
        country,
        purpose,
        approved_from,
        tuple(sub_processors),
        transfer,
        reasons,
    )


async def replace_processors(connection: Connection | Pool, register: Sequence[Processor]) -> None:
    """Make the register what the file says."""
    rows = [
        (
            one.name,
            one.tool,
            field_set(one.fields),
            one.approved,
            one.country,
            one.purpose,
            one.approved_from,
            _joined(one.sub_processors),
            one.transfer,
            one.reasons,
            one.announced_on,
        )
        for one in register
    ]
    await connection.execute(SQL["replace_processors"], *_columns(rows, 11))


async def objecting_accounts(connection: Connection, processor: str, account_ids: Iterable[str]) -> set[str]:
    """Return which accounts object to a processor."""
    return {row[0] for row in await connection.fetch(SQL["objecting_accounts"], processor, list(account_ids))}


async def object_to_processor(connection: Connection, account_id: str, processor: str, reason: str | None) -> None:
    """Keep an account's objection; lift it when there is no reason."""
    if reason is None:
        await connection.execute(SQL["lift_objection"], account_id, processor)
    else:
        await connection.execute(SQL["object_to_processor"], account_id, processor, reason)


async def record_bases(connection: Connection, bases: Sequence[NewBasis]) -> None:
    """Record legal bases."""
    await connection.execute(SQL["record_bases"], *_columns(bases, 11))


async def withdraw_bases(connection: Connection, told: Sequence[tuple[str, str, str, str]], caller: str) -> None:
    """End bases by (account, token, purpose, kind)."""
    await connection.execute(SQL["withdraw_bases"], *_columns(told, 4), caller)


async def suppress(connection: Connection, hashes: Sequence[tuple[str, bytes, str, str]]) -> None:
    """Keep opt-outs: (account, hash, tool, reason)."""
    await connection.execute(SQL["suppress"], *_columns(hashes, 4))


async def lift_suppressions(connection: Connection, hashes: Sequence[tuple[str, bytes, str, str]]) -> None:
    """Take opt-outs back."""
    await connection.execute(SQL["lift_suppressions"], *_columns(hashes, 4)[:2])


async def flag_persons(connection: Connection, bits: Sequence[tuple[str, int, int]]) -> None:
    """Set and clear bits of what stands against disclosures: (token, set, clear)."""
    if bits:
        await connection.execute(SQL["flag_persons"], *_columns(bits, 3))


async def add_to_outbox(connection: Connection, records: Sequence[Record]) -> list[StoredRecord]:
    """Store events in this transaction; return them with the ids of their rows."""
    if not records:
        return []
    rows = await connection.fetch(SQL["add_to_outbox"], *outbox_columns(records))
    return [StoredRecord(row[0], record) for row, record in zip(rows, records, strict=True)]


async def bases_of_person(connection: Connection, token: str) -> list[Mapping[str, Any]]:
    """Return the legal bases of a person, oldest first."""
    return list(await connection.fetch(SQL["bases_of_person"], token))


async def enter_disclosures(
    connection: Connection, items: Sequence[DiscloseItem], fields: int, access: Access
) -> list[Disclosable]:
    """Write ledger rows and the call's log row; return what may be opened once they are committed (`ledgerFirst`)."""
    columns = (
        _joined([item.account_id for item in items]),
        _joined([item.message_id for item in items]),
        _joined([item.token for item in items]),
        _joined([item.legal_basis for item in items]),
        _joined([item.instruction_digest for item in items]),
        _joined([str(item.epoch) for item in items]),
        _joined([str(item.attempt) for item in items]),
        _joined([item.message_purpose for item in items]),
    )
    caller = (access.caller, access.operation, access.purpose, access.case_id, access.user_id)
    rows = await connection.fetch(SQL["enter_disclosures"], *columns, fields, access.provider, *caller, access.items)
    return [Disclosable(WrappedKey(*row[:4]), row[4], row[5:]) for row in rows]


async def unsettled(connection: Connection, since: datetime, caller: str) -> list[Unsettled]:
    """Return what a caller was given since then for messages that are not spent."""
    rows = await connection.fetch(SQL["unsettled"], since, caller)
    return [Unsettled(message_id=row[0], epoch=row[1], attempt=row[2]) for row in rows]


async def person_states(connection: Connection, tokens: Iterable[str]) -> Mapping[str, PersonState]:
    """Return what stands against disclosures to persons, by token."""
    return {row[0]: PersonState(row[1], row[2]) for row in await connection.fetch(SQL["person_states"], list(tokens))}


async def instructions(connection: Connection, items: Sequence[DiscloseItem]) -> Mapping[tuple[str, str], Instruction]:
    """Return what is known of instructions, by account and message."""
    accounts, messages = [item.account_id for item in items], [item.message_id for item in items]
    rows = await connection.fetch(SQL["instructions"], accounts, messages)
    return {(row[0], row[1]): Instruction(*row[2:]) for row in rows}


async def spend(connection: Connection, spent: Sequence[Spent]) -> None:
    """Mark instructions spent, each once."""
    await connection.execute(SQL["spend"], *_columns(spent, 5))


async def insert_unauthorised(connection: Connection, records: Sequence[Unauthorised]) -> None:
    """Count records without authority, each once."""
    await connection.execute(SQL["insert_unauthorised"], *_columns(records, 5))


async def log_access(
    connection: Connection | Pool,
    access: Access,
    *,
    answered: int = 0,
    refused: bool = False,
    touched: Sequence[str] | None = None,
) -> None:
    """Log a call that has no other row to write; `touched` names what a person saw or changed."""
    outcome = "refused" if refused else "answered"
    caller = (access.caller, access.operation, access.purpose, access.case_id, access.user_id, access.provider)
    await connection.execute(SQL["log_access"], *caller, outcome, access.items, answered, touched)


async def disclosures_of_message(connection: Connection, message_id: str) -> list[LedgerRow]:
    """Return the ledger of one message, oldest first."""
    rows = await connection.fetch(SQL["disclosures_of_message"], message_id, LEDGER_ROWS_MAX)
    return [
        LedgerRow(
            id=f"{row['call_id']}.{row['ordinal']}",
            asked_at=row["at"],
            message_id=row["message_id"],
            account_id=row["account_id"],
            recipient_token=row["token"],
            provider=row["provider"],
            fields=field_names(row["fields"]),
            purpose=row["purpose"],
            legal_basis=row["legal_basis"],
            instruction_digest=row["instruction_digest"],
            epoch=row["epoch"],
            attempt=row["attempt"],
            caller=row["caller"],
            acknowledged_at=row["acknowledged_at"],
            hand_over="may-have-happened" if row["acknowledged_at"] is None else "acknowledged",
        )
        for row in rows
    ]


async def erased_tokens(connection: Connection, tokens: Sequence[str]) -> set[str]:
    """Return which tokens were persons that are erased."""
    return {row[0] for row in await connection.fetch(SQL["erased_tokens"], _joined(tokens))} if tokens else set()


async def find_tokens(
    connection: Connection, wanted: Sequence[tuple[str, bytes, bytes | None]]
) -> Sequence[tuple[int, str]]:
    """Return (place in the list from 0, token) of persons by account, identity index and phone index."""
    accounts, identities, phones = zip(*wanted, strict=True)
    rows = await connection.fetch(SQL["find_tokens"], _joined(accounts), list(identities), _sparse(list(phones)))
    return [(row[0] - 1, row[1]) for row in rows]


async def lock_persons(connection: Connection, tokens: Sequence[str]) -> Mapping[str, str]:
    """Hold persons until the transaction ends; return their accounts by token."""
    rows = await connection.fetch(SQL["lock_persons"], _joined(tokens))
    return {row[0]: row[1] for row in rows}


async def erase_persons(connection: Connection, erasures: Sequence[Erasure]) -> set[str]:
    """Erase persons, record it, make tasks for their providers; return the tokens that were not recorded before."""
    await connection.execute(SQL["lock_erasures"])
    columns = (
        _joined([one.token for one in erasures]),
        _joined([one.account_id for one in erasures]),
        [one.erased_at for one in erasures],
        _joined([one.reason for one in erasures]),
        _joined([one.asked_by for one in erasures]),
        _joined([str(one.epoch) for one in erasures]),
    )
    return {row[0] for row in await connection.fetch(SQL["erase_persons"], *columns)}


async def erasure_count(connection: Connection) -> int:
    """Return how many erasures this database knows."""
    return int(await connection.fetchval(SQL["erasure_count"]))


async def erasure(connection: Connection, token: str) -> tuple[Erasure, datetime | None] | None:
    """Return an erasure by token, and when the keys of its epoch were destroyed."""
    row = await connection.fetchrow(SQL["erasure"], token)
    return row and (Erasure(row[0], row[1], row[2], row[3], "", row[4]), row[5])


async def make_epoch(connection: Connection, epoch: int) -> None:
    """Make the partition and the row of an epoch."""
    await connection.execute(SQL["make_epoch"], epoch)


async def drop_epoch(connection: Connection, epoch: int) -> bool:
    """Drop an epoch's partition and account keys; False when data keys are left in it."""
    return bool(await connection.fetchval(SQL["drop_epoch"], epoch))


async def epoch_age(connection: Connection) -> tuple[int, float]:
    """Return the newest epoch and its age in seconds."""
    row = await connection.fetchrow(SQL["epoch_age"])
    return row[0], row[1]


async def accounts_without_key(connection: Connection, epoch: int, after: str, limit: int) -> list[str]:
    """Return accounts that have no key of an epoch, in their order."""
    return [row[0] for row in await connection.fetch(SQL["accounts_without_key"], epoch, after, limit)]


async def add_account_keys(connection: Connection, keys: Mapping[str, bytes], epoch: int) -> None:
    """Store keys of accounts in a new epoch; those that have one keep it."""
    await connection.execute(SQL["add_account_keys"], list(keys), list(keys.values()), epoch)


async def keys_of_epoch(connection: Connection, epoch: int, after: str, limit: int) -> list[WrappedKey]:
    """Return data keys of an epoch in the order of their tokens, while erasures wait."""
    await connection.execute(SQL["lock_moves"])
    return [WrappedKey(*row) for row in await connection.fetch(SQL["keys_of_epoch"], epoch, after, limit)]


async def move_keys(
    connection: Connection, keys: Sequence[tuple[str, str, bytes]], old_epoch: int, new_epoch: int
) -> None:
    """Put data keys (token, account, wrapped) into the partition of another epoch."""
    tokens, accounts, wrapped = zip(*keys, strict=True)
    await connection.execute(SQL["move_keys"], _joined(tokens), _joined(accounts), list(wrapped), old_epoch, new_epoch)


async def lock_epochs(connection: Connection) -> bool:
    """Become the process that ends epochs, until `unlock_epochs` on the same connection."""
    return bool(await connection.fetchval(SQL["lock_epochs"]))


async def unlock_epochs(connection: Connection) -> None:
    """Let others end epochs."""
    await connection.execute(SQL["unlock_epochs"])


async def breach_totals(
    connection: Connection, provider: str, since: datetime, until: datetime
) -> tuple[int, int, int]:
    """Return persons, disclosures and field set that a provider received between two times."""
    row = await connection.fetchrow(SQL["breach_totals"], provider, since, until)
    return row[0], row[1], row[2]


async def breach_scope(
    connection: Connection, provider: str, since: datetime, until: datetime, *, after: str, limit: int
) -> list[tuple[str, str, int, int, datetime, datetime]]:
    """Return (account, token, field set, disclosures, first, last) of persons, in the order of tokens."""
    rows = await connection.fetch(SQL["breach_scope"], provider, since, until, after, limit)
    return [tuple(row) for row in rows]


async def lock_sequencer(connection: Connection) -> bool:
    """Become the one that gives positions, until the transaction ends; False when another process is at it."""
    return bool(await connection.fetchval(SQL["lock_sequencer"]))


async def pending_entries(connection: Connection, limit: int) -> list[Mapping[str, Any]]:
    """Return rows of the access log that have no position yet."""
    return list(await connection.fetch(SQL["pending_entries"], limit))


async def last_checkpoint(connection: Connection) -> tuple[int, bytes]:
    """Return size and right edge (hashes joined) of the newest head; of an empty log when there is none."""
    row = await connection.fetchrow(SQL["last_checkpoint"])
    return (row[0], row[1]) if row else (0, b"")


async def add_leaves(
    connection: Connection,
    positions: range,
    *,
    entry_ids: Sequence[int],
    leaves: Sequence[bytes],
    nodes: bytes,
    event: bytes,
) -> None:
    """Store leaves and the signed head over them."""
    await connection.execute(SQL["add_leaves"], list(positions), entry_ids, leaves, positions.stop, nodes, event)


async def unpublished_checkpoints(pool: Pool) -> list[tuple[int, bytes]]:
    """Return (size, event) of heads that Kafka has not acknowledged."""
    return [(row[0], row[1]) for row in await pool.fetch(SQL["unpublished_checkpoints"])]


async def checkpoints_published(pool: Pool, sizes: Sequence[int]) -> None:
    """Note that Kafka has heads."""
    await pool.execute(SQL["checkpoints_published"], sizes)


async def log_entries(connection: Connection, start: int, limit: int) -> list[Mapping[str, Any]]:
    """Return entries of the log from a position on, with their ledger rows as JSON."""
    return list(await connection.fetch(SQL["log_entries"], start, limit))


async def leaf_hashes(connection: Connection, size: int) -> list[bytes]:
    """Return the hashes of the first leaves."""
    return [row[0] for row in await connection.fetch(SQL["leaf_hashes"], size)]


async def unauthorised_counts(connection: Connection) -> Mapping[str, int]:
    """Return how many records had no authority, by reason."""
    return {row[0]: row[1] for row in await connection.fetch(SQL["unauthorised_counts"])}


def _joined(texts: Sequence[str]) -> str:
    """Return one text of many, which the statement takes apart again: a tenth of the cost of an array parameter."""
    joined = _SEPARATOR.join(texts)
    if texts and joined.count(_SEPARATOR) != len(texts) - 1:
        raise Problem(422, "invalid-field", "a text holds a unit separator (U+001F)")
    return joined


def _field_columns(rows: Sequence[Blobs]) -> list[list[bytes | None]]:
    """Return one column per field."""
    return [_sparse(list(column)) for column in zip(*rows, strict=True)]


def _sparse(column: list[bytes | None]) -> list[bytes | None]:
    """Return a column, empty when nothing is in it: unnest makes it NULL in every row."""
    return column if any(column) else []


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    """Turn rows into the arrays that unnest takes."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]


async def list_unauthorised(connection: Connection, limit: int) -> Sequence[Mapping[str, Any]]:
    """Return the newest records without authority."""
    rows: Sequence[Mapping[str, Any]] = await connection.fetch(SQL["list_unauthorised"], limit)
    return rows
