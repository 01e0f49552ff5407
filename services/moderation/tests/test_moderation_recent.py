"""What accounts did lately, and where a mail says it comes from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from moderation.mail import MailParts, TextPart, read_mail
from moderation.mail.authentication import authentication_failed
from moderation.recent import RecentMessages

MOMENT = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)


def mail(text):
    return MailParts("", (TextPart("text", text),))


def test_messages_of_the_last_minute_are_counted_by_account():
    recent = RecentMessages()
    for second in range(90):
        seen = recent.add("acme", f"t{second}", mail("hello"), MOMENT + timedelta(seconds=second))
    assert seen.messages_per_minute == 61
    assert recent.add("other", "t", mail("hello"), MOMENT).messages_per_minute == 1


def test_texts_that_differ_in_numbers_and_addresses_are_the_same():
    recent = RecentMessages()
    for number in range(9):
        text = f"Your code is {number}: https://a.example/{number}"
        seen = recent.add("acme", f"t{number}", mail(text), MOMENT)
    assert seen.same_text_share == 1.0
    assert recent.add("acme", "t", mail("Something else altogether"), MOMENT).same_text_share == 0.0


def test_overlap_is_the_share_of_the_accounts_recents_that_went_to_this_recipient():
    recent = RecentMessages()
    for number in range(10):
        recent.add("acme", "anna" if number % 2 else f"t{number}", mail(str(number)), MOMENT)
    assert recent.add("acme", "anna", mail("x"), MOMENT).recipient_overlap == 0.5


def test_with_few_messages_shares_are_unknown():
    seen = RecentMessages().add("acme", "t", mail("x"), MOMENT)
    assert (seen.same_text_share, seen.recipient_overlap) == (None, None)


def test_the_account_seen_longest_ago_is_forgotten():
    recent = RecentMessages(accounts_max=2)
    for account in ("one", "two", "three"):
        recent.add(account, "t", mail("x"), MOMENT)
    assert recent.add("one", "t", mail("x"), MOMENT).messages_per_minute == 1


@pytest.mark.parametrize(
    ("header", "failed"),
    [
        ("mx.own.example; spf=pass smtp.mailfrom=a.example; dkim=pass; dmarc=pass", False),
        ("mx.own.example; spf=fail (not allowed; dmarc=pass) smtp.mailfrom=a.example", True),
        ("mx.own.example; spf=fail; dkim=pass", False),
        ("mx.own.example; spf=pass; dmarc=fail (p=reject)", True),
        ("MX.OWN.EXAMPLE 1; dkim=permerror", True),
        ("mx.own.example; none", None),
        ("mx.own.example; dmarc=none; spf=softfail", None),
        ("mx.other.example; dmarc=fail", None),
        ("", None),
        (";" * 100_000, None),
    ],
)
def test_authentication_results_of_our_own_server_tell_whether_the_origin_is_what_it_says(header, failed):
    assert authentication_failed(header, "mx.own.example") is failed
    assert authentication_failed(header, "") is None


def test_only_the_topmost_header_is_read():
    parts = read_mail(
        b"Authentication-Results: mx.own.example;\r\n dmarc=fail\r\nAuthentication-Results: mx.own.example; dmarc=pass\r\n"
        b"From: a@a.example\r\n\r\nhello\r\n"
    )
    assert authentication_failed(parts.authentication_results, "mx.own.example") is True
