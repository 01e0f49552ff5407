"""Backups of the services' databases, and putting one of them back while Kafka and the others go on.

A dump knows nothing of what happened after it. So a restored database is marked with the time of its dump, and its
service reads again from Kafka what happened since, before it does anything else (`common.postgres.recovery`).
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg

from common.postgres.recovery import Recovery, mark_restored
from common.times import parse_rfc3339, rfc3339
from waystation.errors import CommandError
from waystation.stack import SERVICES, postgres
from waystation.stack.credentials import SUPERUSER
from waystation.stack.layout import write_atomically

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from pathlib import Path

    from waystation.stack import Stack

MANIFEST = "backup.json"
RECOVERING = ("ingestion", "moderation", "routing", "vault")
"""Services that read again what happened since; enforcement compares itself with Kafka at every start."""
CLOCKS_APART = timedelta(seconds=60)
TOOL_SECONDS_MAX = 3600

_LEFT = {
    "ingestion": "SELECT count(*) FROM outbox",
    "enforcement": "SELECT count(*) FROM outbox",
    "vault": "SELECT count(*) FROM outbox",
    "routing": "SELECT (SELECT count(*) FROM outbox) + (SELECT count(*) FROM attempts WHERE result = 'open')",
}
_WHAT_IS_LEFT = {
    "ingestion": "messages that were answered with 202 and are not in Kafka yet",
    "enforcement": "decisions that are not in Kafka yet",
    "vault": "withdrawals and opt-outs that are not in Kafka yet",
    "routing": "outcomes that are not in Kafka yet, or calls that are open",
}


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back: from when on the database knew nothing, and what it had not told when it was replaced."""

    service: str
    since: datetime
    migrations: list[str]
    untold: int | None


def back_up(stack: Stack, folder: Path, services: Sequence[str]) -> dict[str, str]:
    """Dump databases into a folder, each whole as of one moment; return the moments by service."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    taken = _manifest(folder) if (folder / MANIFEST).exists() else {}
    for service in services:
        moment = _run(_query(stack.dsn(service, SUPERUSER), "SELECT clock_timestamp()"))
        draft = folder / f".{service}.draft"
        _tool(stack, service, "pg_dump", "--format=custom", f"--file={draft}")
        draft.replace(folder / f"{service}.dump")
        taken[service] = rfc3339(moment)
        write_atomically(folder / MANIFEST, json.dumps(taken, indent=2) + "\n")
    return {service: taken[service] for service in services}


def restore(stack: Stack, service: str, folder: Path, *, discard: bool) -> Restored:
    """Replace one service's database by its dump and have the service recover at its next start.

    Raises:
        CommandError: a copy of the service runs, the folder has no dump of it, or (without `discard`) the database that
            is to be replaced holds what exists nowhere else.
    """
    taken_at = _taken_at(folder, service)
    running = [one.name for one in stack.status() if one.name.rpartition("-")[0] == service and one.pid is not None]
    if running:
        raise CommandError(f"{', '.join(running)} runs", f"stop it first: waystation stop {running[0]}")
    untold = _untold(stack, service)
    if untold and not discard and service != "routing":
        raise CommandError(
            f"the present database holds {untold} {_WHAT_IS_LEFT[service]}",
            f"waystation start {service}, stop it a few seconds later and repeat; or give them up with --discard",
        )
    _run(_drop(stack, service))
    stack.start_postgres()
    _tool(stack, service, "pg_restore", "--exit-on-error", "--single-transaction", str(folder / f"{service}.dump"))
    migrations = stack.migrate()[service]
    since = taken_at - CLOCKS_APART
    if service in RECOVERING:
        _run(mark_restored(stack.dsn(service, f"{service}_owner"), Recovery(since, outcomes_known=untold == 0)))
    return Restored(service, since, migrations, untold)


def checked_services(names: Sequence[str]) -> Sequence[str]:
    """Return the services of these names, all when there is none; CommandError for another name."""
    if unknown := [name for name in names if name not in SERVICES]:
        raise CommandError(f"there is no service {unknown[0]!r}", f"choose from: {', '.join(SERVICES)}")
    return names or SERVICES


def _taken_at(folder: Path, service: str) -> datetime:
    if not (folder / f"{service}.dump").exists() or service not in (taken := _manifest(folder)):
        raise CommandError(f"{folder} holds no backup of {service}", "waystation backup DIR makes one")
    return parse_rfc3339(taken[service])


def _manifest(folder: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise CommandError(f"{folder / MANIFEST} cannot be read: {type(error).__name__}") from None
    return found


def _untold(stack: Stack, service: str) -> int | None:
    """How much the present database has not told Kafka; None when it cannot be asked."""
    if service not in _LEFT:
        return 0
    try:
        return int(_run(_query(stack.dsn(service, SUPERUSER), _LEFT[service])))
    except (asyncpg.PostgresError, OSError):
        return None


async def _query(dsn: str, sql: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def _drop(stack: Stack, service: str) -> None:
    connection = await asyncpg.connect(stack.dsn("postgres", SUPERUSER))
    try:
        await connection.execute(f"DROP DATABASE IF EXISTS {service} WITH (FORCE)")
    finally:
        await connection.close()


def _tool(stack: Stack, service: str, name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs on a service's database; the password goes by the environment."""
    address = urlsplit(stack.dsn(service, SUPERUSER))
    done = subprocess.run(  # noqa: S603  PostgreSQL's own program, our own arguments
        [
            str(postgres.programs() / name),
            *(f"--host={address.hostname}", f"--port={address.port}"),
            *(f"--username={SUPERUSER}", f"--dbname={service}", "--no-password"),
            *arguments,
        ],
        env={**os.environ, "PGPASSWORD": address.password or ""},
        capture_output=True,
        text=True,
        timeout=TOOL_SECONDS_MAX,
        check=False,
    )
    if done.returncode != 0:
        raise CommandError(f"{name} of {service} failed: {done.stderr.strip()[:500]}")


def _run(work: Coroutine[None, None, Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
