"""What the demo of the vault rests on: a copy of PostgreSQL that was taken while it worked, and that opens."""

from __future__ import annotations

import asyncio
import os
import shutil

import asyncpg
import pytest

from waystation.demo.erasure import base_backup
from waystation.stack import Stack
from waystation.stack.credentials import SUPERUSER

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(120),
    pytest.mark.skipif(os.environ.get("WAYSTATION_STACK") == "docker", reason="copies PostgreSQL's own folder"),
]


async def test_a_base_backup_of_a_working_database_starts_with_all_that_was_committed(stack, tmp_path):
    thief = Stack.open(tmp_path / "thief")
    owner = await asyncpg.connect(stack.dsn("postgres", SUPERUSER))
    try:
        await owner.execute("CREATE TABLE kept AS SELECT * FROM generate_series(1, 5000) AS n")
        await asyncio.to_thread(base_backup, stack, thief)
        await owner.execute("DELETE FROM kept")
        shutil.copytree(stack.layout.secrets, thief.layout.secrets)
        await asyncio.to_thread(thief.up_postgres)
        copy = await asyncpg.connect(thief.dsn("postgres", SUPERUSER))
        try:
            assert await copy.fetchval("SELECT sum(n) FROM kept") == 5000 * 5001 // 2
        finally:
            await copy.close()
    finally:
        await owner.execute("DROP TABLE kept")
        await owner.close()
        thief.down(wipe=True)
