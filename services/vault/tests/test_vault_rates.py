from __future__ import annotations

import typing

import pytest

from vault.config import Purpose
from vault.domain import ITEMS_PER_SECOND, PURPOSES
from vault.rates import BURST_SECONDS, Rates


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def rates(clock):
    return Rates({"review": 10.0, "delivery": 1000.0}, clock)


def test_every_purpose_of_the_caller_table_has_a_rate_and_can_be_set():
    assert set(ITEMS_PER_SECOND) == set(typing.get_args(Purpose)) == PURPOSES - {None}


def test_five_seconds_of_the_rate_may_come_at_once(rates):
    assert [rates.wait_seconds("moderation", "review", 1) for _ in range(int(10 * BURST_SECONDS))] == [0] * 50
    assert rates.wait_seconds("moderation", "review", 1) == 1


def test_who_keeps_to_the_rate_is_never_turned_away(rates, clock):
    for _ in range(1000):
        assert rates.wait_seconds("routing", "delivery", 100) == 0
        clock.now += 0.1


def test_a_large_call_leaves_a_debt_that_is_waited_for(rates, clock):
    assert rates.wait_seconds("moderation", "review", 1000) == 0
    assert rates.wait_seconds("moderation", "review", 1) == 95
    clock.now += 94.9
    assert rates.wait_seconds("moderation", "review", 1) == 1
    clock.now += 0.2
    assert rates.wait_seconds("moderation", "review", 1) == 0


def test_a_call_that_was_turned_away_costs_nothing(rates, clock):
    rates.wait_seconds("moderation", "review", 51)
    for _ in range(100):
        rates.wait_seconds("moderation", "review", 1000)
    clock.now += 0.2
    assert rates.wait_seconds("moderation", "review", 1) == 0


def test_callers_and_purposes_do_not_spend_each_others_rate(rates):
    rates.wait_seconds("moderation", "review", 1000)
    assert rates.wait_seconds("enforcement", "review", 1) == 0
    assert rates.wait_seconds("moderation", "delivery", 1) == 0


def test_an_empty_call_counts_as_one_item(rates):
    assert [rates.wait_seconds("moderation", "review", 0) for _ in range(51)][-1] == 1


def test_a_long_rest_saves_up_no_more_than_the_burst(rates, clock):
    rates.wait_seconds("moderation", "review", 1)
    clock.now += 86_400
    rates.wait_seconds("moderation", "review", 51)
    assert rates.wait_seconds("moderation", "review", 1) == 1
