"""Who may send: the whole of `enforcement.standings`, read without a group.

    python standings.py client.conf

The topic is compacted: Kafka keeps the last record of each account, and may still hold earlier ones. Of two records
of an account the one with the higher `revision` holds. An account that is not in the topic is good.
"""

from __future__ import annotations

import asyncio
import sys

from records import event_in, read_whole

EVENT = "enforcement.standing.changed.v1"


async def standings(client_file: str) -> dict[str, dict]:
    """Return what holds for each account that enforcement ever decided on."""
    held: dict[str, dict] = {}
    async for record in read_whole(client_file, "enforcement.standings"):
        event = event_in(record, EVENT)
        if event is None or not isinstance(event.get("revision"), int) or not isinstance(event.get("account_id"), str):
            continue  # not what the schema of the event says
        known = held.get(event["account_id"])
        if known is None or known["revision"] < event["revision"]:
            held[event["account_id"]] = event
    return held


async def main() -> None:
    """Print a line for each account."""
    for account, event in sorted((await standings(sys.argv[1])).items()):
        print(
            account, event.get("standing"), event["revision"], event.get("clause") or "-", event.get("reason"), sep="\t"
        )


if __name__ == "__main__":
    asyncio.run(main())
