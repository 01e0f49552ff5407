"""Measuring: plain numbers that the work counts up, put into a form only when somebody asks.

Counting costs a tenth of what an instrument of the SDK does, so it is always on. Gauges are read when they are asked
for; those that need the database are read once for each asking.
"""

from __future__ import annotations

import logging
import os
import resource
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from common.telemetry.metrics import Metric

Values = tuple[str, ...]

log = logging.getLogger(__name__)


class Point(NamedTuple):
    """One number (or one histogram) of a metric, with the values of its attributes in order."""

    values: Values
    number: float
    buckets: tuple[int, ...] = ()
    """Of a histogram: how many fell into each, the last one beyond all bounds; `number` is then the sum."""


class Counts:
    """A counter by attribute values."""

    __slots__ = ("_numbers",)

    def __init__(self) -> None:
        self._numbers: dict[Values, float] = {}

    def add(self, count: float, *values: str) -> None:
        """Count up."""
        self._numbers[values] = self._numbers.get(values, 0) + count

    def points(self) -> list[Point]:
        """Return the sums so far."""
        return [Point(values, number) for values, number in list(self._numbers.items())]


class Durations:
    """A histogram by attribute values."""

    __slots__ = ("_bounds", "_buckets", "_sums")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._buckets: dict[Values, list[int]] = {}
        self._sums: dict[Values, float] = {}

    def record(self, seconds: float, *values: str) -> None:
        """Put one duration into its bucket."""
        buckets = self._buckets.get(values)
        if buckets is None:
            buckets = self._buckets[values] = [0] * (len(self._bounds) + 1)
            self._sums[values] = 0.0
        buckets[bisect_left(self._bounds, seconds)] += 1
        self._sums[values] += seconds

    def points(self) -> list[Point]:
        """Return the buckets so far."""
        return [Point(values, self._sums[values], tuple(buckets)) for values, buckets in list(self._buckets.items())]


class Measures:
    """All that one process measures."""

    def __init__(self) -> None:
        self.started_at = time.time()
        self._counts: dict[Metric, Counts] = {}
        self._durations: dict[Metric, Durations] = {}
        self._observed: dict[Metric, list[Callable[[], Iterable[Point]]]] = {}
        self._sampled: dict[Metric, list[Callable[[], Awaitable[Iterable[Point]]]]] = {}
        self._samples: dict[Metric, list[Point]] = {}

    def counts(self, metric: Metric) -> Counts:
        """Return the counter of a metric; the same for everybody who asks."""
        assert metric.kind == "counter"
        return self._counts.setdefault(metric, Counts())

    def durations(self, metric: Metric) -> Durations:
        """Return the histogram of a metric; the same for everybody who asks."""
        assert metric.kind == "histogram"
        return self._durations.setdefault(metric, Durations(metric.bounds))

    def observe(self, metric: Metric, read: Callable[[], Iterable[Point]]) -> None:
        """Read a metric by a function whenever somebody asks; from any thread, so it must not wait."""
        self._observed.setdefault(metric, []).append(read)

    def sample(self, metric: Metric, read: Callable[[], Awaitable[Iterable[Point]]]) -> None:
        """Read a metric by a coroutine at each `refresh`; one that fails leaves the metric out."""
        self._sampled.setdefault(metric, []).append(read)

    async def refresh(self) -> None:
        """Read what has to be waited for."""
        for metric, reads in self._sampled.items():
            points: list[Point] = []
            for read in reads:
                try:
                    points += await read()
                except Exception as error:  # noqa: BLE001  a database that is away takes no other metric with it
                    log.debug("%s could not be read: %s", metric.name, type(error).__name__)
            self._samples[metric] = points

    def snapshot(self) -> list[tuple[Metric, list[Point]]]:
        """Return all metrics that have points, in the order of their names."""
        found: dict[Metric, list[Point]] = {}
        for metric, counts in list(self._counts.items()):
            found.setdefault(metric, []).extend(counts.points())
        for metric, durations in list(self._durations.items()):
            found.setdefault(metric, []).extend(durations.points())
        for metric, reads in list(self._observed.items()):
            found.setdefault(metric, []).extend(point for read in reads for point in read())
        for metric, points in list(self._samples.items()):
            found.setdefault(metric, []).extend(points)
        return sorted(((metric, points) for metric, points in found.items() if points), key=lambda pair: pair[0].name)


def cpu_points() -> list[Point]:
    """Return the processor time of this process, seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return [Point(("user",), used.ru_utime), Point(("system",), used.ru_stime)]


def memory_points() -> list[Point]:
    """Return the resident memory of this process, bytes; nothing where the kernel does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  a Path costs more than the read
            return [Point((), int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))]
    except OSError:
        return []


def prometheus_text(snapshot: Sequence[tuple[Metric, list[Point]]], labels: dict[str, str]) -> str:
    """Return a snapshot in Prometheus's text format 0.0.4; `labels` are added to every series."""
    lines: list[str] = []
    for metric, points in snapshot:
        name = metric.prometheus_name
        lines += [f"# HELP {name} {_escaped(metric.tells)}", f"# TYPE {name} {metric.kind}"]
        for point in points:
            pairs = dict(labels)
            pairs |= {key.replace(".", "_"): value for key, value in zip(metric.attributes, point.values, strict=True)}
            lines += _series(name, metric, point, pairs)
    return "\n".join(lines) + "\n"


def _series(name: str, metric: Metric, point: Point, pairs: dict[str, str]) -> list[str]:
    if metric.kind != "histogram":
        return [f"{name}{_labels(pairs)} {point.number!r}"]
    lines, count = [], 0
    for bound, inside in zip((*metric.bounds, "+Inf"), point.buckets, strict=True):
        count += inside
        lines.append(f"{name}_bucket{_labels({**pairs, 'le': str(bound)})} {count}")
    return [*lines, f"{name}_sum{_labels(pairs)} {point.number!r}", f"{name}_count{_labels(pairs)} {count}"]


def _labels(pairs: dict[str, str]) -> str:
    quoted = ",".join('{}="{}"'.format(name, _escaped(value).replace('"', '\\"')) for name, value in pairs.items())
    return f"{{{quoted}}}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
