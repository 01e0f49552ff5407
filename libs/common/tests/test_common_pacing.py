"""Tests of common.pacing."""

from __future__ import annotations

import pytest

from common.pacing import cycle_seconds_after


@pytest.mark.parametrize(
    ("records", "seconds"), [(0, 0.08), (12, 0.08), (60, 0.08), (75, 0.1), (120, 0.16), (499, 0.16), (500, 0.0)]
)
def test_a_cycle_grows_with_what_comes_and_a_full_batch_does_not_wait(records, seconds):
    assert cycle_seconds_after(records, 0.08, records_max=500) == pytest.approx(seconds)


def test_a_steady_500_a_second_stays_at_the_short_cycle_and_2000_do_not():
    def settled(per_second: float) -> float:
        cycle = 0.08
        for _ in range(20):
            cycle = cycle_seconds_after(round(per_second * cycle), 0.08, records_max=500)
        return cycle

    assert settled(500) == pytest.approx(0.08)
    assert settled(2000) == pytest.approx(0.16)
