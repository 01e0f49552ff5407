"""The ladder of standings: every pair of steps with every decider, and any sequence of decisions."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from common.events.enforcement import Standing
from enforcement.domain import LADDER, Decider, Held, Outcome, decide, severity

DECIDERS = get_args(Decider)
CASES = [
    (Held(standing, decided_by, floor), asked, decider, may_loosen)
    for standing, decided_by, floor, asked, decider, may_loosen in product(
        LADDER, DECIDERS, LADDER, LADDER, DECIDERS, (True, False)
    )
    if severity(floor) <= severity(standing)
]


def test_the_ladder_has_each_standing_of_the_contract_once():
    assert get_args(Standing) == LADDER


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_pair_of_standings_with_each_decider_obeys_the_rules(case):
    held, asked, decider, may_loosen = case
    decision = decide(held, asked, decider, may_loosen=may_loosen)
    before, wanted, after = severity(held.standing), severity(asked), severity(decision.held.standing)

    assert after in (before, wanted), "nothing in between is ever set"
    assert severity(decision.held.floor) <= after, "what a person asked for is never undercut"
    if wanted > before:
        assert decision == type(decision)(Held(asked, decider, decision.held.floor), Outcome.TIGHTENED)
    if not may_loosen:
        assert after == max(before, wanted), "a confirmed complaint climbs or stays"
        assert severity(decision.held.floor) >= severity(held.floor)
    if decider == "machine":
        assert decision.held.floor == held.floor
        assert after >= severity(held.floor)
    if decider == "person" and may_loosen:
        assert decision.held == Held(asked, "person", asked), "a person sets what he asks for"
    if decision.outcome is Outcome.KEPT:
        assert (decision.held.standing, decision.held.decided_by) == (held.standing, held.decided_by)
    assert decision.is_new_revision is (decision.outcome is not Outcome.KEPT)
    assert {
        Outcome.TIGHTENED: after > before,
        Outcome.LOOSENED: after < before,
        Outcome.RESTATED: after == before == wanted,
        Outcome.KEPT: after == before,
    }[decision.outcome]


def test_a_milder_confirmation_keeps_the_present_standing():
    decision = decide(Held("blocked", "person", "blocked"), "warned", "person", may_loosen=False)
    assert (decision.held.standing, decision.outcome) == ("blocked", Outcome.KEPT)


def test_a_machine_does_not_loosen_what_a_person_set():
    held = Held("limited", "person", "limited")
    assert decide(held, "good", "machine", may_loosen=True).outcome is Outcome.KEPT


def test_a_machine_that_tightened_on_top_of_a_person_can_only_come_back_to_the_persons_step():
    held = decide(Held("limited", "person", "limited"), "blocked", "machine", may_loosen=False).held
    assert decide(held, "good", "machine", may_loosen=True).outcome is Outcome.KEPT
    assert decide(held, "limited", "machine", may_loosen=True).outcome is Outcome.LOOSENED


def test_a_milder_confirmation_by_a_person_still_binds_the_machine_that_was_stricter():
    held = Held("suspended", "machine", "good")
    kept = decide(held, "limited", "person", may_loosen=False)
    assert (kept.outcome, kept.held) == (Outcome.KEPT, Held("suspended", "machine", "limited"))
    assert decide(kept.held, "warned", "machine", may_loosen=True).outcome is Outcome.KEPT


class Standings(RuleBasedStateMachine):
    """Any sequence of decisions about one account, against what a reader of the history would expect."""

    def __init__(self):
        super().__init__()
        self.held, self.revision = Held(), 0
        self.person_at_least = "good"

    def apply(self, asked, decider, *, may_loosen):
        before = self.held
        decision = decide(before, asked, decider, may_loosen=may_loosen)
        self.held = decision.held
        self.revision += decision.is_new_revision
        if decision.held != before and decision.outcome is Outcome.KEPT:
            assert decision.held.floor != before.floor

    @rule(asked=st.sampled_from(LADDER[1:]))
    def confirm(self, asked):
        before = severity(self.held.standing)
        self.apply(asked, "person", may_loosen=False)
        self.person_at_least = max(self.person_at_least, asked, key=severity)
        assert severity(self.held.standing) == max(before, severity(asked))

    @rule(asked=st.sampled_from(LADDER))
    def person_sets(self, asked):
        self.apply(asked, "person", may_loosen=True)
        self.person_at_least = asked
        assert self.held.standing == asked

    @rule(asked=st.sampled_from(LADDER), may_loosen=st.booleans())
    def machine_asks(self, asked, may_loosen):
        self.apply(asked, "machine", may_loosen=may_loosen)

    @invariant()
    def what_a_person_asked_for_holds_at_least(self):
        assert self.held.floor == self.person_at_least
        assert severity(self.held.standing) >= severity(self.person_at_least)

    @invariant()
    def a_revision_stands_behind_everything_that_is_not_good(self):
        assert self.revision > 0 or self.held.standing == "good"


Standings.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestStandings = Standings.TestCase
