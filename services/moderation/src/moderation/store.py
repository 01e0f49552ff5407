"""Verdicts and unauthorised records in this service's database; one named query per function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from common.postgres.queries import load_queries
from common.security.signing import Proof, Signed, canonical

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from common.postgres.pool import Connection, Pool

QUERIES = load_queries("moderation")


@dataclass(frozen=True, slots=True)
class NewVerdict:
    """A signed verdict that was just reached, with the account it concerns."""

    account_id: str
    signed: Signed


@dataclass(frozen=True, slots=True)
class Unauthorised:
    """Where a record stands that no genuine instruction is behind, and why; `event_id` is what it claims to be."""

    topic: str
    partition: int
    offset: int
    event_id: str
    account_id: str | None
    reason: str


async def find_verdicts(connection: Connection, message_ids: Iterable[str]) -> dict[str, Signed]:
    """Return the stored verdicts of these messages, bit for bit as they were signed."""
    rows = await connection.fetch(QUERIES["find_verdicts"], list(message_ids))
    return {row["message_id"]: _signed(row) for row in rows}


async def insert_verdicts(
    connection: Connection, verdicts: Sequence[NewVerdict], policy: str, screened_at: datetime
) -> set[str]:
    """Store verdicts; return the ids of those that were not there already (rule insertOnce)."""
    ordered = sorted(verdicts, key=lambda verdict: str(verdict.signed.statement["message_id"]))
    statements = [verdict.signed.statement for verdict in ordered]
    rows = await connection.fetch(
        QUERIES["insert_verdicts"],
        [statement["message_id"] for statement in statements],
        [verdict.account_id for verdict in ordered],
        [statement["action"] for statement in statements],
        [",".join(statement["clauses"]) for statement in statements],
        [",".join(statement["degraded"]) for statement in statements],
        [canonical(statement).decode() for statement in statements],
        [orjson.dumps(verdict.signed.proof.__dict__).decode() for verdict in ordered],
        policy,
        screened_at,
    )
    return {row["message_id"] for row in rows}


async def insert_unauthorised(connection: Connection, records: Sequence[Unauthorised], seen_at: datetime) -> None:
    """Count records as unauthorised, each once however often it is read."""
    await connection.execute(
        QUERIES["insert_unauthorised"],
        [record.topic for record in records],
        [record.partition for record in records],
        [record.offset for record in records],
        [record.event_id for record in records],
        [record.account_id for record in records],
        [record.reason for record in records],
        seen_at,
    )


async def verdict_by_id(pool: Pool, message_id: object) -> Mapping[str, Any] | None:
    """Return one verdict's row, or None."""
    row: Mapping[str, Any] | None = await pool.fetchrow(QUERIES["verdict_by_id"], message_id)
    return row


async def list_unauthorised(pool: Pool, limit: int) -> Sequence[Mapping[str, Any]]:
    """Return the newest unauthorised records."""
    rows: Sequence[Mapping[str, Any]] = await pool.fetch(QUERIES["list_unauthorised"], limit)
    return rows


async def count_unauthorised(pool: Pool) -> dict[str, int]:
    """Return how many unauthorised records there are, by reason."""
    return {row["reason"]: row["records"] for row in await pool.fetch(QUERIES["count_unauthorised"])}


def _signed(row: Mapping[str, Any]) -> Signed:
    return Signed.model_construct(
        statement=orjson.loads(row["statement"]), proof=Proof.model_construct(**orjson.loads(row["proof"]))
    )
