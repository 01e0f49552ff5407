"""Which server a service's pool connects to."""

from __future__ import annotations

import asyncio
import os

import asyncpg
import pytest

from common.postgres.pool import connect_pool
from waystation.stack import HOST, Stack, postgres
from waystation.stack.credentials import SUPERUSER
from waystation.stack.processes import wait_until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        os.environ.get("WAYSTATION_STACK") == "docker", reason="makes a standby of PostgreSQL's own folder"
    ),
]
READY_SECONDS = 20.0


@pytest.fixture
async def standby(tmp_path, stack):
    """The address of a server in recovery that takes the superuser's password of the stack."""
    other = Stack.open(tmp_path / "standby")
    try:
        other.up_postgres()
        await execute(other.dsn("postgres", SUPERUSER), f"ALTER ROLE {SUPERUSER} PASSWORD '{password(stack)}'")
        other.stop_postgres()
        (postgres.data_folder(other.layout) / "standby.signal").touch()
        other._infrastructure.start("postgres")
        address = f"{HOST}:{other.port('postgres')}"
        server = dsn(stack, address)
        assert await asyncio.to_thread(wait_until, lambda: asyncio.run(postgres.is_ready(server)), READY_SECONDS)
        yield address
    finally:
        other.down(wipe=True)


async def execute(server, statement):
    connection = await asyncpg.connect(server)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def password(stack):
    return stack.passwords().postgres[SUPERUSER]


def dsn(stack, servers):
    return postgres.dsn(servers, "postgres", SUPERUSER, password(stack))


async def test_of_several_servers_the_primary_is_taken(stack, standby):
    primary = f"{HOST}:{stack.port('postgres')}"
    for servers in (f"{standby},{primary}", f"{primary},{standby}", f"{HOST}:1,{standby},{primary}"):
        pool = await connect_pool(dsn(stack, servers), wait_seconds=0)
        assert not await pool.fetchval("SELECT pg_is_in_recovery()")
        await pool.close()


async def test_a_standby_is_waited_for_until_it_is_promoted(stack, standby):
    with pytest.raises(asyncpg.TargetServerAttributeNotMatched):
        await connect_pool(dsn(stack, standby), wait_seconds=0)
    waiting = asyncio.create_task(connect_pool(dsn(stack, standby), wait_seconds=READY_SECONDS))
    await execute(dsn(stack, standby), "SELECT pg_promote()")
    pool = await waiting
    assert not await pool.fetchval("SELECT pg_is_in_recovery()")
    await pool.close()
