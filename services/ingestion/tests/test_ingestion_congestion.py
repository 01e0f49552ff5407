from __future__ import annotations

import pytest

from ingestion.congestion import Bounds, Load, congestion

BOUNDS = Bounds(outbox_records_max=100, outbox_seconds_max=10.0, backlog_seconds_max=60.0, singles_factor=3.0)


@pytest.mark.parametrize("load", [Load(), Load(100, 10.0, 60.0)])
def test_within_its_bounds_the_road_takes_batches(load):
    assert congestion(load, BOUNDS, single=False) is None


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (Load(101, 0, 0), "wait for Kafka"),
        (Load(1, 10.1, 0), "waited long for Kafka"),
        (Load(0, 0, 61), "screening and routing are behind"),
    ],
)
def test_beyond_a_bound_batches_are_asked_to_come_back_and_singles_pass(load, reason):
    problem = congestion(load, BOUNDS, single=False)
    assert (problem.status, problem.kind, problem.retry_after_seconds) == (503, "road-congested", 2)
    assert reason in problem.detail
    assert congestion(load, BOUNDS, single=True) is None


@pytest.mark.parametrize("load", [Load(301, 0, 0), Load(0, 30.1, 0), Load(0, 0, 181)])
def test_beyond_the_second_bound_nobody_passes(load):
    assert congestion(load, BOUNDS, single=True).kind == "road-congested"
