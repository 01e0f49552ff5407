"""What one process traces and measures: built once by its `app.py`, told about its parts, stopped last."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from common.telemetry import metrics
from common.telemetry.measuring import Measures, Point, cpu_points, memory_points
from common.telemetry.tracing import Tracer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from common.kafka.consumer import Subscription
    from common.kafka.table import TableReader
    from common.outbox import OutboxRelay
    from common.postgres.pool import Pool
    from common.telemetry.settings import TelemetrySettings

_UNAUTHORISED = "SELECT count(*) FROM (SELECT FROM unauthorised LIMIT 100000) AS counted"


class Telemetry:
    """Tracer and measures of a process; sends them to a collector when the settings name one."""

    def __init__(self, service: str, instance: str, settings: TelemetrySettings) -> None:
        self.service = service
        self.instance = instance
        self.measures = Measures()
        self.measures.observe(metrics.CPU_TIME, cpu_points)
        self.measures.observe(metrics.MEMORY, memory_points)
        self.tracer = Tracer()
        self._push = None
        if settings.exports:
            from common.telemetry.export import Push  # noqa: PLC0415  who exports nothing need not load it

            endpoint, interval_seconds = settings.exporter_otlp_endpoint, settings.metric_export_interval / 1000
            self._push = Push(service, instance, endpoint, self.measures, interval_seconds)
            self.tracer = Tracer(self._push.tracer, ratio=settings.ratio, asks_caller=settings.asks_caller)

    def start(self) -> None:
        """Begin to push, in the running event loop."""
        if self._push is not None:
            self._push.start()

    async def stop(self) -> None:
        """Send what is left, for at most two seconds."""
        if self._push is not None:
            await self._push.stop()

    def watch_pool(self, pool: Pool) -> None:
        """Measure the connections to the database."""

        def connections() -> Iterable[Point]:
            idle = pool.get_idle_size()
            return [Point(("idle",), idle), Point(("used",), pool.get_size() - idle)]

        self.measures.observe(metrics.DB_CONNECTIONS, connections)

    def watch_unauthorised(self, pool: Pool) -> None:
        """Measure how many records without a genuine signature the database has noted."""

        async def count() -> float:
            return float(await pool.fetchval(_UNAUTHORISED))

        self.watch_number(metrics.UNAUTHORISED, count)

    def watch_outbox(self, relay: OutboxRelay) -> None:
        """Measure what waits to be published."""
        self.measures.observe(metrics.OUTBOX_RECORDS, lambda: [Point((), relay.pending)])
        self.watch_number(metrics.STAGE_AGE, relay.oldest_seconds, "outbox")

    def watch_group(self, stage: str, subscription: Subscription[Any]) -> None:
        """Measure lag and age of a group, what it handled, what it dead-lettered and what was gone before it."""
        health, read = subscription.health, self.measures.observe
        place = ("kafka", health.topic, health.group)
        read(metrics.CONSUMED_MESSAGES, lambda: [Point(place, health.handled)])
        read(metrics.DEAD_LETTERS, lambda: [Point((health.group,), health.dead_lettered)])
        read(metrics.DELETED_UNREAD, lambda: [Point((health.group,), health.deleted_unread)])

        async def lag() -> Iterable[Point]:
            return [Point((health.topic, health.group), await subscription.lag())]

        async def age() -> Iterable[Point]:
            return [Point((stage,), health.oldest_seconds())]

        self.measures.sample(metrics.CONSUMER_LAG, lag)
        self.measures.sample(metrics.STAGE_AGE, age)

    def watch_table(self, reader: TableReader[Any]) -> None:
        """Measure how old the knowledge of the standings is."""

        def age() -> Iterable[Point]:
            return [Point((), reader.stale_seconds)] if math.isfinite(reader.stale_seconds) else []

        self.measures.observe(metrics.STANDINGS_AGE, age)

    def watch_number(self, metric: metrics.Metric, read: Callable[[], Awaitable[float]], *values: str) -> None:
        """Measure one number that has to be waited for."""

        async def points() -> Iterable[Point]:
            return [Point(values, await read())]

        self.measures.sample(metric, points)
