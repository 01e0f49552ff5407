"""What is kept of a message so that it is found again."""

from __future__ import annotations

from hashlib import sha256

import pytest

from moderation.lists import prefix_of
from moderation.mail import AttachmentPart, Link, MailParts
from moderation.rejudging.hashes import (
    HASHES_MAX,
    SKETCHES,
    SKETCHES_ALIKE,
    hashes_of,
    listed_address,
    of_hex,
    signed,
    sketches_of,
    unsigned_hex,
)

LETTER = (
    b"dear customer, your parcel could not be delivered because the address on it is not complete. please pay the small "
    b"fee of 1.99 within two days, or it goes back to its sender. you find the number of your parcel and the form for the "
    b"payment on our page. we thank you for your trust and wish you a pleasant day. your delivery team in the north. "
)


def alike(one, other):
    return len(set(sketches_of(one)) & set(sketches_of(other))) >= SKETCHES_ALIKE


def test_texts_that_differ_in_a_word_are_alike_and_others_are_not():
    assert alike(LETTER, LETTER.replace(b"customer", b"ms mueller"))
    assert alike(LETTER, LETTER + b"ref 8812")
    other = (
        b"good day, thank you for the order of yesterday. we deliver on thursday before noon, and bring the vase. " * 3
    )
    assert not alike(LETTER, other)


def test_most_texts_with_a_changed_word_are_alike_and_halves_are_not():
    words = LETTER.split()
    changed = [b" ".join([*words[:n], b"zzz", *words[n + 1 :]]) for n in range(len(words))]
    assert sum(alike(LETTER, text) for text in changed) >= 0.75 * len(changed)
    half = len(LETTER) // 2
    assert not alike(LETTER, LETTER[:half] + bytes(reversed(LETTER[half:])))


def test_a_text_that_says_too_little_has_no_sketches():
    assert sketches_of(b"your code is 4711") == []
    assert len(sketches_of(LETTER)) == SKETCHES


def test_a_host_that_is_listed_is_found_in_every_link_to_it_and_a_page_only_in_its_own():
    parts = MailParts("", links=(Link("https://login.shop.example.com/pay?x=1"), Link("mailto:a@b.example")))
    sketches, carried = hashes_of(parts, b"")
    assert sketches == 0
    for listed in ("shop.example.com", "https://example.com/", "https://login.shop.example.com/pay?x=1"):
        assert signed(listed_address(listed)) in carried
    for other in ("https://login.shop.example.com/other", "example.org", "https://com/"):
        assert signed(listed_address(other)) not in carried
    assert listed_address("mailto:a@b.example") is None


def test_files_are_kept_by_the_beginning_of_their_sha_256():
    parts = MailParts("", attachments=(AttachmentPart("a.pdf", "application/pdf", b"x"),))
    assert hashes_of(parts, b"")[1] == (signed(sha256(b"x").digest()[:8]),)


def test_a_message_with_thousands_of_links_keeps_a_bounded_number():
    links = tuple(Link(f"https://h{n}.a.b.c.example/{n}") for n in range(5000))
    sketches, carried = hashes_of(MailParts("", links=links), LETTER)
    assert sketches == SKETCHES
    assert len(carried) == HASHES_MAX
    assert list(carried[:SKETCHES]) == sketches_of(LETTER), "sketches come first"


@pytest.mark.parametrize("number", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_a_hash_is_the_same_number_in_the_database_and_in_events(number):
    assert of_hex(unsigned_hex(number)) == [number]
    assert of_hex(unsigned_hex(number) * 4) == [number] * 4


def test_hashes_say_nothing_of_what_they_are_made_of():
    _, carried = hashes_of(MailParts("", links=(Link("https://anna-mueller.example.com/"),)), LETTER)
    assert signed(prefix_of("anna-mueller.example.com/")) in carried
    assert all(isinstance(number, int) for number in carried)
