"""No message takes more than a quarter of a second, whatever it holds: processor time of reading and judging it."""

from __future__ import annotations

import time

import pytest
from hostile_messages import MAILS, TEXTS, filled, html, plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moderation.examination import Case
from moderation.mail import MailParts, read_mail
from moderation.models import ModelBank
from moderation.models.weights import WEIGHTS
from moderation.screening import Screener

SECONDS_MAX = 0.25


@pytest.fixture(scope="module")
def screener(policy):
    """The shipped policy with the shipped models, warm."""
    made = Screener(policy, ModelBank.load(WEIGHTS))
    made.screen([Case(read_mail(b"Subject: warm\r\n\r\nPlease confirm your order.\r\n"), "email")])
    return made


def seconds(screener, content):
    began = time.process_time()
    (decision,) = screener.screen([Case(read_mail(content), "email")])
    assert decision.action in {"allow", "hold", "block"}
    return time.process_time() - began


@pytest.mark.parametrize("name", MAILS)
def test_a_hostile_mail_is_judged_in_time(screener, name):
    taken = min(seconds(screener, MAILS[name]), seconds(screener, MAILS[name]))
    assert taken < SECONDS_MAX, f"{1000 * taken:.0f} ms"


@pytest.mark.parametrize("name", ["combining marks", "marks on each letter", "one letter", "nulls", "links"])
def test_what_could_not_be_read_of_a_megabyte_is_said(screener, name):
    (decision,) = screener.screen([Case(read_mail(plain(TEXTS[name])), "email")])
    assert {"text-too-long", "links"} & set(decision.degraded)


PIECES = st.sampled_from(
    ["<", ">", "</a", "<a href=", "&#x41;", "&amp", "=41", "\u0301", "\u200b", "\u0430", "\uff41", "f r e e ", "v1agr4 ", "http://",
     "paypa1.tk/", "@", ".", " ", "\r\n", "--b", "verify your ", "the ", "!!", "\ufdfa", "\U0001f1eb", "\x00", "x" * 200]
)  # fmt: skip
slowly = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@slowly
@given(pieces=st.lists(PIECES, min_size=1, max_size=8), in_html=st.booleans())
def test_any_mixture_of_hostile_pieces_repeated_to_a_megabyte_is_judged_in_time(screener, pieces, in_html):
    text = filled("".join(pieces))
    content = html(text) if in_html else plain(text)
    taken = min(seconds(screener, content), seconds(screener, content))
    assert taken < SECONDS_MAX, f"{1000 * taken:.0f} ms"


@slowly
@given(content=st.binary(max_size=20_000))
def test_any_bytes_are_judged(screener, content):
    assert seconds(screener, content) < SECONDS_MAX


def test_nothing_at_all_is_judged(screener):
    (decision,) = screener.screen([Case(MailParts(""), "email")])
    assert decision.action == "allow"
