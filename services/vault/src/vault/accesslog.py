"""The access log's tree: entries get their position, leaves are hashed, heads signed, stored and told on Kafka.

A head names the hashes of the leaves that are new in it, so that the topic alone tells which entry a superuser of the
database changed later. Between a call's commit and the head that covers it lies a second.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from common.events.envelope import encode
from common.events.vault import CheckpointSigned
from common.security.tlog import Frontier, consistency_proof, inclusion_proof, log_leaf
from common.times import now, rfc3339
from vault import store
from vault.scope import EVERY_ACCOUNT, scoped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.postgres.pool import Pool
    from common.security.signing import Signer
    from vault.erasing import RecordPublisher

LOG_ID = "vault.access"
ENTRIES_AT_ONCE = 2000
_NODE_BYTES = 32
_COLUMNS = (
    "id",
    "at",
    "caller",
    "operation",
    "purpose",
    "case_id",
    "user_id",
    "provider",
    "outcome",
    "items",
    "answered",
    "touched",
    "digest",
)


def entry_document(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry as it is hashed: the row's columns, times in UTC with microseconds, digests hexadecimal."""
    document = {name: row[name] for name in _COLUMNS}
    at = document["at"]
    assert isinstance(at, datetime)
    document["at"] = at.astimezone(UTC).isoformat(timespec="microseconds")
    if document["digest"] is not None:
        document["digest"] = document["digest"].hex()
    return document


def entry_leaf(row: Mapping[str, Any]) -> bytes:
    """Return the leaf hash of a row of the access log."""
    return log_leaf(row["salt"], orjson.dumps(entry_document(row), option=orjson.OPT_SORT_KEYS))


class Sequencer:
    """Brings what was logged into the tree; of several processes one at a time."""

    def __init__(self, pool: Pool, signer: Signer, publisher: RecordPublisher) -> None:
        self._pool = pool
        self._signer = signer
        self._publisher = publisher

    async def step(self) -> None:
        """Take in what waits, sign one head a batch, and publish the heads that Kafka does not have."""
        while await self._take_in() == ENTRIES_AT_ONCE:
            pass
        await self._publish()

    async def _take_in(self) -> int:
        async with scoped(self._pool, ()) as connection:
            if not await store.lock_sequencer(connection):
                return 0
            rows = await store.pending_entries(connection, ENTRIES_AT_ONCE)
            if not rows:
                return 0
            size, nodes = await store.last_checkpoint(connection)
            frontier = Frontier(size, _nodes(nodes))
            leaves = [entry_leaf(row) for row in rows]
            for leaf in leaves:
                frontier.append(leaf)
            event = self._signed(frontier, leaves)
            entry_ids = [row["id"] for row in rows]
            positions = range(size, frontier.size)
            nodes = b"".join(frontier.nodes)
            await store.add_leaves(connection, positions, entry_ids=entry_ids, leaves=leaves, nodes=nodes, event=event)
        return len(rows)

    def _signed(self, frontier: Frontier, leaves: list[bytes]) -> bytes:
        statement = {
            "kind": "checkpoint",
            "log": LOG_ID,
            "size": frontier.size,
            "root": frontier.root().hex(),
            "leaves": base64.urlsafe_b64encode(b"".join(leaves)).decode(),
            "at": rfc3339(now()),
        }
        (signed,) = self._signer.sign([statement])
        return CheckpointSigned(checkpoint=signed).model_dump_json().encode()

    async def _publish(self) -> None:
        waiting = await store.unpublished_checkpoints(self._pool)
        if waiting:
            events = [CheckpointSigned.model_validate_json(event) for _, event in waiting]
            await self._publisher.publish([encode(event) for event in events])
            await store.checkpoints_published(self._pool, [size for size, _ in waiting])


def _nodes(joined: bytes) -> list[bytes]:
    return [joined[start : start + _NODE_BYTES] for start in range(0, len(joined), _NODE_BYTES)]


async def prove_inclusion(pool: Pool, position: int, size: int) -> dict[str, Any]:
    """Return the path from an entry to the root of the tree of a size; ValueError when there is none."""
    leaves = await _leaves(pool, size)
    path = inclusion_proof(leaves, position)
    return {
        "position": position,
        "size": size,
        "leaf": leaves[position].hex(),
        "root": Frontier.of(leaves).root().hex(),
        "path": [node.hex() for node in path],
    }


async def prove_consistency(pool: Pool, old_size: int, size: int) -> dict[str, Any]:
    """Return the proof that the tree of an older size is a beginning of a newer one; ValueError when there is none."""
    leaves = await _leaves(pool, size)
    proof = consistency_proof(leaves, old_size)
    return {
        "old_size": old_size,
        "old_root": Frontier.of(leaves[:old_size]).root().hex(),
        "size": size,
        "root": Frontier.of(leaves).root().hex(),
        "proof": [node.hex() for node in proof],
    }


async def _leaves(pool: Pool, size: int) -> list[bytes]:
    async with scoped(pool, ()) as connection:
        leaves = await store.leaf_hashes(connection, size)
    if len(leaves) != size:
        raise ValueError(f"the log has {len(leaves)} entries")
    return leaves


async def log_entries(pool: Pool, start: int, limit: int) -> list[dict[str, Any]]:
    """Return entries from a position on, as the stand-alone verifier reads them."""
    async with scoped(pool, EVERY_ACCOUNT) as connection:
        rows = await store.log_entries(connection, start, limit)
    return [
        {
            "position": row["position"],
            "salt": row["salt"].hex(),
            "entry": entry_document(row),
            "ledger": None if row["ledger"] is None else orjson.loads(row["ledger"]),
        }
        for row in rows
    ]
