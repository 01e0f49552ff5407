"""The register of processors, and accounts that object to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vault.domain import Processor, field_names, field_set
from vault.store.columns import SQL, columns_of, joined

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from common.postgres.pool import Connection, Pool


async def processor(connection: Connection, name: str) -> Processor | None:
    """Return a processor's contract."""
    row = await connection.fetchrow(SQL["processor"], name)
    return row and _processor(row)


async def processors(connection: Connection | Pool) -> list[Processor]:
    """Return the whole register."""
    return [_processor(row) for row in await connection.fetch(SQL["processors"])]


def _processor(row: Sequence[Any]) -> Processor:
    name, tool, fields, approved, country, purpose, approved_from, sub_processors, transfer, reasons = row
    return Processor(
        name,
        tool,
        frozenset(field_names(fields)),
        approved,
        country,
        purpose,
        approved_from,
        tuple(sub_processors),
        transfer,
        reasons,
    )


async def replace_processors(connection: Connection | Pool, register: Sequence[Processor]) -> None:
    """Make the register what the file says."""
    rows = [
        (
            one.name,
            one.tool,
            field_set(one.fields),
            one.approved,
            one.country,
            one.purpose,
            one.approved_from,
            joined(one.sub_processors),
            one.transfer,
            one.reasons,
            one.announced_on,
        )
        for one in register
    ]
    await connection.execute(SQL["replace_processors"], *columns_of(rows, 11))


async def objecting_accounts(connection: Connection, processor: str, account_ids: Iterable[str]) -> set[str]:
    """Return which accounts object to a processor."""
    return {row[0] for row in await connection.fetch(SQL["objecting_accounts"], processor, list(account_ids))}


async def object_to_processor(connection: Connection, account_id: str, processor: str, reason: str | None) -> None:
    """Keep an account's objection; lift it when there is no reason."""
    if reason is None:
        await connection.execute(SQL["lift_objection"], account_id, processor)
    else:
        await connection.execute(SQL["object_to_processor"], account_id, processor, reason)
