"""How fast the road is: `make bench`, or parts of it.

    python bench/road.py [--only batches,singles,steady,peers,growth] [--messages 20000] [--home DIR] [--output FILE]
    python bench/road.py --only overload --overload-seconds 600

Everything runs on this machine: load, door, road, Kafka, PostgreSQL and the SMTP laboratory, or Postfix's smtp-sink, as
the provider. PEER=postfix,haraka sends mails of the same size through those relays in the same run. The wall rate of a
shared machine is noisy; CPU per message is the steadier figure. Loss and duplicates are counted from the laboratory's
record. Kafka runs with both of Java's compilers, as brokers that stay do, and is warmed before anything is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING

import psutil
import uvloop
from growth import measure_growth
from load import Answers, batch_bodies, send_batches, send_singles, send_steadily, single_bodies
from peers import RELAYS, Sink, program
from processes import connections, usage
from report import RESULTS, Measure, publish

from waystation.rehearsal import Account, Rehearsal, items
from waystation.stack.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PARTS = ("batches", "singles", "steady", "peers", "growth", "overload")
REST_SECONDS = 300.0
TEXT_BYTES = 1700  # about 2 KB as a mail
BATCH = 100
BATCH_CONNECTIONS = 4
SINGLE_CONNECTIONS = 64
STEADY_SECONDS = 20
SETTLE_SECONDS = 2.0  # receipts of the last mails; to ask the services would scan what has grown
MS = 1000.0
CPU_UNIT = "ms per 1,000 messages"

Usage = dict[str, tuple[float, int]]
"""CPU seconds and resident bytes by process."""


@dataclass(slots=True)
class Bench:
    """A running road with its laboratory, its account, and how many mails have gone down it."""

    stack: Stack
    rehearsal: Rehearsal
    account: Account
    messages: int
    sent: int = 0

    @property
    def url(self) -> str:
        """The door."""
        return self.stack.url("ingestion")

    def items(self, name: str, count: int) -> list[dict[str, object]]:
        """Return messages to recipients of whom a fifth come again, as customers do."""
        recipients = [f"{name}{number % max(1, count * 4 // 5)}@kunden.example" for number in range(count)]
        self.sent += count
        return items(recipients, text_bytes=TEXT_BYTES, tag=f"{name}-")

    def processes(self, **others: int) -> Usage:
        """Return what each process has used so far; a server's children count with it."""
        pids = {**self._pids(), "load": os.getpid(), **others}
        return {name: usage(pid, children=name == "postgres") for name, pid in pids.items()}

    def pid(self, name: str) -> int:
        """Return the process of a service or server."""
        return self._pids()[name]

    def _pids(self) -> dict[str, int]:
        return {one.name.removesuffix("-1"): one.pid for one in self.stack.status() if one.pid is not None}

    def at_rest(self) -> Counter[str]:
        """Wait until everything that was sent has come to rest; return the states of all deliveries."""
        return self.rehearsal.wait_until_at_rest(self.sent, REST_SECONDS)


