"""How fast the road is: accepted and delivered per second, CPU milliseconds per 1,000 messages by process.

    python bench/road.py [--messages 20000] [--batch 100] [--warm-up 10000] [--home DIR] [--output FILE]

Everything runs on this machine: load, door, road, Kafka, PostgreSQL and the SMTP laboratory as the provider. The wall
rate of a shared machine is noisy; CPU per message is the steadier figure. Loss and duplicates are counted from the
laboratory's record.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from waystation.rehearsal import Rehearsal, items
from waystation.stack.stack import Stack

REST_SECONDS = 300.0
TEXT_BYTES = 1700  # about 2 KB as a mail


def main() -> None:
    """Run the bench and print its table."""
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="waystation-bench-") as scratch:
        home = arguments.home or Path(scratch)
        stack = Stack.open(home)
        try:
            stack.up()
            measures = run(stack, home / "laboratory", arguments)
        finally:
            stack.down()
    report(measures, arguments)


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--warm-up", type=int, default=10_000, help="a JVM needs some 40,000 messages to be fast")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--home", type=Path, help="keep the stack's folder here")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "road.json")
    return parser.parse_args()


def run(stack: Stack, record: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Warm up, then measure one run."""
    rehearsal = Rehearsal(stack, record, digest_only=True)
    rehearsal.start_laboratory()
    try:
        account = rehearsal.create_account("Bench")
        if arguments.warm_up:
            warm = items(recipients("warm", arguments.warm_up), text_bytes=TEXT_BYTES, tag="warm-")
            asyncio.run(rehearsal.send(account, warm, batch=arguments.batch, connections=arguments.connections))
            rehearsal.wait_until_at_rest(arguments.warm_up, REST_SECONDS)
        load = items(recipients("kunde", arguments.messages), text_bytes=TEXT_BYTES, tag="run-")
        before, started = processes(stack, rehearsal), time.monotonic()
        admitted = asyncio.run(rehearsal.send(account, load, batch=arguments.batch, connections=arguments.connections))
        accepted_at = time.monotonic()
        wait_for_mails(rehearsal, arguments.warm_up + arguments.messages)
        ended, after = time.monotonic(), processes(stack, rehearsal)
        states = rehearsal.wait_until_at_rest(arguments.warm_up + arguments.messages, REST_SECONDS)
        time.sleep(0.2)
        seen = Counter(mail.sha256 for mail in rehearsal.recorded())
    finally:
        rehearsal.stop_laboratory()
    count = len(admitted)
    lost = sum(seen[one.digest] == 0 for one in admitted)
    doubled = sum(seen[one.digest] > 1 for one in admitted)
    measures = [
        measure("accepted", count / (accepted_at - started), "1/s"),
        measure(
            "delivered",
            count / (ended - started),
            "1/s",
            goal=800.0,
            comparison=">=",
            note=f"batches of {arguments.batch}",
        ),
        measure("lost", lost, "messages", goal=0, comparison="<="),
        measure("duplicates", doubled, "messages", goal=0, comparison="<="),
        measure("in doubt", states["in_doubt"], "messages", goal=0, comparison="<="),
    ]
    total = 0.0
    for name, (seconds, _) in after.items():
        used = (seconds - before[name][0]) / count * 1e6
        total += used
        measures.append(measure(f"cpu {name}", used, "ms per 1,000 messages"))
    measures.append(measure("cpu in all", total, "ms per 1,000 messages"))
    measures += [measure(f"memory {name}", resident / 2**20, "MiB") for name, (_, resident) in after.items()]
    return measures


def wait_for_mails(rehearsal: Rehearsal, mails: int) -> None:
    """Wait until the laboratory has seen that many mails; asking the services would cost what is measured."""
    ends = time.monotonic() + REST_SECONDS
    while rehearsal.recorded_count() < mails:
        if time.monotonic() > ends:
            return
        time.sleep(0.1)


def recipients(name: str, count: int) -> list[str]:
    """Return addresses of which a fifth come again, as customers do."""
    return [f"{name}{number % max(1, count * 4 // 5)}@kunden.example" for number in range(count)]


def processes(stack: Stack, rehearsal: Rehearsal) -> dict[str, tuple[float, int]]:
    """Return CPU seconds and resident bytes by process; a server's children count with it."""
    pids = {one.name: one.pid for one in stack.status() if one.pid is not None}
    pids |= {"laboratory": rehearsal.laboratory_pid, "load": os.getpid()}
    return {name: usage(pid, children=name == "postgres") for name, pid in pids.items()}


def usage(pid: int, *, children: bool) -> tuple[float, int]:
    """Return CPU seconds and resident bytes of a process; with ended children where it is a server of processes."""
    process = psutil.Process(pid)
    family = [process, *(process.children(recursive=True) if children else [])]
    seconds, resident = 0.0, 0
    for member in family:
        try:
            times = member.cpu_times()
            seconds += times.user + times.system
            resident += member.memory_info().rss if member is process or not children else member.memory_info().rss // 4
        except psutil.NoSuchProcess:
            continue
    ended = process.cpu_times()
    return seconds + (ended.children_user + ended.children_system if children else 0.0), resident


def measure(
    name: str, value: float, unit: str, *, goal: float | None = None, comparison: str = ">=", note: str = ""
) -> dict[str, Any]:
    """Return one measure in the form that every bench uses."""
    return {
        "name": name,
        "value": round(value, 2),
        "unit": unit,
        "goal": goal,
        "comparison": comparison,
        "note": note,
    }


def report(measures: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Print the table, say which goals are missed, write the file."""
    table = Table("measure", "value", "unit", "goal", title=f"The road, {arguments.messages} mails of 2 KB")
    for one in measures:
        goal = "" if one["goal"] is None else f"{one['comparison']} {one['goal']:g}"
        table.add_row(one["name"], f"{one['value']:,}", one["unit"], goal)
    console = Console()
    console.print(table)
    missed = [one["name"] for one in measures if one["goal"] is not None and not reached(one)]
    console.print(f"missed: {', '.join(missed)}" if missed else "every goal is reached")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    machine = {
        "cores": os.cpu_count(),
        "cpu": platform.processor() or platform.machine(),
        "python": sys.version.split()[0],
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(
        json.dumps({"machine": machine, "commit": commit, "measures": measures}, indent=2) + "\n"
    )


def reached(one: dict[str, Any]) -> bool:
    """Tell whether a measure reaches its goal."""
    return bool(one["value"] >= one["goal"] if one["comparison"] == ">=" else one["value"] <= one["goal"])


if __name__ == "__main__":
    main()
