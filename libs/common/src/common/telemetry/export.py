"""Pushing to a collector over OTLP: spans as they end, metrics every so many seconds, both from daemon threads.

The road never waits for the collector: spans go into a bounded queue that drops what is too much, and ending a process
waits at most two seconds for what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import export as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from common.telemetry.metrics import SPANS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Tracer as SdkTracer

    from common.telemetry.measuring import Counts, Measures, Point
    from common.telemetry.metrics import Metric

STOP_SECONDS = 2.0
QUEUE_SPANS_MAX = 8_192
BATCH_SPANS_MAX = 512
SCOPE = InstrumentationScope("waystation")
_CUMULATIVE = sdk.AggregationTemporality.CUMULATIVE


class Push:
    """Sends what one process traces and measures to a collector, until it is stopped."""

    def __init__(self, service: str, instance: str, endpoint: str, measures: Measures, interval_seconds: float) -> None:
        names = {"service.namespace": "waystation", "service.name": service, "service.instance.id": instance}
        self._resource = Resource.create(names)
        base = endpoint.rstrip("/")
        exporter, spans = OTLPSpanExporter(f"{base}/v1/traces"), measures.counts(SPANS)
        self._provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        self._provider.add_span_processor(_Queue(_Counted(exporter, spans), spans))
        self._metrics = OTLPMetricExporter(f"{base}/v1/metrics")
        self._measures = measures
        self._interval_seconds = interval_seconds
        self._stopping = threading.Event()
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def tracer(self) -> SdkTracer:
        """The SDK's tracer; its sampler is not asked, since only what is sampled gets a span."""
        return self._provider.get_tracer(SCOPE.name)

    def start(self) -> None:
        """Begin to push metrics; call this in the event loop that the measures are read in."""
        self._refreshing = asyncio.create_task(self._refresh(), name="measures")
        threading.Thread(target=self._push_metrics, name="metrics push", daemon=True).start()

    async def stop(self) -> None:
        """Send what is left, for at most two seconds; a collector that does not answer is left behind."""
        if self._refreshing is not None:
            self._refreshing.cancel()
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def finish() -> None:
            self._stopping.set()
            self._metrics.shutdown(timeout_millis=0)
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # nobody waits any more: the loop is closed
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=finish, name="telemetry stop", daemon=True).start()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await done.wait()
        except TimeoutError:
            return

    async def _refresh(self) -> None:
        while True:
            await self._measures.refresh()
            await asyncio.sleep(self._interval_seconds)

    def _push_metrics(self) -> None:
        while not self._stopping.wait(self._interval_seconds):
            self._metrics.export(metrics_data(self._measures, self._resource))


class _Counted(SpanExporter):
    """Counts what the collector took."""

    def __init__(self, exporter: SpanExporter, counts: Counts) -> None:
        self._exporter = exporter
        self._counts = counts

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        result = self._exporter.export(spans)
        self._counts.add(len(spans), "exported" if result is SpanExportResult.SUCCESS else "failed")
        return result

    def shutdown(self) -> None:
        """End waiting for a collector that does not answer."""
        self._exporter.shutdown()


class _Queue(BatchSpanProcessor):
    """The bounded queue of ended spans; counts them."""

    def __init__(self, exporter: SpanExporter, counts: Counts) -> None:
        super().__init__(
            exporter,
            max_queue_size=QUEUE_SPANS_MAX,
            max_export_batch_size=BATCH_SPANS_MAX,
        )
        self._counts = counts

    def shutdown(self) -> None:
        """Send what is left, for as long as a process that stops may wait; then give up, in the worker too."""
        self._batch_processor.shutdown(timeout_millis=int(STOP_SECONDS * 1000))

    def on_end(self, span: ReadableSpan) -> None:
        """Take over a span."""
        self._counts.add(1, "ended")
        super().on_end(span)


def metrics_data(measures: Measures, resource: Resource) -> sdk.MetricsData:
    """Return all measures in the SDK's form."""
    started_at, moment = int(measures.started_at * 1e9), time.time_ns()
    metrics = [
        sdk.Metric(metric.name, metric.tells, metric.unit, _data(metric, points, started_at, moment))
        for metric, points in measures.snapshot()
    ]
    scope = sdk.ScopeMetrics(SCOPE, metrics, "")
    return sdk.MetricsData([sdk.ResourceMetrics(resource, [scope], "")])


def _data(metric: Metric, points: list[Point], started_at: int, moment: int) -> sdk.Gauge | sdk.Sum | sdk.Histogram:
    attributes = [dict(zip(metric.attributes, point.values, strict=True)) for point in points]
    if metric.kind == "histogram":  # without least and greatest value, which nobody keeps
        return sdk.Histogram(
            [
                sdk.HistogramDataPoint(
                    names,
                    started_at,
                    moment,
                    sum(point.buckets),
                    point.number,
                    point.buckets,
                    metric.bounds,
                    None,  # type: ignore[arg-type]
                    None,  # type: ignore[arg-type]
                )
                for names, point in zip(attributes, points, strict=True)
            ],
            _CUMULATIVE,
        )
    numbers = [
        sdk.NumberDataPoint(names, started_at, moment, point.number)
        for names, point in zip(attributes, points, strict=True)
    ]
    return sdk.Sum(numbers, _CUMULATIVE, is_monotonic=True) if metric.kind == "counter" else sdk.Gauge(numbers)