def main() -> None:
    """Run the bench and print its table."""
    arguments = parse()
    os.environ.setdefault("KAFKA_JVM_PERFORMANCE_OPTS", "-XX:+UseSerialGC")
    with tempfile.TemporaryDirectory(prefix="waystation-bench-") as scratch:
        Path(scratch).chmod(0o755)
        stack = Stack.open(arguments.home or Path(scratch) / "home")
        try:
            stack.up()
            measures = run(stack, Path(scratch), arguments)
        finally:
            stack.down()
    publish(f"The road, {arguments.messages:,} mails of 2 KB", measures, arguments.output)


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS[:-1]), help=f"parts to run, of {', '.join(PARTS)}")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument(
        "--warm-up", type=int, default=130_000, help="a JVM compiles until it has seen some 170,000 mails"
    )
    parser.add_argument("--overload-seconds", type=int, default=600)
    parser.add_argument("--growth-rows", default="10000,100000,1000000")
    parser.add_argument("--home", type=Path, help="keep the stack's folder here")
    parser.add_argument("--output", type=Path, default=RESULTS / "road.json")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    if unknown := set(filter(None, os.environ.get("PEER", "").split(","))) - set(RELAYS):
        parser.error(f"PEER knows {', '.join(RELAYS)}, not {', '.join(sorted(unknown))}")
    if unknown := set(arguments.only) - set(PARTS):
        parser.error(f"--only knows {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
    return arguments


def run(stack: Stack, scratch: Path, arguments: argparse.Namespace) -> list[Measure]:
    """Warm up, then measure each part on the same road."""
    rehearsal = Rehearsal(stack, scratch / "laboratory", digest_only=True)
    rehearsal.start_laboratory()
    try:
        bench = Bench(stack, rehearsal, rehearsal.create_account("Bench"), arguments.messages)
        warm_up(bench, arguments.warm_up)
        parts: dict[str, Callable[[], list[Measure]]] = {
            "batches": lambda: to_laboratory(bench),
            "singles": lambda: singles(bench),
            "steady": lambda: [*steady(bench, 200), *steady(bench, 500)],
            "peers": lambda: peers(bench, scratch),
            "growth": lambda: growth(bench, [int(rows) for rows in arguments.growth_rows.split(",")]),
            "overload": lambda: overload(bench, arguments.overload_seconds),
        }
        return [measure for name in PARTS if name in arguments.only for measure in parts[name]()]
    finally:
        rehearsal.stop_laboratory()


def warm_up(bench: Bench, messages: int) -> None:
    """Send mails that are not measured, in batches and, a third of that, one by one: small batches are other code."""
    if messages:
        load = batch_bodies(bench.items("warm", messages), BATCH)
        uvloop.run(send_batches(bench.url, bench.account, load, BATCH_CONNECTIONS))
        one_by_one = single_bodies(bench.items("warm-single", messages // 3))
        uvloop.run(send_singles(bench.url, bench.account, one_by_one, SINGLE_CONNECTIONS))
        bench.at_rest()


def to_laboratory(bench: Bench) -> list[Measure]:
    """Batches of 100, to the laboratory: rates, loss, duplicates, CPU and memory by process."""
    bodies = batch_bodies(bench.items("batch", bench.messages), BATCH)
    laboratory = {"laboratory": bench.rehearsal.laboratory_pid}
    target = bench.rehearsal.recorded_count() + bench.messages
    before, started = bench.processes(**laboratory), time.monotonic()
    answers = uvloop.run(send_batches(bench.url, bench.account, bodies, BATCH_CONNECTIONS))
    accepted_seconds = time.monotonic() - started
    wait_for_mails(bench.rehearsal, target)
    seconds, after = time.monotonic() - started, bench.processes(**laboratory)
    in_doubt = bench.at_rest()["in_doubt"]
    note = "batches of 100 over 4 connections, SMTP laboratory"
    return [
        Measure("accepted", bench.messages / accepted_seconds, "1/s", note=note),
        Measure("delivered", bench.messages / seconds, "1/s", 1600, ">=", note),
        *integrity(bench, answers),
        Measure("in doubt", in_doubt, "messages", 0, "<="),
        *cpu(before, after, bench.messages, ""),
        *(Measure(f"memory {name}", resident / 2**20, "MiB") for name, (_, resident) in after.items()),
    ]


def singles(bench: Bench) -> list[Measure]:
    """Single requests over 64 connections, through to delivery."""
    count = bench.messages // 2
    bodies = single_bodies(bench.items("single", count))
    target = bench.rehearsal.recorded_count() + count
    started = time.monotonic()
    answers = uvloop.run(send_singles(bench.url, bench.account, bodies, SINGLE_CONNECTIONS))
    wait_for_mails(bench.rehearsal, target)
    seconds = time.monotonic() - started
    bench.at_rest()
    return [
        Measure("delivered, singles", count / seconds, "1/s", 800, ">=", "one message a request, 64 connections"),
        *latency("202, singles", answers.request_seconds),
        *integrity(bench, answers, ", singles"),
    ]


def steady(bench: Bench, per_second: int) -> list[Measure]:
    """Single messages at a steady pace: from the 202 to the provider's 250, and what is left of the machine."""
    count = per_second * STEADY_SECONDS
    bodies = single_bodies(bench.items(f"steady{per_second}x", count))
    target = bench.rehearsal.recorded_count() + count
    before = bench.processes()
    psutil.cpu_times_percent(None)
    answers = uvloop.run(send_steadily(bench.url, bench.account, bodies, per_second, SINGLE_CONNECTIONS))
    idle, after = psutil.cpu_times_percent(None).idle, bench.processes()
    wait_for_mails(bench.rehearsal, target)
    handed = {mail.sha256: mail.time for mail in bench.rehearsal.recorded() if mail.accepted}
    waits = [
        max(0.0, handed[digest] - admitted) for digest, admitted in answers.admitted_at.items() if digest in handed
    ]
    bench.at_rest()
    at = f"at {per_second}/s"
    goals = {"99": 150.0} if per_second == 500 else {}
    return [
        *latency(f"accept to handed over {at}", waits, goals),
        *latency(f"202 {at}", answers.request_seconds, goals),
        Measure(f"idle {at}", idle, "% of the machine", 35 if per_second == 200 else None, ">="),
        *cpu(before, after, count, f" {at}"),
        *integrity(bench, answers, f" {at}"),
    ]


def peers(bench: Bench, scratch: Path) -> list[Measure]:
    """The same batches to smtp-sink, and mails of that size through the relays that PEER names."""
    if program("smtp-sink") is None:
        return []
    bench.rehearsal.stop_laboratory()
    try:
        with Sink(bench.stack.port("smtp"), scratch) as sink:
            measures = to_sink(bench, sink)
            delivered = measures[0].value
            for name in filter(None, os.environ.get("PEER", "").split(",")):
                with RELAYS[name](scratch, bench.stack.port("smtp")) as relay:
                    relay.relay(bench.messages // 10, sink)
                    relayed = relay.relay(bench.messages // 4, sink)
                goal = 2.2 if name == "postfix" else None
                measures += [
                    Measure(f"{relay.NAME} relay", relayed.per_second, "1/s", note=relay.NOTE),
                    Measure(f"ratio to {relay.NAME}", delivered / relayed.per_second, "times", goal, ">="),
                    Measure(f"cpu {relay.NAME}", relayed.cpu_ms, CPU_UNIT, note="without its source and sink"),
                ]
            return measures
    finally:
        bench.rehearsal.start_laboratory()


def to_sink(bench: Bench, sink: Sink) -> list[Measure]:
    """Batches of 100, to smtp-sink."""
    bodies = batch_bodies(bench.items("sink", bench.messages), BATCH)
    target = sink.count() + bench.messages
    before, started = bench.processes(sink=sink.pid), time.monotonic()
    uvloop.run(send_batches(bench.url, bench.account, bodies, BATCH_CONNECTIONS))
    sink.wait_for(target)
    seconds, after = time.monotonic() - started, bench.processes(sink=sink.pid)
    bench.at_rest()
    surplus = sink.count() - target
    return [
        Measure("delivered, smtp-sink", bench.messages / seconds, "1/s", 1600, ">=", "batches of 100"),
        Measure("lost, smtp-sink", max(0, -surplus), "messages", 0, "<="),
        Measure("duplicates, smtp-sink", max(0, surplus), "messages", 0, "<="),
        *cpu(before, after, bench.messages, ", smtp-sink"),
    ]


def growth(bench: Bench, sizes: list[int]) -> list[Measure]:
    """What a message costs each process when the tables already hold that many messages."""

    def spent(seconds: float) -> Mapping[str, float]:
        postgres = bench.pid("postgres")
        before, connected, began, rounds = bench.processes(), connections(postgres), time.monotonic(), 0
        while rounds == 0 or time.monotonic() < began + seconds:
            target = bench.rehearsal.recorded_count() + bench.messages
            load = batch_bodies(bench.items(f"grown{bench.sent}x", bench.messages), BATCH)
            uvloop.run(send_batches(bench.url, bench.account, load, BATCH_CONNECTIONS))
            wait_for_mails(bench.rehearsal, target)
            rounds += 1
        time.sleep(SETTLE_SECONDS)
        after = bench.processes()
        used = {name: after[name][0] - before[name][0] for name in before}
        served = sum(cpu - connected.get(pid, 0.0) for pid, cpu in connections(postgres).items())
        used |= {"postgres, connections": served, "postgres, upkeep": used["postgres"] - served}
        return {name: cpu / rounds / bench.messages * 1e6 for name, cpu in used.items()}

    return measure_growth(bench.stack, sizes, lambda: bench.sent + bench.messages, spent)


def overload(bench: Bench, seconds: int) -> list[Measure]:
    """More than the road carries for a long time: bulk is pushed back, single messages pass, memory stays flat."""
    began = time.monotonic()
    used: list[tuple[float, Usage]] = []
    pushed_back, singles_sent = 0, Answers()
    round_number = 0
    while time.monotonic() < began + seconds:
        round_number += 1
        bodies = batch_bodies(bench.items(f"flood{round_number}x", bench.messages), BATCH)
        one_by_one = single_bodies(bench.items(f"drop{round_number}x", 50))

        async def both(bodies: list[bytes] = bodies, one_by_one: list[bytes] = one_by_one) -> tuple[Answers, Answers]:
            return await asyncio.gather(
                send_batches(bench.url, bench.account, bodies, 16),
                send_steadily(bench.url, bench.account, one_by_one, 5, 4),
            )

        bulk, slow = uvloop.run(both())
        pushed_back += bulk.pushed_back
        singles_sent.pushed_back += slow.pushed_back
        singles_sent.request_seconds += slow.request_seconds
        used.append((time.monotonic() - began, bench.processes(laboratory=bench.rehearsal.laboratory_pid)))
    bench.at_rest()
    last = used[-1][1]
    halfway = next(usage for spent, usage in used if spent >= used[-1][0] / 2)
    spans = {"first round to last": used[0][1], "second half": halfway}
    return [
        Measure("overload", seconds, "s", note=f"{bench.sent:,} messages in all"),
        Measure("bulk requests pushed back", pushed_back, "requests", 1, ">="),
        Measure("singles pushed back", singles_sent.pushed_back, "requests", 0, "<="),
        *latency("202 of singles under overload", singles_sent.request_seconds),
        *(
            Measure(f"growth of memory {name}, {span}", (last[name][1] - earlier[name][1]) / 2**20, "MiB")
            for span, earlier in spans.items()
            for name in last
            if name != "load"
        ),
    ]


def integrity(bench: Bench, answers: Answers, what: str = "") -> list[Measure]:
    """Count what was admitted and not seen by the laboratory, or seen twice."""
    time.sleep(0.2)
    seen = Counter(mail.sha256 for mail in bench.rehearsal.recorded() if mail.accepted)
    lost = sum(seen[digest] == 0 for digest in answers.admitted_at)
    doubled = sum(seen[digest] > 1 for digest in answers.admitted_at)
    return [
        Measure(f"lost{what}", lost, "messages", 0, "<="),
        Measure(f"duplicates{what}", doubled, "messages", 0, "<="),
    ]


def latency(name: str, seconds: list[float], goals: Mapping[str, float] | None = None) -> list[Measure]:
    """Return p50, p95 and p99 in milliseconds."""
    if len(seconds) < 2:
        return []
    cuts = quantiles(seconds, n=100, method="inclusive")
    return [
        Measure(f"{name} p{percent}", cuts[percent - 1] * MS, "ms", (goals or {}).get(str(percent)), "<=")
        for percent in (50, 95, 99)
    ]


def cpu(before: Usage, after: Usage, messages: int, what: str) -> list[Measure]:
    """Return what each process used for a thousand messages."""
    used = {name: (after[name][0] - before[name][0]) / messages * 1e6 for name in after}
    measures = [Measure(f"cpu {name}{what}", value, CPU_UNIT) for name, value in used.items()]
    return [*measures, Measure(f"cpu in all{what}", sum(used.values()), CPU_UNIT)]


def wait_for_mails(rehearsal: Rehearsal, mails: int) -> None:
    """Wait until the laboratory has seen that many mails; asking the services would cost what is measured."""
    ends = time.monotonic() + REST_SECONDS
    while rehearsal.recorded_count() < mails:
        if time.monotonic() > ends:
            return
        time.sleep(0.05)


if __name__ == "__main__":
    main()
