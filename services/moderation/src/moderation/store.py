"""Verdicts and unauthorised records in this service's database; one named query per function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from common.postgres.queries import load_queries
from common.security.merkle import leaf_hash
from common.security.signing import SignedJson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from common.postgres.pool import Connection, Pool
    from common.security.signing import Statement

QUERIES = load_queries("moderation")


class KeptVerdict(NamedTuple):
    """A signed verdict as its row has it, with what its event needs to know of it."""

    signed: SignedJson
    instruction_digest: str
    screened_at: str


class NewVerdict(NamedTuple):
    """A signed verdict that was just reached, with the account it concerns."""

    account_id: str
    statement: Statement
    signed: SignedJson

    @property
    def message_id(self) -> str:
        """The message that it judges."""
        return str(self.statement["message_id"])

    @property
    def kept(self) -> KeptVerdict:
        """What its row says, once it is stored."""
        return KeptVerdict(self.signed, self.statement["instruction_digest"], self.statement["screened_at"])


@dataclass(frozen=True, slots=True)
class Unauthorised:
    """Where a record stands that no genuine instruction is behind, and why; `event_id` is what it claims to be."""

    topic: str
    partition: int
    offset: int
    event_id: str
    account_id: str | None
    reason: str


async def find_verdicts(connection: Connection, message_ids: Iterable[str]) -> dict[str, KeptVerdict]:
    """Return the stored verdicts of these messages, byte for byte as they were signed."""
    rows = await connection.fetch(QUERIES["find_verdicts"], list(message_ids))
    return {row["message_id"]: _kept(row["statement"].encode(), row["proof"].encode()) for row in rows}


async def insert_verdicts(connection: Connection, verdicts: Sequence[NewVerdict], screened_at: datetime) -> set[str]:
    """Store verdicts of one policy; return the ids of those that were not there already (rule insertOnce)."""
    ordered = sorted(verdicts, key=lambda verdict: verdict.message_id)
    statements = [verdict.statement for verdict in ordered]
    rows = await connection.fetch(
        QUERIES["insert_verdicts"],
        [statement["message_id"] for statement in statements],
        [verdict.account_id for verdict in ordered],
        [statement["action"] for statement in statements],
        [",".join(statement["clauses"]) for statement in statements],
        [",".join(statement["degraded"]) for statement in statements],
        [verdict.signed.statement.decode() for verdict in ordered],
        [verdict.signed.proof.decode() for verdict in ordered],
        [statement["policy"] for statement in statements],
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


def _kept(statement: bytes, proof: bytes) -> KeptVerdict:
    said = orjson.loads(statement)
    digest = leaf_hash(statement).hex()
    return KeptVerdict(SignedJson(statement, digest, proof), said["instruction_digest"], said["screened_at"])
