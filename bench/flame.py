"""Where the time goes: flame graphs of the services while the road carries batches, into docs/flames/.

    python bench/flame.py [--seconds 10] [--services ingestion,moderation,routing,vault]

py-spy looks at each process 100 times a second and counts what runs Python (`--gil`): width is time, not calls.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
from pathlib import Path

from load import batch_bodies, send_batches
from road import BATCH, BATCH_CONNECTIONS, Bench, warm_up

from waystation.rehearsal import Rehearsal
from waystation.stack.stack import Stack

ROOT = Path(__file__).parent.parent
SPY = "py-spy==0.4.3"
MESSAGES_PER_SECOND = 1500


def main() -> None:
    """Record one graph per service."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--services", default="ingestion,moderation,routing,vault")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "flames")
    arguments = parser.parse_args()
    os.environ.setdefault("KAFKA_JVM_PERFORMANCE_OPTS", "-XX:+UseSerialGC")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="waystation-flame-") as scratch:
        stack = Stack.open(Path(scratch) / "home")
        try:
            stack.up()
            record(stack, Path(scratch), arguments)
        finally:
            stack.down()


def record(stack: Stack, scratch: Path, arguments: argparse.Namespace) -> None:
    """Warm up, then look while a load goes down the road."""
    rehearsal = Rehearsal(stack, scratch / "laboratory", digest_only=True)
    rehearsal.start_laboratory()
    try:
        messages = arguments.seconds * MESSAGES_PER_SECOND
        bench = Bench(stack, rehearsal, rehearsal.create_account("Flames"), messages)
        warm_up(bench, messages)
        pids = {one.name.removesuffix("-1"): one.pid for one in stack.status() if one.pid is not None}
        spies = [
            subprocess.Popen(
                [
                    *(str(ROOT / ".tools" / "bin" / "uv"), "tool", "run", SPY, "record", "--pid", str(pids[service])),
                    *("--gil", "--duration", str(arguments.seconds), "--output"),
                    f"{service}.svg",
                ],
                cwd=arguments.folder,
            )
            for service in arguments.services.split(",")
        ]
        load = batch_bodies(bench.items("flame", messages), BATCH)
        asyncio.run(send_batches(bench.url, bench.account, load, BATCH_CONNECTIONS))
        for spy in spies:
            spy.wait()
        bench.at_rest()
    finally:
        rehearsal.stop_laboratory()


if __name__ == "__main__":
    main()
