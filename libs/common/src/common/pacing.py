"""How long a batch loop rests between two batches, so that messages travel together.

Every batch has a fixed price (round trips, requests, a commit), which at some hundred messages a second would be most
of what a message costs. A loop therefore keeps a least time from one batch to the next. When messages come fast, the
cycle grows: nobody notices 80 ms more in a burst, and each message becomes cheaper. A message that comes alone waits
for nothing: the rest is over long before.

One long cycle on the road is enough: who publishes a batch each 60 ms, as the door does, paces whoever reads it, so the
reader's own cycle may be short and its records do not wait a second time.
"""

from __future__ import annotations

RECORDS_PER_CYCLE = 60
GROWTH_MAX = 2.0


def cycle_seconds_after(records: int, cycle_seconds: float, records_max: int) -> float:
    """Return the least time from the start of a batch of `records` to the next; none when it came full."""
    if records >= records_max:
        return 0.0
    return cycle_seconds * min(GROWTH_MAX, max(1.0, records / RECORDS_PER_CYCLE))
