from __future__ import annotations

import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion.mime import ContentError, parse_address


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("erika@example.org", "erika@example.org"),
        ("Erika.Muster+tag@EXAMPLE.Org", "Erika.Muster+tag@example.org"),
        ("o'brien@sub.example.co.uk", "o'brien@sub.example.co.uk"),
        ("info@Bücher.example", "info@xn--bcher-kva.example"),
        ("info@straße.example", "info@xn--strae-oqa.example"),
        ("info@例え。テスト", "info@xn--r8jz45g.xn--zckzah"),
        ("jo\u0308rg@example.org", "jörg@example.org"),
    ],
)
def test_an_address_gets_its_normal_form(written, normal):
    assert parse_address(written, field="recipient.address") == normal
    assert parse_address(normal, field="recipient.address") == normal


@pytest.mark.parametrize(
    "written",
    [
        "", "@", "erika", "erika@", "@example.org", "a@b@example.org", "erika@localhost", "erika@-a.example",
        "erika@a-.example", "erika@a..example", "erika@.example", "erika@example.org.", "erika@192.0.2.1",
        "erika@[192.0.2.1]", ".erika@example.org", "erika.@example.org", "e..a@example.org", '"e a"@example.org',
        " erika@example.org", "erika@example.org ", "erika@exam ple.org", "eri\r\nka@example.org", "erika@example.org\n",
        "eri\u202eka@example.org", "eri\u2028ka@example.org", "eri\ud800ka@example.org", "erika@\ud800.example",
        "erika@xn--\u00fc.example", "e" * 65 + "@example.org", "erika@" + "a" * 64 + ".example", "é" * 33 + "@example.org",
        "Erika <erika@example.org>", "erika@example.org,b@example.org", "erika@" + "é." * 120 + "example",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_without_repeating_it(written):
    with pytest.raises(ContentError) as caught:
        parse_address(written, field="recipient.address")
    assert caught.value.field == "recipient.address"
    assert len(written) < 5 or written not in caught.value.reason


@pytest.mark.parametrize("written", ["a" * 100_001, "a." * 50_000 + "@b.example", "a@" + "b." * 50_000, "é" * 100_001])
def test_an_address_of_100_001_characters_costs_nothing(written):
    def refuse():
        with pytest.raises(ContentError) as caught:
            parse_address(written, field="sender")
        assert caught.value.limit == 254

    assert min(timeit.repeat(refuse, number=1, repeat=5)) < 0.001


@given(st.text(st.sampled_from('ab.-@é\u0308_ "<>'), max_size=40) | st.text(max_size=40))
def test_a_normal_form_is_its_own_normal_form(text):
    try:
        normal = parse_address(text, field="sender")
    except ContentError:
        return
    assert parse_address(normal, field="sender") == normal
