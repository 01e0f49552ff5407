"""How fast a caller may ask for a purpose: a token bucket each, so that a stolen identity reads slowly."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from vault.domain import ITEMS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

BURST_SECONDS = 5.0


class Rates:
    """What is left to each caller and purpose, in items, in this process.

    A call is let in while anything is left and may leave a debt: who asked for much waits until it is paid.
    """

    def __init__(
        self, items_per_second: Mapping[str, float] = ITEMS_PER_SECOND, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rates = items_per_second
        self._clock = clock
        self._left: dict[tuple[str, str], tuple[float, float]] = {}

    def limit(self, purpose: str) -> float:
        """Return the items a second that each caller may ask for."""
        return self._rates[purpose]

    def wait_seconds(self, caller: str, purpose: str | None, items: int) -> int:
        """Take items and return 0, or return in how many seconds to ask again and take nothing."""
        if purpose is None:
            return 0
        rate, now = self._rates[purpose], self._clock()
        left, since = self._left.get((caller, purpose), (rate * BURST_SECONDS, now))
        left = min(rate * BURST_SECONDS, left + (now - since) * rate)
        if left <= 0:
            return max(1, math.ceil(-left / rate))
        self._left[caller, purpose] = (left - max(items, 1), now)
        return 0
