"""Cases as values: clocks, samples, agreement; and what a reviewer sees of a message."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from uuid import uuid4

import pytest

from moderation.review.cases import Clocks, agreement, case_id_of, is_sampled, likeness_of, severity_of
from moderation.review.showing import BLUR, blurred, shown

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def test_a_case_has_the_shortest_clock_of_its_clauses_and_never_outlasts_its_message():
    clocks = Clocks({"R3.e": 480, "R5.2": 120})
    assert clocks.due_at(["R3.e", "R5.2"], NOON, NOON + DAY) == NOON + timedelta(hours=2)
    assert clocks.due_at(["R9"], NOON, NOON + DAY) == NOON + timedelta(hours=8)
    assert clocks.due_at([], NOON, NOON + DAY) == NOON + timedelta(hours=8)
    assert clocks.due_at(["R3.e"], NOON, NOON + timedelta(minutes=5)) == NOON + timedelta(minutes=5)


def test_the_same_message_has_the_same_case_and_each_kind_its_own():
    assert case_id_of("m", "hold") == case_id_of("m", "hold") != case_id_of("m", "report")


def test_messages_are_alike_by_account_rules_and_what_was_found_whatever_the_order():
    assert likeness_of("a", ["x", "y"], ["1", "2"]) == likeness_of("a", ["y", "x"], ["2", "1", "2"])
    assert likeness_of("a", ["x"], ["1"]) != likeness_of("b", ["x"], ["1"])


def test_the_worst_rule_decides_and_an_unknown_one_is_in_the_middle():
    assert severity_of(["a", "b"], {"a": 1, "b": 5}) == 5
    assert severity_of([], {}) == severity_of(["gone"], {}) == 3


def test_the_second_look_is_drawn_by_digest_in_the_share_that_was_asked_for():
    ids = [uuid4() for _ in range(4000)]
    drawn = [one for one in ids if is_sampled(one, 0.1)]
    assert 280 < len(drawn) < 520
    assert drawn == [one for one in ids if is_sampled(one, 0.1)]
    assert set(drawn) <= {one for one in ids if is_sampled(one, 0.5)}
    assert not any(is_sampled(one, 0.0) for one in ids)
    assert all(is_sampled(one, 1.0) for one in ids)


def test_kappa_is_cohens():
    """The example of Cohen's coefficient in most textbooks: 20, 5, 10, 15 of 50."""
    both = [("release", "release")] * 20 + [("release", "block")] * 5
    both += [("block", "release")] * 10 + [("block", "block")] * 15
    told = agreement(both)
    assert (told.pairs, told.agreed, told.raw) == (50, 35, 0.7)
    assert told.kappa == pytest.approx(0.4)


def test_kappa_is_not_told_where_chance_would_always_agree():
    assert agreement([]) == (0, 0, None, None)
    assert agreement([("block", "block")] * 3) == (3, 3, 1.0, None)
    assert agreement([("block", "release"), ("release", "block")]).kappa == -1.0


def mail():
    message = EmailMessage()
    message["From"] = "Anna <anna@shop.example>"
    message["Subject"] = "Ein Angebot"
    message.set_content("We launder money. Call +49 30 1234.\n")
    message.add_attachment(b"secret bytes", maintype="application", subtype="pdf", filename="plan.pdf")
    return message.as_bytes()


EVIDENCE = [{"rule": "laundering", "part": "text[0]", "start": 3, "end": 16, "digest": "0"}]


def test_a_message_is_blurred_letter_by_letter_so_that_spans_stay():
    seen = shown(mail(), EVIDENCE, reveal=False)
    texts = {part.name: part for part in seen.parts}
    assert texts["text[0]"].text[3:16] == f"{BLUR * 7} {BLUR * 5}"
    assert [(mark.rule, mark.start, mark.end) for mark in texts["text[0]"].marks] == [("laundering", 3, 16)]
    told = "".join(part.text for part in seen.parts) + seen.files[0].filename
    assert not any(character.isalnum() for character in told)
    assert (seen.files[0].content_type, seen.files[0].size_bytes) == ("application/pdf", 12)


def test_a_revealed_message_is_read_as_it_was_written_without_the_bytes_of_its_files():
    seen = shown(mail(), EVIDENCE, reveal=True)
    texts = {part.name: part.text for part in seen.parts}
    assert texts["from[0]"] == "Anna <anna@shop.example>"
    assert texts["subject"] == "Ein Angebot"
    assert texts["text[0]"][3:16] == "launder money"
    assert "secret" not in repr(seen)


@pytest.mark.parametrize("text", ["", "ä1ß _x", "漢字 и", "a\u0301"])
def test_what_is_blurred_is_as_long_as_it_was_and_says_nothing(text):
    hidden = blurred(text)
    assert len(hidden) == len(text)
    assert not any(character.isalnum() for character in hidden)
