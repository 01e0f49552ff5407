from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.http.problems import Problem
from ingestion.domain import (
    VALIDITY_MAX,
    Authority,
    Grant,
    RulesInForce,
    TokenBucket,
    check_account,
    check_basis,
    check_rate,
    checked_key,
    used_grants,
    validity,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
RULES = RulesInForce("3", "c" * 64)
GRANT = Grant("g-1", frozenset({"email"}), None, granter_is_active_administrator=True)
USER = Authority(
    account_id="a",
    user_id="u",
    role="user",
    user_active=True,
    key_expires_at=None,
    accepts_rules_in_force=True,
    standing="good",
    grants=(GRANT,),
    inboxes={},
)


def refusal(check, *arguments, **named) -> Problem:
    with pytest.raises(Problem) as caught:
        check(*arguments, **named)
    return caught.value


def test_a_key_that_nobody_has_opens_nothing():
    problem = refusal(checked_key, None, NOW)
    assert (problem.status, problem.kind, problem.field) == (401, "unknown-key", "authorization")


def test_a_key_opens_nothing_from_the_moment_it_expires():
    assert checked_key(replace(USER, key_expires_at=NOW + timedelta(seconds=1)), NOW)
    assert refusal(checked_key, replace(USER, key_expires_at=NOW), NOW).kind == "expired-key"


def test_a_user_sends_under_his_live_grant():
    assert used_grants(USER, "email", NOW) == ("g-1",)


def test_an_administrator_needs_no_grant():
    assert used_grants(replace(USER, role="administrator", grants=()), "email", NOW) == ()


@pytest.mark.parametrize(
    "authority",
    [
        replace(USER, grants=()),
        replace(USER, user_active=False),
        replace(USER, role="administrator", user_active=False),
        replace(USER, grants=(replace(GRANT, ends_at=NOW),)),
        replace(USER, grants=(replace(GRANT, granter_is_active_administrator=False),)),
        replace(USER, grants=(replace(GRANT, tools=frozenset({"telephony"})),)),
    ],
    ids=["no grant", "user inactive", "administrator inactive", "grant ended", "granter gone", "other tool"],
)
def test_no_live_grant_from_an_active_administrator_cites_r4_1(authority):
    problem = refusal(used_grants, authority, "email", NOW)
    assert (problem.status, problem.kind, problem.clause) == (403, "no-grant", "R4.1")


def test_the_first_grant_that_covers_the_tool_is_named():
    ended = replace(GRANT, id="g-0", ends_at=NOW)
    assert used_grants(replace(USER, grants=(ended, GRANT)), "email", NOW) == ("g-1",)


def test_rules_that_were_not_accepted_are_named_with_their_version():
    problem = refusal(check_account, replace(USER, accepts_rules_in_force=False), RULES)
    assert (problem.status, problem.kind, problem.clause) == (403, "rules-not-accepted", "R0")
    assert problem.document()["rules_version"] == "3"


@pytest.mark.parametrize("standing", ["good", "warned", "limited", "suspended"])
def test_an_account_that_is_not_blocked_may_send(standing):
    check_account(replace(USER, standing=standing), RULES)


def test_a_blocked_account_is_refused_by_r7():
    problem = refusal(check_account, replace(USER, standing="blocked"), RULES)
    assert (problem.status, problem.kind, problem.clause) == (403, "account-blocked", "R7")


def test_rules_come_before_standing():
    both = replace(USER, accepts_rules_in_force=False, standing="blocked")
    assert refusal(check_account, both, RULES).clause == "R0"


def test_who_sends_too_fast_is_told_when_to_come_back():
    check_rate(0.0)
    problem = refusal(check_rate, 1.2)
    assert (problem.status, problem.retry_after_seconds, problem.document()["retry_after"]) == (429, 2, 2)


def test_a_legal_basis_is_needed():
    check_basis(vouched_for=True)
    problem = refusal(check_basis, vouched_for=False)
    assert (problem.status, problem.clause, problem.field) == (422, "R4.3", "legal_basis")


def test_a_message_is_valid_for_three_days_unless_it_says_otherwise():
    window = validity(None, None, NOW)
    assert (window.not_before, window.not_after) == (NOW, NOW + timedelta(hours=72))


def test_three_days_count_from_a_later_beginning():
    begin = NOW + timedelta(days=5)
    assert validity(begin, None, NOW).not_after == begin + timedelta(hours=72)


@pytest.mark.parametrize(
    ("not_before", "not_after", "field", "limit"),
    [
        (None, NOW, "not_after", None),
        (None, NOW + timedelta(days=31), "not_after", 30),
        (NOW + timedelta(hours=2), NOW + timedelta(hours=1), "not_after", None),
        (NOW + timedelta(days=40), None, "not_before", 30),
        (datetime.max.replace(tzinfo=UTC), None, "not_before", 30),
    ],
    ids=["over", "too long", "ends before it begins", "begins too late", "never begins"],
)
def test_a_window_without_time_in_it_is_refused(not_before, not_after, field, limit):
    problem = refusal(validity, not_before, not_after, NOW)
    assert (problem.status, problem.kind, problem.field, problem.limit) == (422, "invalid-window", field, limit)


MOMENTS = st.none() | st.datetimes(
    datetime(2026, 10, 1),  # noqa: DTZ001
    datetime(2027, 2, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(MOMENTS, MOMENTS)
def test_every_window_that_is_given_out_leaves_time_and_ends_within_thirty_days(not_before, not_after):
    try:
        window = validity(not_before, not_after, NOW)
    except Problem:
        return
    assert window.not_before < window.not_after
    assert NOW < window.not_after <= NOW + VALIDITY_MAX


@given(st.lists(st.floats(0, 5), max_size=50))
def test_a_bucket_never_gives_more_than_its_burst_and_what_flowed_in(pauses):
    bucket, moment, taken = TokenBucket.full(2.0, 5.0, 100.0), 100.0, 0
    for pause in pauses:
        moment += pause
        taken += bucket.take(moment) == 0
    assert taken <= 5 + 2 * (moment - 100.0) + 1e-6


def test_an_empty_bucket_says_when_there_is_one_token_again():
    bucket = TokenBucket.full(2.0, 1.0, 0.0)
    assert bucket.take(0.0) == 0
    assert bucket.take(0.0) == pytest.approx(0.5)
    assert bucket.take(0.5) == 0
