"""What becomes of messages: `routing.receipts`, followed in a group of your own.

    python follow_receipts.py client.conf my-team.receipts [IDLE_SECONDS]

Each record is one change of a delivery's state. Kafka delivers at least once, so a receipt can come again; its `ce_id`
(message id and number of the change) is the same then. Keep ids where you keep results, and a repetition changes
nothing. Ends after IDLE_SECONDS without a record, else never.
"""

from __future__ import annotations

import asyncio
import json
import sys

from records import attributes, read_in_group


async def main() -> None:
    """Print a line for each change, once in one run."""
    client_file, group, *idle = sys.argv[1:]
    seen: set[str] = set()
    idle_seconds = float(idle[0]) if idle else None
    async for batch in read_in_group(client_file, "routing.receipts", group, idle_seconds=idle_seconds):
        for record in batch:
            event_id = attributes(record)["ce_id"]
            if event_id in seen:
                continue
            seen.add(event_id)
            receipt = json.loads(record.value)["receipt"]["statement"]
            fields = (receipt["occurred_at"], receipt["message_id"], receipt["sequence"], receipt["state"])
            print(*fields, receipt["reason"], sep="\t")


if __name__ == "__main__":
    asyncio.run(main())
