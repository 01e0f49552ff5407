"""What admitting a message costs, on a running stack: CPU microseconds a message, per process.

    waystation up && python bench/door.py [--home FOLDER] [--messages 20000]

Two loads: HTTP batches of 100 over 4 connections, and single messages over 64. Bodies are 2 KB of text.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from functools import partial
from pathlib import Path

import httpx
import orjson
import psutil

from waystation.operator import ServiceClient
from waystation.stack import Stack

TEXT = "".join(f"Line {n}: your order is on its way and will be with you soon.\n" for n in range(33))
RECIPIENTS = 20_000


def item(number: int) -> dict[str, object]:
    return {
        "tool": "email",
        "inbox": "bench@lindqvist.example",
        "recipient": {"address": f"person{number % RECIPIENTS}@mail.example", "name": f"Person {number % RECIPIENTS}"},
        "content": {"subject": f"Your order {number}", "text": TEXT},
        "purpose": "order-ready",
        "legal_basis": {"kind": "contract", "attested": True},
        "idempotency_key": f"bench-{time.time_ns()}-{number}",
    }


def cpu_seconds(stack: Stack) -> dict[str, float]:
    names = {f"{stack.layout.home}/ingestion-1": "ingestion", f"{stack.layout.home}/vault-1": "vault"}
    spent = dict.fromkeys(("ingestion", "vault", "postgres", "kafka"), 0.0)
    for process in psutil.process_iter(["cmdline", "cwd"]):
        line = " ".join(process.info["cmdline"] or [])
        name = next((name for mark, name in names.items() if mark in line), None)
        if name is None and process.info["cwd"] == str(stack.layout.postgres / "data"):
            name = "postgres"
        if name is None and "kafka.Kafka" in line and str(stack.layout.home) in line:
            name = "kafka"
        if name is not None:
            times = process.cpu_times()
            spent[name] += times.user + times.system
            if name == "postgres":
                spent[name] += times.children_user + times.children_system
    return spent


async def batches(client: httpx.AsyncClient, messages: int) -> None:
    bodies = iter([orjson.dumps({"items": [item(at + n) for n in range(100)]}) for at in range(0, messages, 100)])

    async def worker() -> None:
        for body in bodies:
            answer = await client.post("/v1/messages:batch", content=body)
            assert answer.status_code == 200, answer.text
            assert all(each["status"] == 202 for each in orjson.loads(answer.content)["items"])

    await asyncio.gather(*(worker() for _ in range(4)))


async def singles(stack: Stack, key: str, messages: int) -> None:
    """Send over bare sockets: 64 connections of a pooling client cost more than the door itself."""
    bodies = iter([orjson.dumps(item(n)) for n in range(messages)])
    head = f"POST /v1/messages HTTP/1.1\r\nHost: door\r\nAuthorization: Bearer {key}\r\nContent-Length: "

    async def worker() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", stack.port("ingestion"))
        for body in bodies:
            writer.write(f"{head}{len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 202"), answer
            length = next(line for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length[15:]))
        writer.close()

    await asyncio.gather(*(worker() for _ in range(64)))


async def measure(stack: Stack, key: str, messages: int) -> None:
    headers = {"authorization": f"Bearer {key}"}
    kept = httpx.Limits(max_connections=64, max_keepalive_connections=64, keepalive_expiry=60)
    url = stack.url("ingestion")
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30, limits=kept, trust_env=False) as client:
        loads = (
            ("warm-up", partial(batches, client), 3000),
            ("b100", partial(batches, client), messages),
            ("c64", partial(singles, stack, key), messages // 2),
        )
        for name, load, count in loads:
            before, started = cpu_seconds(stack), time.monotonic()
            await load(count)
            seconds = time.monotonic() - started
            after = cpu_seconds(stack)
            costs = "  ".join(f"{part} {1e6 * (after[part] - before[part]) / count:.0f}" for part in after)
            print(f"{name:8} {count} messages, {count / seconds:.0f}/s, us/message: {costs}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--messages", type=int, default=20_000)
    arguments = parser.parse_args()
    stack = Stack.open(arguments.home)
    with ServiceClient(stack) as client:
        account = client.post(
            "ingestion",
            "/v1/accounts",
            {
                "name": f"bench {time.time_ns()}",
                "inboxes": [{"address": "bench@lindqvist.example"}],
                "accept_rules": "1",
            },
        )
    asyncio.run(measure(stack, account["api_key"], arguments.messages))


if __name__ == "__main__":
    main()
