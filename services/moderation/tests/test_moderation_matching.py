import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.matching import Hit, PatternBank, PatternError, expand_spaces, preferred_backend

PATTERNS = ["\\bfake (passports?|ids?)\\b", "über", "a.{0,5}b", "kiss", "ставки", "\\bx\\b", "é+"]
BACKENDS = sorted({preferred_backend(), "re2"})


def found(bank, data):
    return bank.find_all([data])[0]


@pytest.mark.parametrize("backend", BACKENDS)
class TestEachEngine:
    def test_finds_the_leftmost_place_of_each_pattern_once(self, backend):
        bank = PatternBank(PATTERNS, backend)
        assert found(bank, b"a fake id and a FAKE\r\n passport") == [Hit(0, 2, 9)]

    def test_case_is_ignored_beyond_ascii(self, backend):
        assert [hit.pattern for hit in found(PatternBank(PATTERNS, backend), "ÜBER СТАВКИ".encode())] == [1, 4]

    def test_a_gap_keeps_its_bound(self, backend):
        bank = PatternBank(["a.{0,5}b"], backend)
        assert found(bank, b"a123456b") == []
        assert found(bank, b"a1234\nb") == [Hit(0, 0, 7)]

    def test_no_patterns_or_no_text_find_nothing(self, backend):
        assert found(PatternBank([], backend), b"text") == []
        assert found(PatternBank(PATTERNS, backend), b"") == []

    def test_a_pattern_that_cannot_be_compiled_is_named(self, backend):
        with pytest.raises(PatternError) as caught:
            PatternBank(["good", "(?=look)"], backend)
        assert caught.value.index == 1

    def test_a_pattern_that_matches_nothing_at_all_is_refused(self, backend):
        with pytest.raises(PatternError, match="every message"):
            PatternBank(["x*"], backend)

    def test_a_pattern_of_which_nothing_must_be_there_is_refused(self, backend):
        with pytest.raises(PatternError, match="may be empty") as caught:
            PatternBank(["good", "\\b\\w*\\b"], backend)
        assert caught.value.index == 1

    def test_of_two_sides_the_rarer_is_looked_for_and_both_must_be_there(self, backend):
        bank = PatternBank(["(you|your).{0,9}(bomb|gun)"], backend)
        assert not bank._index.candidates(b"you and your order")
        assert found(bank, b"a gun, you see") == []
        assert found(bank, b"your gun") == [Hit(0, 0, 8)]

    def test_a_word_is_not_looked_for_in_a_longer_one(self, backend):
        bank = PatternBank(["\\b(confirme|verifique)\\b"], backend)
        assert not bank._index.candidates(b"your order is confirmed")
        assert found(bank, b"confirme, por favor") == [Hit(0, 0, 8)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["fake", "ID", "ids", " ", "\n", "\u00a0", "ü", "Über", "a", "b", "é", "k", "iss", "x", "ставки", "-"]
        ),
        max_size=20,
    )
)
def test_the_engines_agree(engines, pieces):
    data = "".join(pieces).encode()
    first, *others = [found(engine, data) for engine in engines]
    assert all(other == first for other in others)


ATOMS = [
    "a",
    "b",
    "(a |b)",
    "( a)+",
    "\\w",
    " ",
    " ?",
    "\\s",
    "[ b-]",
    "[ -]?",
    ".",
    ".{0,2}",
    "[^b]{0,2}",
    "[^.-]*",
    "\\W+",
    "\\b",
    "(b| )?",
    "b{1,2}",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(ATOMS), min_size=1, max_size=5), st.sampled_from(["", "\\b"]), st.data())
def test_whatever_white_space_there_is_nothing_that_occurs_is_missed(atoms, border, data):
    pattern = f"b{''.join(atoms)}{border}"
    text = data.draw(
        st.from_regex(re.compile(expand_spaces(pattern), re.ASCII | re.DOTALL), alphabet=st.sampled_from("ab -\n\t"))
    )
    for backend in BACKENDS:
        bank = PatternBank([pattern], backend)
        assert found(bank, text.encode()) == bank.locate_all(0, text.encode(), 1)


@pytest.fixture(scope="module")
def engines():
    return [PatternBank(PATTERNS, backend) for backend in BACKENDS]


def test_a_space_stands_for_white_space_outside_classes_only():
    assert expand_spaces("a  b") == expand_spaces("a b")
    assert expand_spaces("[a b]") == "[a b]"
    assert expand_spaces("a\\ b") == "a\\ b"
