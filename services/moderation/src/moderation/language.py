# ruff: noqa: E501, RUF001  lists of words
"""Which language a text is in, as far as screening needs to know: is it English, and if not, does tier 0 cover it.

Scripts tell most; languages in Latin and Cyrillic letters are told apart by the commonest little words at the
beginning. Too short or too mixed is None. Of English more words are known than of the others: the models hang on it,
and "do", "to" and "a" are words of several languages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL_LANGUAGES = frozenset(["en"])
SPAM_LANGUAGES = frozenset(["cs", "de", "es", "fr", "it", "nl", "pl", "pt", "ro", "sv", "tr"])
"""Languages that the model of spam was given honest letters in; it judges texts in them, the other models do not."""
SPAM_WORDS_MIN = 10
"""It judges no shorter text in them: a greeting and a cry look like offers. Where the language of a short text cannot be
told it is judged for spam as if it were English, which most of them nearly are (`FreeMsg>TONES! Reply REAL`)."""
TIER0_LANGUAGES = frozenset(["en", "de", "fr", "es", "it", "nl", "pt", "pl", "ru", "uk"])
"""Languages whose lures and opt-out words the shipped policy knows."""

_HEAD_CHARACTERS = 400
_WORDS_MIN = 2
_LITTLE_WORDS = {
    "en": "the and you your to of for is are we in on this that with have please our not it be will if can from at i my a an do does did was were they he she his him them but what how who when there would could should just get got like out up about some no by than then never don't i'm it's u ur",
    "de": "der die das und sie ihr ihre ist nicht ein eine mit für von zu wir auf bitte den dem im sich auch wird haben ich",
    "fr": "le la les et vous votre vos de des est un une pour nous pas que dans sur avec du au ce je merci sont ne",
    "es": "el los las y su sus de es un una para por que no en con del se al usted gracias está lo como más tu",
    "it": "il gli che di è un una per non con della del sono si la le suo vostro grazie questo alla dei nel e ti",
    "nl": "de het een en van u uw is niet met voor op te wij dat zijn je dit bij om aan als of heeft wordt",
    "pt": "o os as e de do da um uma para por que não em com seu sua se você é no na ao dos obrigado mais",
    "pl": "i w na z do się nie jest to że o za od dla po jak twoje prosimy oraz twój został jesteś kliknij by",
    "sv": "och att det som en på är av för med den till inte har du vi din om ett så kan vår från",
    "tr": "ve bir bu için ile da de çok siz olarak olan sizin hesabınız lütfen ne mi en gibi daha var",
    "cs": "a se na je v že to pro s do jsme vás vaše si ale nebo jako prosím z k od aby byl",
    "ro": "și de la în cu un o pe nu este pentru că din dumneavoastră vă să ce mai sunt contul prin",
    "ru": "и в не на что с вы ваш ваша для по это как мы вас или за от к до но из уже ваши у",
    "uk": "і в не на що з ви ваш ваша для по це як ми вас або за від до та із вже є ваші у",
}  # fmt: skip
_SCRIPTS = (
    ("el", range(0x370, 0x400)), ("he", range(0x590, 0x600)), ("ar", range(0x600, 0x700)), ("hi", range(0x900, 0x980)),
    ("th", range(0xE00, 0xE80)), ("ja", range(0x3040, 0x3100)), ("ko", range(0xAC00, 0xD7B0)),
    ("zh", range(0x4E00, 0xA000)),
)  # fmt: skip


_LANGUAGES = tuple(_LITTLE_WORDS)


def _votes() -> Mapping[str, int]:
    """Return what each word says of all languages: a byte of a number for each, so that votes add up at once."""
    found: dict[str, int] = {}
    for place, words in enumerate(_LITTLE_WORDS.values()):
        for word in set(words.split()):
            found[word] = found.get(word, 0) + (1 << 8 * place)
    return found


_VOTES = _votes()
_KNOWN_WORDS = frozenset(_VOTES)


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code of a text in lower case, or None when it cannot be told."""
    head = text[:_HEAD_CHARACTERS]
    if not head.isascii() and (by_script := _by_script(head)) is not None:
        return by_script
    votes = sum(map(_VOTES.__getitem__, _KNOWN_WORDS.intersection(head.split())))
    counts = votes.to_bytes(len(_LANGUAGES), "little")
    most = max(counts)
    if most < _WORDS_MIN or counts.count(most) > 1:
        return None
    return _LANGUAGES[counts.index(most)]


def may_be_scored(language: str | None) -> bool:
    """Whether any model may be asked about a text; where its language cannot be told, its words tell which."""
    return language is None or language in MODEL_LANGUAGES or language in SPAM_LANGUAGES


def is_short(text: str) -> bool:
    """Whether a text is too short to be judged in another language."""
    return len(text.split()) < SPAM_WORDS_MIN


def _by_script(head: str) -> str | None:
    letters = [ord(character) for character in head if character > "\u0370"]
    if len(letters) * 3 < len(head):
        return None
    for language, block in _SCRIPTS:
        if sum(code in block for code in letters) * 2 > len(letters):
            return language
    return None
