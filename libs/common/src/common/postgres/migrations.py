"""Migrations: numbered SQL files, applied in order, each in a transaction of its own, never edited afterwards."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LOCK_KEY = 0x57415953  # "WAYS": two processes that migrate the same database take turns

LEDGER = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name text PRIMARY KEY,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
DO $$
DECLARE grantee_name text;
BEGIN
    FOR grantee_name IN
        SELECT DISTINCT grantee FROM information_schema.role_table_grants
        WHERE table_schema = 'public' AND table_name = 'schema_migrations' AND grantee <> current_user
    LOOP
        EXECUTE format('REVOKE ALL ON schema_migrations FROM %I', grantee_name);
    END LOOP;
END $$;
"""


class MigrationError(Exception):
    """A migration cannot be applied; the text names the file and what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its name decides the order, its SHA-256 shows a later edit."""

    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Hex digest of the file's text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def read_migrations(folder: Path) -> list[Migration]:
    """The folder's `*.sql` files in order; none when there is no such folder."""
    return [Migration(path.name, path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.sql"))]


def pending_migrations(files: Sequence[Migration], applied: Mapping[str, str]) -> list[Migration]:
    """What is still to do, given the applied names with their digests.

    Raises:
        MigrationError: an applied file was changed or removed.
    """
    digests = {migration.name: migration.sha256 for migration in files}
    for name, digest in sorted(applied.items()):
        if name not in digests:
            raise MigrationError(f"{name} was applied but its file is gone; bring it back, the database depends on it")
        if digests[name] != digest:
            raise MigrationError(
                f"{name} was changed after it had been applied; undo the edit and write a new file instead"
                " (on a local stack without data worth keeping: waystation down --wipe)"
            )
    return [migration for migration in files if migration.name not in applied]


async def migrate(dsn: str, folder: Path) -> list[str]:
    """Bring one database to the newest migration; connect as the owner of its tables.

    Args:
        dsn: the owner role's connection string.
        folder: where the numbered `*.sql` files are.

    Returns:
        The names applied now, in order; empty when there was nothing to do.

    Raises:
        MigrationError: a file was changed or removed, or its SQL failed (then nothing of that file stays).
    """
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        await connection.execute(LEDGER)
        rows = await connection.fetch("SELECT name, sha256 FROM schema_migrations")
        pending = pending_migrations(read_migrations(folder), {row["name"]: row["sha256"] for row in rows})
        for migration in pending:
            await _apply(connection, migration)
        return [migration.name for migration in pending]
    finally:
        await connection.close()


async def _apply(connection: asyncpg.Connection[asyncpg.Record], migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(
                "INSERT INTO schema_migrations (name, sha256) VALUES ($1, $2)", migration.name, migration.sha256
            )
    except asyncpg.PostgresError as error:
        place = _line(migration.sql, getattr(error, "position", None))
        raise MigrationError(f"{migration.name}{place} failed and was rolled back: {error}") from error


def _line(sql: str, position: str | None) -> str:
    """PostgreSQL counts characters from 1; an editor counts lines."""
    return f":{sql[: int(position)].count(chr(10)) + 1}" if position else ""
