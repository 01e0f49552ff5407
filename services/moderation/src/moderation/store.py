"""Verdicts, unauthorised records and policies in this service's database; one named query per function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import orjson

from common.postgres.queries import load_queries
from common.security.merkle import leaf_hash
from common.security.signing import Proof, Signed, SignedJson
from common.times import parse_rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import date, datetime

    from common.events.screening import PolicyState
    from common.postgres.pool import Connection, Pool
    from common.security.signing import Statement
    from moderation.policy.reading import Policy

QUERIES = load_queries("moderation")


class KeptVerdict(NamedTuple):
    """A signed verdict as its row has it, with what its event needs to know of it."""

    signed: SignedJson
    instruction_digest: str
    screened_at: str
    action: str


class NewVerdict(NamedTuple):
    """A signed verdict that was just reached, with the account it concerns and where its message stands."""

    account_id: str
    statement: Statement
    signed: SignedJson
    place: tuple[int, int] | None = None

    @property
    def message_id(self) -> str:
        """The message that it judges."""
        return str(self.statement["message_id"])

    @property
    def kept(self) -> KeptVerdict:
        """What its row says, once it is stored."""
        said = self.statement
        return KeptVerdict(self.signed, said["instruction_digest"], said["screened_at"], said["action"])


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
        [None if verdict.place is None else verdict.place[0] for verdict in ordered],
        [None if verdict.place is None else verdict.place[1] for verdict in ordered],
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
    signed = SignedJson(statement, digest, proof)
    return KeptVerdict(signed, said["instruction_digest"], said["screened_at"], said["action"])


@dataclass(frozen=True, slots=True)
class PolicyShelf:
    """Policies and their history in this service's database."""

    pool: Pool

    async def keep_policy(self, policy: Policy, at: datetime) -> None:
        """Keep a policy's text; a verdict is replayed by the policy that it names."""
        await self.pool.execute(QUERIES["keep_policy"], policy.name, policy.text, at)

    async def keep_state(self, state: PolicyState) -> None:
        """Keep one decision about a policy."""
        at = parse_rfc3339(state.changed_at)
        await self.pool.execute(
            QUERIES["keep_policy_state"],
            state.policy,
            state.revision,
            state.status,
            state.reason,
            state.decided_by,
            at,
        )

    async def text(self, policy: str) -> str | None:
        """Return the text of a policy that was in force here once."""
        found: str | None = await self.pool.fetchval(QUERIES["policy_text"], policy)
        return found

    async def states(self, limit: int) -> Sequence[Mapping[str, Any]]:
        """Return the newest decisions about policies."""
        rows: Sequence[Mapping[str, Any]] = await self.pool.fetch(QUERIES["list_policy_states"], limit)
        return rows


async def rule_days(connection: Connection, day: date, rules: Sequence[str]) -> dict[str, int]:
    """Return how many messages rules have stopped on a day, over all copies."""
    return {row["rule"]: row["messages"] for row in await connection.fetch(QUERIES["rule_days"], day, list(rules))}


async def count_rule_days(connection: Connection, day: date, stopped: Mapping[str, int]) -> None:
    """Add to them."""
    await connection.execute(QUERIES["count_rule_days"], day, list(stopped), list(stopped.values()))


@dataclass(frozen=True, slots=True)
class ReplayShelf:
    """Verdicts to be replayed, in this service's database."""

    pool: Pool

    async def some(self, message_ids: Sequence[object]) -> list[ReplayedVerdict]:
        """Return verdicts with where their messages stand, in any order; those that there are."""
        return [ReplayedVerdict.of(row) for row in await self.pool.fetch(QUERIES["verdicts_to_replay"], message_ids)]

    async def begin_night(self, night: date, at: datetime) -> bool:
        """Whether this copy is the one to replay this night."""
        return await self.pool.fetchval(QUERIES["begin_replay_night"], night, at) is not None

    async def end_night(self, night: date, verdicts: int, differing: int) -> None:
        """Note what came of it."""
        await self.pool.execute(QUERIES["end_replay_night"], night, verdicts, differing)


class ReplayedVerdict(NamedTuple):
    """A verdict as it was signed, and the place of its message (partition, offset), if it is known."""

    message_id: str
    signed: Signed
    place: tuple[int, int] | None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """Return what a row says."""
        place = None if row["record_offset"] is None else (row["record_partition"], row["record_offset"])
        signed = Signed(statement=orjson.loads(row["statement"]), proof=Proof(**orjson.loads(row["proof"])))
        return cls(row["message_id"], signed, place)
