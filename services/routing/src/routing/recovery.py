"""What a killed process left: its open attempts, told apart by its journal before this process leases anything.

An attempt whose final dot was not written was no call; one with an answer has that outcome; only what stood between the
dot and the answer is in doubt. Outcomes are written by attempt (rule outcomeByAttempt), so they also hold where a claim
of another copy has put the attempt in doubt meanwhile.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from routing import store
from routing.domain import AttemptResult, Outcome
from routing.settlement import Called, write_outcomes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from routing.journal import LeftOver
    from routing.settlement import Settlement

SETTLED_AT_ONCE_MAX = 128
NO_CALL = Outcome(AttemptResult.UNREACHED, "the worker was killed before the final dot")
NO_ANSWER = Outcome(AttemptResult.DOUBT, "the worker was killed between the final dot and its answer")

log = logging.getLogger(__name__)


async def settle_left_over(settlement: Settlement, left_over: Sequence[LeftOver]) -> Counter[str]:
    """Settle what an earlier process did not; return how many attempts had which result, `none` without an open one."""
    counts: Counter[str] = Counter()
    waiting = list(left_over)
    while waiting:
        batch: dict[str, LeftOver] = {}
        for one in waiting:
            if len(batch) < SETTLED_AT_ONCE_MAX:
                batch.setdefault(one.message_id, one)
        counts += await _settle_batch(settlement, sorted(batch.values(), key=lambda one: one.message_id))
        waiting = [one for one in waiting if batch.get(one.message_id) is not one]
    return counts


async def _settle_batch(settlement: Settlement, batch: Sequence[LeftOver]) -> Counter[str]:
    held = [(one.message_id, one.epoch) for one in batch]
    async with settlement.pool.acquire() as connection, connection.transaction():
        await store.lock_deliveries(connection, [one.message_id for one in batch])
        attempts = await store.open_attempts_of(connection, held)
        called = [call for one in batch if (call := _call(one, attempts.get(one.message_id))) is not None]
        stored = await write_outcomes(connection, called, settlement) if called else []
        never_begun = [lease for lease in held if lease[0] not in attempts]
        await store.release_leases(connection, never_begun)
    settlement.relay.committed(stored)
    return Counter([str(call.outcome.result) for call in called] + ["none"] * len(never_begun))


def _call(one: LeftOver, attempt: tuple[int, AttemptResult] | None) -> Called | None:
    """What became of an attempt; None where it is settled, or in doubt already and the journal knows no more."""
    if attempt is None:
        return None
    number, present = attempt
    if one.known is not None:
        _, outcome, reply = one.known
    else:
        outcome, reply = (NO_ANSWER if one.beyond else NO_CALL), None
    if outcome.result is present:
        return None
    return Called(one.message_id, number, outcome, reply, at_once=outcome is NO_CALL)
