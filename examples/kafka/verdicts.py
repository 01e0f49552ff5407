"""What screening decided: `screening.verdicts`, from its beginning to its end, without a group.

    python verdicts.py client.conf [MESSAGE_ID]

A verdict names the clauses and rules it rests on. The message beside it is ciphertext; nothing here can open it.
"""

from __future__ import annotations

import asyncio
import json
import sys

from records import read_whole


async def main() -> None:
    """Print a line for each verdict, or for that on one message."""
    client_file, *wanted = sys.argv[1:]
    async for record in read_whole(client_file, "screening.verdicts"):
        verdict = json.loads(record.value)["verdict"]["statement"]
        if wanted and verdict["message_id"] != wanted[0]:
            continue
        clauses = ",".join(verdict["clauses"]) or "-"
        print(verdict["screened_at"], verdict["message_id"], verdict["action"], clauses, verdict["policy"], sep="\t")


if __name__ == "__main__":
    asyncio.run(main())
