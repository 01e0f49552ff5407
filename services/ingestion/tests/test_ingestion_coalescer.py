from __future__ import annotations

import asyncio

import pytest

from ingestion.coalescer import ITEMS_MAX, Coalescer


class Recorder:
    def __init__(self, pause_seconds=0.0):
        self.batches = []
        self.pause_seconds = pause_seconds
        self.running = self.most_running = 0

    async def __call__(self, items):
        self.batches.append(list(items))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(self.pause_seconds)
        self.running -= 1
        if "bad" in items:
            raise ValueError("bad")
        return [item * 2 for item in items]


@pytest.fixture
async def coalescing():
    started = []

    def start(work, **settings):
        coalescer = Coalescer(work, **settings)
        coalescer.start()
        started.append(coalescer)
        return coalescer

    yield start
    for coalescer in started:
        await coalescer.stop()


async def test_each_request_gets_the_answers_to_its_own_items(coalescing):
    coalescer = coalescing(Recorder(), cycle_seconds=0.001)
    answers = await asyncio.gather(*(coalescer.submit([n, n + 1], 10) for n in range(50)))
    assert answers == [[2 * n, 2 * n + 2] for n in range(50)]


async def test_requests_that_arrive_within_a_cycle_travel_together(coalescing):
    work = Recorder()
    coalescer = coalescing(work, cycle_seconds=0.05)
    await asyncio.gather(*(coalescer.submit([n], 10) for n in range(20)))
    await asyncio.gather(*(coalescer.submit([n], 10) for n in range(20)))
    assert len(work.batches) <= 3


async def test_a_request_is_never_split_over_two_batches(coalescing):
    work = Recorder()
    coalescer = coalescing(work, cycle_seconds=0.01)
    await asyncio.gather(*(coalescer.submit([n] * 300, 10) for n in range(5)))
    assert [len(batch) for batch in work.batches] == [300] * 5


async def test_a_full_batch_does_not_wait_for_the_cycle(coalescing):
    work = Recorder()
    coalescer = coalescing(work, cycle_seconds=30)
    async with asyncio.timeout(5):
        await asyncio.gather(*(coalescer.submit([n] * ITEMS_MAX, 10) for n in range(3)))
    assert len(work.batches) == 3


async def test_large_bodies_do_not_share_a_batch(coalescing):
    work = Recorder()
    coalescer = coalescing(work, cycle_seconds=0.01)
    await asyncio.gather(*(coalescer.submit([n], 10 * 1024 * 1024) for n in range(3)))
    assert [len(batch) for batch in work.batches] == [1, 1, 1]


async def test_only_so_many_batches_are_in_flight(coalescing):
    work = Recorder(pause_seconds=0.02)
    coalescer = coalescing(work, cycle_seconds=0.0, batches_in_flight_max=2)
    await asyncio.gather(*(coalescer.submit([n] * 400, 10) for n in range(8)))
    assert work.most_running == 2


async def test_a_failed_batch_fails_its_requests_and_no_other(coalescing):
    coalescer = coalescing(Recorder(), cycle_seconds=0.001)
    with pytest.raises(ValueError, match="bad"):
        await coalescer.submit(["bad"], 10)
    assert await coalescer.submit(["x"], 10) == ["xx"]
    assert (coalescer.waiting, coalescer.waiting_bytes) == (0, 0)


async def test_a_request_that_went_away_disturbs_nobody(coalescing):
    coalescer = coalescing(Recorder(pause_seconds=0.02), cycle_seconds=0.001)
    gone = asyncio.create_task(coalescer.submit([1], 10))
    stays = asyncio.create_task(coalescer.submit([2], 10))
    await asyncio.sleep(0.005)
    gone.cancel()
    assert await stays == [4]


async def test_stopping_finishes_what_is_in_flight():
    coalescer = Coalescer(Recorder(pause_seconds=0.05), cycle_seconds=0.001)
    coalescer.start()
    request = asyncio.create_task(coalescer.submit([1], 10))
    await asyncio.sleep(0.02)
    await coalescer.stop()
    assert await request == [2]
