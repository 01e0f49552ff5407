"""What telemetry costs: CPU microseconds a message of the services, off against 1 % of the messages traced.

    python bench/telemetry.py [--chunks 16] [--messages 500] [--batch 100] [--all] [--output FILE]

Two whole stacks stand side by side, one without telemetry and one with. Chunks of the same load go down one and the
other in turns, each the first as often, so that whatever else the machine does meets both alike. Compared are the sums
of each pair of chunks; the median of these ratios is the figure. The collector runs in this process and is not counted.
With --all the second stack traces every message.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

import psutil
from report import RESULTS, Measure, publish

from common.testing.collector import Collector, collector
from waystation.rehearsal import Account, Rehearsal, items
from waystation.stack import SERVICES, Stack

REST_SECONDS = 120.0
TEXT_BYTES = 1700  # about 2 KB as a mail
WARM_CHUNKS = 4
GOAL_PERCENT = 5.0
MEASURED = ("ingestion", "moderation", "vault", "routing")


@dataclass(slots=True)
class Side:
    """One of the two stacks, and what its services have used."""

    stack: Stack
    rehearsal: Rehearsal
    environment: dict[str, str]
    account: Account | None = None
    sent: int = 0

    def start(self) -> None:
        """Start everything."""
        self.stack.up_infra()
        self.rehearsal.start_laboratory()
        for service in SERVICES:
            self.stack.start_service(service, extra_env=self.environment, wait=False)
        for service in SERVICES:
            self.stack.wait_ready(service)
        self.account = self.rehearsal.create_account("Bench")

    def stop(self) -> None:
        """Stop everything."""
        self.rehearsal.stop_laboratory()
        self.stack.down()

    def carry(self, count: int, batch: int) -> dict[str, float]:
        """Send a chunk and wait until it is handed over; return CPU microseconds a message by service."""
        assert self.account is not None
        names = [f"kunde{number % max(1, count * 4 // 5)}@kunden.example" for number in range(count)]
        load = items(names, text_bytes=TEXT_BYTES, tag=f"{self.sent}-")
        before = self._cpu_seconds()
        asyncio.run(self.rehearsal.send(self.account, load, batch=batch))
        self.sent += count
        self.rehearsal.wait_until_at_rest(self.sent, REST_SECONDS)
        after = self._cpu_seconds()
        return {name: (after[name] - before[name]) / count * 1e6 for name in MEASURED}

    def _cpu_seconds(self) -> dict[str, float]:
        spent = {}
        for one in self.stack.status():
            if one.pid is not None:
                times = psutil.Process(one.pid).cpu_times()
                spent[one.name.rpartition("-")[0]] = times.user + times.system
        return spent


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--messages", type=int, default=500, help="of one chunk")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--all", action="store_true", help="trace every message")
    parser.add_argument("--output", type=Path, default=RESULTS / "telemetry.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="waystation-bench-") as scratch, collector() as kept:
        share = "1" if arguments.all else "0.01"
        on = {"OTEL_EXPORTER_OTLP_ENDPOINT": kept.url, "OTEL_TRACES_SAMPLER_ARG": share}
        sides = [side(Path(scratch) / "off", {}), side(Path(scratch) / "on", on)]
        try:
            for one in sides:
                one.start()
            pairs = run(sides, arguments)
        finally:
            for one in sides:
                one.stop()
    what = "every message traced" if arguments.all else "1 % traced"
    publish("What telemetry costs", measures(pairs, kept, what, arguments), arguments.output)


def side(home: Path, environment: dict[str, str]) -> Side:
    """Return a side that is not started."""
    stack = Stack.open(home)
    return Side(stack, Rehearsal(stack, home / "laboratory", digest_only=True), environment)


def run(sides: list[Side], arguments: argparse.Namespace) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Return pairs of chunks: what each service used without telemetry, and with."""
    pairs = []
    for number in range(-WARM_CHUNKS, arguments.chunks):
        order = (0, 1) if number % 2 else (1, 0)
        used = {place: sides[place].carry(arguments.messages, arguments.batch) for place in order}
        if number >= 0:
            pairs.append((used[0], used[1]))
            print(
                *(
                    f"{name} {sum(one.values()):6.0f} us a message"
                    for name, one in zip(("off", "on"), pairs[-1], strict=True)
                )
            )
    return pairs


def measures(
    pairs: list[tuple[dict[str, float], dict[str, float]]], kept: Collector, what: str, arguments: argparse.Namespace
) -> list[Measure]:
    """Return the figures."""
    more = [(sum(on.values()) / sum(off.values()) - 1) * 100 for off, on in pairs]
    low, _, high = quantiles(more, n=4)
    goal = None if arguments.all else GOAL_PERCENT
    found = [
        Measure(
            f"telemetry, {what}",
            median(more),
            "% of the services' CPU",
            goal,
            "<=",
            f"half of {len(pairs)} pairs between {low:.1f} and {high:.1f}",
        ),
        Measure("cpu of the services, off", median(sum(off.values()) for off, _ in pairs), "us a message"),
        Measure(f"cpu of the services, {what}", median(sum(on.values()) for _, on in pairs), "us a message"),
    ]
    for name in MEASURED:
        off, on = (median(pair[place][name] for pair in pairs) for place in (0, 1))
        found.append(Measure(f"{name}, {what}", on - off, "us a message more", note=f"off: {off:.0f}"))
    return [
        *found,
        Measure("spans at the collector", len(kept.spans), "spans", note=f"{arguments.messages} messages a chunk"),
    ]


if __name__ == "__main__":
    main()
