"""After this database was put back: what stands against disclosures since then is in force again before anything else.

Bases that were recorded, rectifications and objections were told nowhere; they have to be entered again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from common.contracts.basis import BasisKind
from common.events.vault import WithdrawalRecorded
from common.kafka.replay import replay
from common.times import parse_rfc3339
from vault import store
from vault.domain import FLAG_OF_TOOL, RESTRICTED
from vault.duties.rows import add_notices
from vault.scope import EVERY_ACCOUNT, scoped
from vault.store import ToldBasisEnd, ToldOptOut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from common.kafka.consumer import Received
    from common.kafka.settings import KafkaAccess
    from common.postgres.pool import Pool

_AT_ONCE = 1000


async def withdraw_again(access: KafkaAccess, pool: Pool, since: datetime, *, client_id: str) -> None:
    """Read the withdrawals since a moment and put them in force."""
    told: list[WithdrawalRecorded] = []

    async def keep(batch: Sequence[Received[WithdrawalRecorded]]) -> None:
        told.extend(received.event for received in batch)

    await replay(access, WithdrawalRecorded, since, keep, client_id=client_id)
    await put_in_force(told, pool)


async def put_in_force(told: Sequence[WithdrawalRecorded], pool: Pool) -> None:
    """Put withdrawals in force in the order in which they were recorded, those that the database knows included.

    The relay may have published one a second time, behind others: where it stands in Kafka does not say when it was.
    """
    in_order = sorted(told, key=lambda event: parse_rfc3339(event.recorded_at))
    for start in range(0, len(in_order), _AT_ONCE):
        await _put_in_force(in_order[start : start + _AT_ONCE], pool)


async def _put_in_force(events: Sequence[WithdrawalRecorded], pool: Pool) -> None:
    flags: dict[tuple[str, int], bool] = {}
    opt_outs: dict[tuple[str, str], WithdrawalRecorded] = {}
    for event in events:
        if event.kind == "restriction":
            flags[event.recipient_token, RESTRICTED] = event.in_force
        elif event.kind == "suppression" and event.opt_out_hash is not None:
            opt_outs[event.account_id, event.opt_out_hash] = event
        elif event.kind == "suppression" and event.tool is not None:
            flags[event.recipient_token, FLAG_OF_TOOL[event.tool]] = event.in_force
    kept = [_opt_out(event) for event in opt_outs.values() if event.in_force]
    lifted = [_opt_out(event)[:4] for event in opt_outs.values() if not event.in_force]
    async with scoped(pool, EVERY_ACCOUNT) as connection:
        tokens = sorted({event.recipient_token for event in events} - {""})
        accounts = dict(await store.lock_persons(connection, tokens))
        states = await store.person_states(connection, accounts)
        newly = {
            token: accounts[token]
            for (token, bit), on in flags.items()
            if bit == RESTRICTED and on and token in accounts and not states[token].flags & RESTRICTED
        }
        await add_notices(connection, newly, "restriction")
        await store.flag_persons(connection, [(token, bit * on, bit * (not on)) for (token, bit), on in flags.items()])
        await store.suppress_again(connection, kept)
        await store.lift_suppressions(connection, lifted)
        await store.withdraw_bases_again(connection, [one for event in events for one in _ended(event)])


def _opt_out(event: WithdrawalRecorded) -> ToldOptOut:
    hashed = bytes.fromhex(event.opt_out_hash or "")
    made_at = parse_rfc3339(event.recorded_at)
    return ToldOptOut(event.account_id, hashed, event.tool or "", event.reason or "opt-out", made_at)


def _ended(event: WithdrawalRecorded) -> Iterator[ToldBasisEnd]:
    """Yield the bases that an event ended: all of the purpose where it does not say which, as before this version."""
    if event.kind != "basis" or event.purpose is None:
        return
    moment = parse_rfc3339(event.recorded_at)
    for kind in get_args(BasisKind) if event.basis is None else [event.basis]:
        yield ToldBasisEnd(event.account_id, event.recipient_token, event.purpose, kind, moment)
