"""Does a message become dearer as the tables grow? Rows of messages long gone are put beside the present ones.

The rows are copies of a real message's under new ids, in ingestion, moderation and routing; old contents are cut to 600
bytes, so that a million fit into a bench. They fill their pages as rows do that have changed for the last time: what is
new finds no room beside them. The vault's growth is measured by its own bench.

At each size the tables are vacuumed, a checkpoint is made, and one round goes by unmeasured: the first change of a page
after a checkpoint writes the page whole into the log, which a server pays every fifteen minutes and not for each mail.
Then rounds are measured for a minute, in which autovacuum comes once to each database: in ten seconds it comes to one
or to none, which alone moves PostgreSQL's cost by a third.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import asyncpg
from report import Measure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from waystation.stack.stack import Stack

CHUNK = 50_000
AUTOVACUUM_SECONDS = 60.0
PROCESSES = ("ingestion", "moderation", "routing", "vault", "postgres", "kafka")
PARTS = ("postgres, connections", "postgres, upkeep")
# Columns that a copy has of its own; all others are those of the newest row.
COPIES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "ingestion": {
        "messages": {"id": "fresh.id", "idempotency_key": "sha256(fresh.id::text::bytea)"},
        "message_steps": {"message_id": "fresh.id"},
    },
    "moderation": {"verdicts": {"message_id": "fresh.id"}},
    "routing": {
        "deliveries": {"message_id": "fresh.id"},
        "attempts": {"message_id": "fresh.id"},
        "contents": {"message_id": "fresh.id", "event": "substr(model.event, 1, 600)"},
    },
}

_FILLFACTOR = """
SELECT coalesce(max(option_value), '100') FROM pg_class, pg_options_to_table(reloptions)
WHERE oid = $1::regclass AND option_name = 'fillfactor'
"""


def measure_growth(
    stack: Stack, sizes: Sequence[int], after_a_round: Callable[[], int], spent: Callable[[float], Mapping[str, float]]
) -> list[Measure]:
    """Return what a thousand messages cost each process at each size, and by how much the largest is dearer.

    `spent` sends rounds of messages for that many seconds, at least one. `after_a_round` tells how many messages the
    road will have carried after one more round: fewer rows than that there cannot be, whatever the size asked for.
    """
    measures: list[Measure] = []
    costs: dict[int, Mapping[str, float]] = {}
    filled = 0
    for size in sorted(sizes):
        missing = max(0, size - filled - after_a_round())
        asyncio.run(_fill(stack, missing))
        filled += missing
        rows = filled + after_a_round()
        time.sleep(2.0)
        spent(0.0)
        costs[rows] = cost = spent(AUTOVACUUM_SECONDS)
        measures += [
            Measure(f"cpu {name} at {rows:,} rows", cost[name], "ms per 1,000 messages") for name in PROCESSES + PARTS
        ]
    if len(costs) > 1:
        least, most = min(costs), max(costs)
        for name in PROCESSES:
            grown = (costs[most][name] / costs[least][name] - 1) * 100
            measures.append(Measure(f"growth {name}", grown, "%", 10, "<=", f"{least:,} to {most:,} rows"))
    return measures


async def _fill(stack: Stack, rows: int) -> None:
    ids = await _new_ids(stack, rows)
    for database, tables in COPIES.items():
        connection = await asyncpg.connect(stack.dsn(database, "postgres"))
        try:
            for table, own in tables.items():
                query = await _copying(connection, table, own)
                room = await connection.fetchval(_FILLFACTOR, table)
                await connection.execute(f"ALTER TABLE {table} SET (fillfactor = 100)")
                for start in range(0, len(ids), CHUNK):
                    await connection.execute(query, ids[start : start + CHUNK], timeout=600)
                await connection.execute(f"ALTER TABLE {table} SET (fillfactor = {room})")
                await connection.execute(f"VACUUM (ANALYZE) {table}", timeout=600)
            await connection.execute("CHECKPOINT")
        finally:
            await connection.close()


async def _new_ids(stack: Stack, rows: int) -> list[str]:
    connection = await asyncpg.connect(stack.dsn("ingestion", "postgres"))
    try:
        found = await connection.fetch("SELECT uuidv7()::text AS id FROM generate_series(1, $1::int)", rows)
    finally:
        await connection.close()
    return [row["id"] for row in found]


async def _copying(connection: asyncpg.Connection[asyncpg.Record], table: str, own: Mapping[str, str]) -> str:
    """Return the statement that copies a table's first row under other ids."""
    columns = await connection.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped", table
    )
    names = [row["attname"] for row in columns]
    values = ", ".join(own.get(name, f"model.{name}") for name in names)
    return (
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {values} "  # noqa: S608  names from our own catalogue
        f"FROM unnest($1::uuid[]) AS fresh (id), (SELECT * FROM {table} LIMIT 1) AS model"
    )
