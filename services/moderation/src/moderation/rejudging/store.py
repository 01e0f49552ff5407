"""Signals, lists and quarantine in this service's database; one named query per function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID, uuid5

from common.postgres.queries import load_queries
from moderation.rejudging.hashes import of_hex

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from common.postgres.pool import Connection, Pool

QUERIES = load_queries("moderation.rejudging")
SLOTS = 16


class Carried(NamedTuple):
    """What a message carries, see `hashes_of`."""

    message_id: str
    recipient_token: str
    sketches: int
    hashes: tuple[int, ...]


class Carrier(NamedTuple):
    """A message that carries a listed hash."""

    message_id: str
    recipient_token: str
    account_id: str
    instruction_digest: str


class Entry(NamedTuple):
    """Something bad: an address or a file (16 hexadecimal digits), or the sketches of a text (64)."""

    list: str
    kind: str
    entry: str
    clause: str

    @property
    def signal(self) -> str:
        """How revisions name it."""
        return f"{self.kind}:{self.entry}"


class Cause(NamedTuple):
    """The change that lists an entry, and whether a person has said that it may hit as much as it does."""

    change_id: str
    approved: bool


def slot_of(moment: datetime) -> int:
    """Return the day of the ring."""
    return moment.toordinal() % SLOTS


async def insert_signals(connection: Connection, carried: Sequence[Carried], moment: datetime) -> None:
    """Store what a batch carried."""
    await connection.execute(
        QUERIES["insert_signals"],
        slot_of(moment),
        [one.message_id for one in carried],
        [one.recipient_token for one in carried],
        [one.sketches for one in carried],
        [",".join(map(str, one.hashes)) for one in carried],
    )


async def forget_signals(pool: Pool, now: datetime, days: int) -> list[int]:
    """Empty the days that are older; return which."""
    kept = {(now.toordinal() - age) % SLOTS for age in range(days + 1)}
    used = [row["slot"] for row in await pool.fetch(QUERIES["slots_in_use"])]
    emptied = [slot for slot in used if slot not in kept]
    for slot in emptied:
        await pool.execute(QUERIES["forget_slot"], slot)
    return emptied


async def carriers_of(connection: Connection, entry: Entry, limit: int) -> list[Carrier]:
    """Return messages that carry an entry, at most `limit`."""
    numbers = of_hex(entry.entry)
    if entry.kind == "text":
        rows = await connection.fetch(QUERIES["alike"], list(numbers), limit)
    else:
        rows = await connection.fetch(QUERIES["carriers_of"], numbers[0], limit)
    return [Carrier(*row) for row in rows]


async def sketches_of(pool: Pool, message_id: UUID) -> Sequence[int] | None:
    """Return the sketches of a message's text; None when there are none any more."""
    found: Sequence[int] | None = await pool.fetchval(QUERIES["sketches_of"], message_id)
    return found


async def wait_for_turn(connection: Connection) -> None:
    """Wait until no other transaction changes lists or searches."""
    await connection.execute(QUERIES["wait_for_turn"])


async def insert_change(connection: Connection, change_id: str, list_name: str, now: datetime) -> bool:
    """Note a change of a list; False when it was taken before."""
    return await connection.fetchval(QUERIES["insert_change"], change_id, list_name, now) is not None


async def insert_listed(
    connection: Connection, entries: Sequence[Entry], cause: Cause, now: datetime, search_again_at: datetime
) -> None:
    """List entries of one kind, list and clause."""
    if entries:
        one = entries[0]
        told = [entry.entry for entry in entries]
        named = (one.kind, one.list, one.clause, now, told)
        await connection.execute(QUERIES["insert_listed"], *named, *cause, search_again_at)


async def next_to_search(connection: Connection, now: datetime) -> tuple[Entry, Cause] | None:
    """Return an entry that is due to be searched for once more."""
    row = await connection.fetchrow(QUERIES["next_to_search"], now)
    if row is None:
        return None
    return Entry(row["list"], row["kind"], row["entry"], row["clause"]), Cause(row["change_id"], row["approved"])


async def note_searched(connection: Connection, entry: Entry) -> None:
    """Note that an entry was searched for once more."""
    await connection.execute(QUERIES["note_searched"], entry.kind, entry.entry, entry.list)


async def remove_listed(connection: Connection, kind: str, entries: Sequence[str], list_name: str) -> None:
    """Take entries off a list."""
    if entries:
        await connection.execute(QUERIES["remove_listed"], kind, list(entries), list_name)


async def version_of_lists(pool: Pool) -> int:
    """Return the number of the newest change."""
    return int(await pool.fetchval(QUERIES["version_of_lists"]))


async def read_listed(pool: Pool) -> list[tuple[str, str]]:
    """Return kind and entry of all that is looked up on the road."""
    return [(row["kind"], row["entry"]) for row in await pool.fetch(QUERIES["read_listed"])]


async def last_revisions(connection: Connection, message_ids: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Return number and action of the newest word on each message that has one."""
    rows = await connection.fetch(QUERIES["last_revisions"], list(message_ids))
    return {row["message_id"]: (row["revision"], row["action"]) for row in rows}


class Flood(NamedTuple):
    """What an entry of a change would have hit."""

    change_id: str
    messages: int
    accounts: int


async def insert_quarantine(connection: Connection, entry: Entry, flood: Flood, now: datetime) -> None:
    """Put an entry aside for a person."""
    quarantine_id = uuid5(UUID(flood.change_id), entry.signal)
    told = (*entry, flood.messages, flood.accounts, now)
    await connection.execute(QUERIES["insert_quarantine"], quarantine_id, flood.change_id, *told)


async def quarantined(pool: Pool, limit: int) -> list[Mapping[str, Any]]:
    """Return what waits for a person, oldest first."""
    return list(await pool.fetch(QUERIES["quarantined"], limit))


async def settle_quarantine(
    connection: Connection, quarantine_id: UUID, state: str, now: datetime, who: str
) -> Entry | None:
    """Write a person's word on an entry; None when nothing of this id waits."""
    row = await connection.fetchrow(QUERIES["settle_quarantine"], quarantine_id, state, now, who)
    return None if row is None else Entry(*row)
