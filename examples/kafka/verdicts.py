"""What screening decided: `screening.verdicts`, from its beginning to its end, without a group.

    python verdicts.py client.conf [MESSAGE_ID]

A verdict names the clauses and rules it rests on. The message beside it is ciphertext; nothing here can open it.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from records import event_in, read_whole

EVENT = "screening.verdict.reached.v1"


async def main() -> None:
    """Print a line for each verdict, or for that on one message."""
    client_file, *wanted = sys.argv[1:]
    async for record in read_whole(client_file, "screening.verdicts"):
        event = event_in(record, EVENT)
        if event is None:
            continue
        try:
            line = told(event["verdict"]["statement"])
        except (KeyError, TypeError):
            continue  # not what the schema of the event says
        if not wanted or line[1] == wanted[0]:
            print(*line, sep="\t")


def told(verdict: dict[str, Any]) -> tuple[str, ...]:
    """Return when, on which message, what, by which clauses, under which policy."""
    clauses = ",".join(verdict["clauses"]) or "-"
    return verdict["screened_at"], verdict["message_id"], verdict["action"], clauses, verdict["policy"]


if __name__ == "__main__":
    asyncio.run(main())
