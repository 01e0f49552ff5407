"""`waystation doubt`: the decision a person gives, and the list he sees."""

import pytest

from waystation.doubt import chosen_decision, doubt_table, outcome_line
from waystation.errors import CommandError


@pytest.mark.parametrize("decision", ["handed_over", "refused", "resend"])
def test_one_decision_is_taken(decision):
    given = dict.fromkeys(("handed_over", "refused", "resend"), False) | {decision: True}
    assert chosen_decision(**given) == decision


@pytest.mark.parametrize("given", [(False, False, False), (True, True, False), (True, True, True)])
def test_no_decision_or_several_are_refused(given):
    with pytest.raises(CommandError, match=f"{sum(given)} decisions were given") as caught:
        chosen_decision(handed_over=given[0], refused=given[1], resend=given[2])
    assert "exactly one" in caught.value.next_step


def test_each_doubtful_attempt_has_its_line():
    doubt = {
        "message_id": "m",
        "account_id": "a",
        "number": 1,
        "provider": "smtp.default",
        "begun_at": "2026-11-22T18:00:00Z",
        "reason": "connection lost at final dot",
        "duplicates_allowed": False,
    }
    assert doubt_table([doubt, {**doubt, "number": 2}]).row_count == 2


def test_a_delivery_with_an_earlier_doubt_stays_in_doubt_and_says_so():
    attempts = [{"number": 1, "result": "doubt"}, {"number": 2, "result": "refused"}]
    line = outcome_line({"message_id": "m", "state": "in_doubt", "reason": "lost", "attempts": attempts})
    assert line == "m stays in doubt: attempt 1 may have arrived too; resolve again"


def test_a_decision_is_answered_with_the_state_it_led_to():
    delivery = {"message_id": "m", "state": "handed_over", "reason": "an operator found out", "attempts": []}
    assert outcome_line(delivery) == "m is handed over: an operator found out"
