import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.language import _LITTLE_WORDS, language_of

WORDS = sorted({word for words in _LITTLE_WORDS.values() for word in words.split()})


def counted_one_by_one(text):
    """Return what `language_of` says of a text in Latin letters, by counting each language's words on its own."""
    there = set(text[:400].split())
    counts = {language: len(there & set(words.split())) for language, words in _LITTLE_WORDS.items()}
    best = max(counts, key=counts.__getitem__)
    alone = list(counts.values()).count(counts[best]) == 1
    return best if counts[best] >= 2 and alone else None


@settings(max_examples=300)
@given(st.lists(st.sampled_from([*WORDS, "order", "x", "\n"]), max_size=120))
def test_votes_added_at_once_are_those_counted_one_by_one(words):
    text = " ".join(word for word in words if word.isascii())
    assert language_of(text) == counted_one_by_one(text)


def test_every_little_word_of_a_language_counts_once():
    assert language_of(_LITTLE_WORDS["en"]) == "en"
    assert language_of("the the the") is None


@pytest.mark.parametrize(
    "text",
    [
        "how do i talk to an agent",
        "how long do you bake a cake",
        "just buy a pizza. meat lovers or supreme. u get to pick.",
        "do you want a new phone? reply or call",
        "a parcel has an unpaid shipping fee as no one was home",
    ],
)
def test_english_is_not_taken_for_a_language_that_has_some_of_its_words(text):
    assert language_of(text) == "en"


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("pt", "é a minha casa, a sua casa e o carro do joão"),
        ("pl", "i w domu, i do pracy się nie spieszy"),
        ("cs", "a to je vše, co jsme do toho dali"),
        ("nl", "hoe gaat het met je en met het kind"),
        ("es", "a su cuenta no se le ha hecho un pago"),
    ],
)
def test_a_language_that_shares_words_with_english_stays_itself(language, text):
    assert language_of(text) == language
