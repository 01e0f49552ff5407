"""Deliveries as values: initial states, the join of attempts, the lattice."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from routing.domain import (
    ATTEMPTS_MAX,
    OPEN_STATES,
    AttemptResult,
    Delivery,
    DeliveryState,
    Outcome,
    Reply,
    again,
    backoff_seconds,
    initial_state,
    joined_state,
    may_move,
    revise,
    settle,
    stop,
)

NOW = datetime(2026, 5, 4, 9, 0, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
R, S = AttemptResult, DeliveryState
KNOWN = [R.ACCEPTED, R.REFUSED, R.LATER, R.UNREACHED, R.DOUBT]


def delivery(state: S = S.HANDING, **fields: object) -> Delivery:
    values = {
        "message_id": "m",
        "account_id": "a",
        "recipient_token": "rt_x",
        "instruction_digest": "d",
        "content_digest": "c",
        "state": state,
        "epoch": 1,
        "round": 0,
        "sequence": 0,
        "attempts": 1,
        "not_after": LATER,
    }
    return Delivery(**{**values, **fields})


def settled(present: Delivery, results: list[R], result: R, **outcome: object):
    return settle(
        present,
        results,
        Outcome(result, "reason", **outcome),
        attempt=len(results),
        provider="p",
        reply_digest=None,
        now=NOW,
        wait_seconds=10,
    )


@pytest.mark.parametrize(
    ("action", "standing", "not_before", "not_after", "state"),
    [
        ("allow", "good", NOW, LATER, S.HANDING),
        ("allow", "warned", NOW, LATER, S.HANDING),
        ("allow", "limited", NOW, LATER, S.HANDING),
        ("allow", "good", LATER, LATER, S.PLANNED),
        ("allow", "suspended", NOW, LATER, S.HELD),
        ("allow", "blocked", NOW, LATER, S.WITHHELD),
        ("hold", "good", NOW, LATER, S.HELD),
        ("hold", "blocked", NOW, LATER, S.WITHHELD),
        ("block", "blocked", NOW, LATER, S.REFUSED),
        ("allow", "good", NOW, NOW, S.EXPIRED),
        ("an action of a later version", "good", NOW, LATER, S.HELD),
    ],
)
def test_a_delivery_is_planned_by_verdict_window_and_standing(action, standing, not_before, not_after, state):
    found = initial_state(
        action=action, rules=("r",), standing=standing, not_before=not_before, not_after=not_after, now=NOW
    )
    assert found[0] is state
    assert found[1]


@given(st.lists(st.sampled_from([*KNOWN, R.OPEN]), min_size=1, max_size=6))
def test_rule_join_one_accepted_call_makes_it_handed_over_and_a_doubt_is_never_forgotten(results):
    state = joined_state(results)
    if R.ACCEPTED in results:
        assert state is S.HANDED_OVER
    elif R.OPEN in results:
        assert state is S.HANDING
    elif R.DOUBT in results:
        assert state is S.IN_DOUBT
    else:
        assert state in {S.REFUSED, S.PLANNED}


@given(st.sampled_from(list(S)), st.sampled_from(list(S)))
def test_rule_lattice_nothing_terminal_moves_but_handed_over_to_delivered(present, to):
    if present in OPEN_STATES:
        assert may_move(present, to)
    elif present is S.IN_DOUBT:
        assert may_move(present, to) == (to not in {*OPEN_STATES, S.IN_DOUBT})
    else:
        assert may_move(present, to) == ((present, to) == (S.HANDED_OVER, S.DELIVERED))


def test_a_refusal_for_now_is_tried_again_after_the_longer_of_backoff_and_retry_after():
    change = settled(delivery(), [R.LATER], R.LATER, retry_after_seconds=90)
    assert change is not None
    assert (change.state, change.due_at) == (S.PLANNED, NOW + timedelta(seconds=90))


def test_a_reply_code_goes_into_the_change():
    change = settled(delivery(), [R.REFUSED], R.REFUSED, reply=Reply(550, "5.1.1", "no such user"))
    assert change is not None
    assert (change.state, change.reply_code, change.sequence) == (S.REFUSED, 550, 1)


def test_rule_outcome_by_attempt_an_answer_that_comes_after_the_lease_ended_lifts_the_doubt():
    change = settled(delivery(S.IN_DOUBT, sequence=1), [R.ACCEPTED], R.ACCEPTED)
    assert change is not None
    assert (change.state, change.sequence, change.round) == (S.HANDED_OVER, 2, 0)


def test_a_late_answer_that_nothing_was_accepted_sends_a_doubt_back_in_a_new_round():
    change = settled(delivery(S.IN_DOUBT, sequence=1), [R.UNREACHED], R.UNREACHED)
    assert change is not None
    assert (change.state, change.round) == (S.PLANNED, 1)


def test_a_late_answer_does_not_release_what_a_standing_holds():
    assert settled(delivery(S.HELD), [R.DOUBT, R.LATER], R.LATER) is not None
    assert settled(delivery(S.HELD), [R.LATER], R.LATER) is None


def test_attempts_are_bounded():
    change = settled(delivery(), [R.LATER] * ATTEMPTS_MAX, R.LATER)
    assert change is not None
    assert change.state is S.EXPIRED


@pytest.mark.parametrize(
    ("results", "state"), [([], S.REFUSED), ([R.LATER], S.REFUSED), ([R.DOUBT], S.IN_DOUBT), ([R.LATER, R.OPEN], None)]
)
def test_a_block_stops_what_is_leased_unless_a_call_may_be_open(results, state):
    change = revise(delivery(S.HANDING), results, "block", "why", NOW)
    assert (change and change.state) == state


def test_a_provider_that_is_not_reached_ends_nothing_however_often_it_is_tried():
    results = [R.LATER] * (ATTEMPTS_MAX - 1) + [R.UNREACHED] * ATTEMPTS_MAX
    change = settled(delivery(), results, R.UNREACHED)
    assert change is not None
    assert change.state is S.PLANNED
    change = settled(delivery(), [*results, R.LATER], R.LATER)
    assert change is not None
    assert change.state is S.EXPIRED


@pytest.mark.parametrize("state", [S.WITHHELD, S.EXPIRED])
def test_rule_join_no_negative_is_said_of_a_message_that_a_provider_may_have_accepted(state):
    assert stop(delivery(S.PLANNED), [R.DOUBT, R.LATER], state, "why", NOW).state is S.IN_DOUBT
    assert stop(delivery(S.PLANNED), [R.LATER], state, "why", NOW).state is state


def test_a_hold_is_no_negative():
    assert stop(delivery(S.PLANNED), [R.DOUBT], S.HELD, "why", NOW).state is S.HELD


@given(st.integers(1, 10_000), st.floats(0.1, 60), st.floats(0, 0.999))
def test_backoff_grows_and_is_bounded(attempt, first, jitter):
    pause = backoff_seconds(attempt, first, jitter)
    assert 0 < pause <= 3600 * 1.25
    assert backoff_seconds(attempt + 1, first, jitter) >= pause


class DeliveryLife(RuleBasedStateMachine):
    """One delivery under begun attempts, answers, lost workers, holds, releases, ends of window and resends."""

    def __init__(self) -> None:
        super().__init__()
        self.row = delivery(S.HANDING, attempts=0)
        self.results: list[R] = []
        self.resends = 0
        self.said: list[tuple[int, S]] = []

    def move(self, change) -> None:
        if change is None:
            return
        if change.round == self.row.round:
            assert may_move(self.row.state, change.state)
        else:
            assert change.round == self.row.round + 1
            assert self.row.state is S.IN_DOUBT
        self.row = replace(self.row, state=change.state, sequence=change.sequence, round=change.round)
        self.said.append((change.sequence, change.state))

    @precondition(lambda self: self.row.state is S.HANDING and R.OPEN not in self.results and len(self.results) < 8)
    @rule()
    def begin(self) -> None:
        self.results.append(R.OPEN)

    @precondition(lambda self: R.OPEN in self.results or R.DOUBT in self.results)
    @rule(result=st.sampled_from(KNOWN), place=st.integers(0, 7))
    def answer(self, result, place) -> None:
        unknown = [n for n, known in enumerate(self.results) if known in {R.OPEN, R.DOUBT}]
        number = unknown[place % len(unknown)]
        self.results[number] = result
        change = settled(self.row, self.results, result)
        self.move(change)

    @precondition(lambda self: self.row.state is S.HANDING)
    @rule()
    def lose_worker(self) -> None:
        if R.OPEN in self.results:
            self.results = [R.DOUBT if known is R.OPEN else known for known in self.results]
            self.move(stop(self.row, self.results, joined_state(self.results), "lost", NOW))

    @precondition(lambda self: self.row.state is S.PLANNED)
    @rule()
    def claim(self) -> None:
        self.row = replace(self.row, state=S.HANDING, epoch=self.row.epoch + 1)

    @precondition(lambda self: self.row.state in {S.PLANNED, S.HELD})
    @rule(state=st.sampled_from([S.WITHHELD, S.EXPIRED, S.HELD, S.PLANNED]))
    def end_or_hold(self, state) -> None:
        self.move(stop(self.row, self.results, state, "why", NOW))

    @precondition(lambda self: self.row.state is S.IN_DOUBT and self.resends < 2)
    @rule()
    def resend(self) -> None:
        self.resends += 1
        self.move(again(self.row, "a person says so", NOW))

    @rule()
    def wait(self) -> None:
        """A delivery at rest has nothing else to do."""

    @invariant()
    def an_accepted_message_is_never_called_anything_else(self) -> None:
        if R.ACCEPTED in self.results:
            assert self.row.state is S.HANDED_OVER

    @invariant()
    def no_negative_is_untrue(self) -> None:
        if self.row.state in {S.REFUSED, S.WITHHELD, S.EXPIRED}:
            assert not {R.ACCEPTED, R.DOUBT, R.OPEN} & set(self.results)

    @invariant()
    def a_doubt_is_real(self) -> None:
        if self.row.state is S.IN_DOUBT:
            assert R.DOUBT in self.results

    @invariant()
    def receipts_are_numbered_without_gap(self) -> None:
        assert [number for number, _ in self.said] == list(range(1, len(self.said) + 1))


TestDeliveryLife = DeliveryLife.TestCase
