"""Deliveries that are ended, held or put back without a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from routing import store
from routing.domain import stop

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from common.postgres.pool import Connection
    from routing.domain import Change, Delivery, DeliveryState


class Stop(NamedTuple):
    """Where a locked delivery goes, why, and when it is due there."""

    delivery: Delivery
    state: DeliveryState
    reason: str
    due_at: datetime


async def stopped(connection: Connection, stops: Sequence[Stop]) -> list[Change]:
    """Return the changes, each by what the delivery's attempts are known to have come to."""
    results = await store.attempt_results(connection, [one.delivery.message_id for one in stops])
    return [
        stop(one.delivery, list(results.get(one.delivery.message_id, {}).values()), one.state, one.reason, one.due_at)
        for one in stops
    ]
