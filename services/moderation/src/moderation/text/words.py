"""Words behind disguised spellings: digits and signs for letters, letters apart, letters drawn out or swapped."""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache
from importlib.resources import files
from itertools import islice, product
from typing import TYPE_CHECKING

from moderation.text.engine import engine, occurs, places
from moderation.text.offsets import Edit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DISGUISES_MAX = 4_000
LETTERS_APART_MAX = 20_000
"""Beyond so many suspicious words and letters the rest of a text is read as it is written."""

_SEPARATORS = r"[ \t._*~,'/|\\-]"
# The first look, over the whole text by an engine without backtracking; what it finds is looked at closely.
_SUSPECT = (
    r"[a-z][0134578@$!|+*]+[a-z]|(?:^|[^a-z0-9])[0134578@$]+[a-z]{2}|[a-z]{2}[0134578@$]+(?:[^a-z0-9]|$)"
    rf"|(?:^|[^a-z0-9])[a-z](?:{_SEPARATORS}[a-z0-9@$!]){{2}}(?:[^a-z0-9]|$|{_SEPARATORS})"
    r"|" + "|".join(f"{letter}{{3}}" for letter in "abcdefghijklmnopqrstuvxyz")
)
_SPELLED = r"[a-z0-9@$!|+*]*(?:[a-z][013457890@$!|+*]|[0134578@$][a-z])[a-z0-9@$!|+*]*"
_APART = rf"\b[a-z](?:{_SEPARATORS}[a-z0-9@$!]){{2,}}"
_DRAWN_OUT = r"[a-z]*(?:" + "|".join(f"{letter}{{3,}}" for letter in "abcdefghijklmnopqrstuvxyz") + r")[a-z]*"
_SPELLED_OR_DRAWN_OUT = f"{_SPELLED}|{_DRAWN_OUT}"

_LETTERS = {
    "0": "o", "1": "il", "3": "e", "4": "a", "5": "s", "7": "t", "8": "b",
    "@": "a", "$": "s", "!": "il", "|": "li", "+": "t",
}  # fmt: skip
_INNER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789@$")
_SPELLINGS_MAX = 16
_WORD_CHARACTERS_MAX = 40
_LONGEST_WORD = 20
_ADDRESS_SIGNS = frozenset("/@#&=_%~?:\\")
_SURE = re.compile(r"[a-z]+(?:[0134578@$!|]+[a-z]+)+")
_MASKED = (
    "fuck", "fucks", "fucker", "fuckers", "fucking", "fucked", "motherfucker", "shit", "shits", "shitty", "bullshit",
    "bitch", "bitches", "cunt", "cunts", "nigger", "niggers", "nigga", "niggas", "faggot", "faggots", "fag", "fags",
    "asshole", "assholes", "arsehole", "whore", "whores", "slut", "sluts", "dick", "dicks", "cock", "pussy", "cum",
    "porn", "rape", "raped", "rapist", "kill", "murder", "bastard", "bastards", "retard", "retards", "retarded",
    "tranny", "dyke", "kike", "kikes", "paki", "pakis", "spic", "chink", "damn", "crap", "piss", "wanker", "twat",
)  # fmt: skip


@cache
def lexicon() -> frozenset[str]:
    """Return the words that a disguise may stand for."""
    lines = files("moderation.text").joinpath("words.txt").read_text("ascii").splitlines()
    return frozenset(line for line in lines if not line.startswith("#"))


def looks_disguised(lower: bytes) -> bool:
    """Whether anything in an ASCII or UTF-8 text in lower case is worth the second look."""
    return occurs(engine(_SUSPECT), lower)


def apart_edits(text: str, counts: dict[str, int]) -> Iterator[Edit]:
    """Yield words whose letters stand apart (`c a s i n o`), joined; several in a row are told apart by the lexicon."""
    data = text.encode()
    character = _Places(data)
    left = LETTERS_APART_MAX
    for start, last in places(engine(_APART), data, DISGUISES_MAX):
        # The last letter may begin a longer word.
        end = last - 2 if last < len(data) and chr(data[last]) in _INNER else last
        letters = data[start:end:2].decode("ascii")
        if len(letters) < 3 or sum(map(str.isalpha, letters)) * 3 < len(letters) * 2:
            continue
        counts["spaced"] += len(letters)
        left -= len(letters)
        if left < 0:
            return
        yield Edit(character(start), character(end), _told_apart(letters))


def _told_apart(letters: str) -> str:
    read = _respelled(letters) or letters
    if read in lexicon() or len(read) < 4:
        return read
    words = _segmented(read if read.isalpha() else read.translate(_PLAIN))
    return " ".join(words) if words else read


_PLAIN = str.maketrans({sign: options[0] for sign, options in _LETTERS.items()})


def _segmented(letters: str) -> list[str] | None:
    """Return the fewest words that make up the letters, or None; linear, for words are short."""
    known = lexicon()
    best: list[tuple[int, int] | None] = [(0, 0)]
    for end in range(1, len(letters) + 1):
        choices = [
            (before[0] + 1, start)
            for start in range(max(0, end - _LONGEST_WORD), end)
            if (before := best[start]) is not None and letters[start:end] in known
        ]
        best.append(min(choices) if choices else None)
    words: list[str] = []
    end = len(letters)
    while end and (step := best[end]) is not None:
        words.append(letters[step[1] : end])
        end = step[1]
    return words[::-1] if words and not end else None


def spelling_edits(text: str, counts: dict[str, int]) -> Iterator[Edit]:
    """Yield words in which digits and signs stand for letters, or whose letters are drawn out, as they are read.

    What is part of an address (link, mail, handle) is left alone: links are judged by their own rules.
    """
    data = text.encode()
    character = _Places(data)
    done = 0
    for start, end in places(engine(_SPELLED_OR_DRAWN_OUT), data, DISGUISES_MAX):
        token = data[start:end].decode("ascii")
        if start < done or len(token) > _WORD_CHARACTERS_MAX or _in_address(data, start, end):
            continue
        word = token.rstrip("!|+*")
        read = _short(word) if word.isalpha() else _respelled(word)
        if read is not None and read != word:
            counts["leet"] += 1
            done = start + len(word)
            yield Edit(character(start), character(done), read)


def _in_address(data: bytes, start: int, end: int) -> bool:
    before, after = data[start - 1 : start].decode("latin-1"), data[end : end + 2].decode("latin-1")
    if before in _ADDRESS_SIGNS and before:
        return True
    if before in (".", "-") and start > 1 and data[start - 2 : start - 1].isalnum():
        return True
    return bool(after) and (after[0] in _ADDRESS_SIGNS - {"?", ":"} or (after[0] in ".-" and after[1:].isalnum()))


@lru_cache(maxsize=1 << 14)
def _respelled(token: str) -> str | None:
    """Return the word behind a token with digits or signs; None when it is none."""
    if "*" in token:
        return _unmasked(token)
    known = lexicon()
    options = [_LETTERS.get(character, character) for character in token]
    for spelling in islice(product(*options), _SPELLINGS_MAX):
        word = "".join(spelling)
        if len(word) >= 3 and (word in known or _short(word) is not None):
            return word if word in known else _short(word)
    letters = sum(character.isalpha() for character in token)
    if not _SURE.fullmatch(token) or letters * 5 < len(token) * 3 or len(token) < 4:
        return None
    signs = sum(character in "@$!|" for character in token)
    return "".join(choice[0] for choice in options) if signs or len(token) - letters >= 2 else None


def _unmasked(token: str) -> str | None:
    if not re.fullmatch(r"[a-z][a-z*]*[a-z]", token):
        return None
    for word in _MASKED:
        if len(word) == len(token) and all(a in ("*", b) for a, b in zip(token, word, strict=True)):
            return word
    return None


@lru_cache(maxsize=1 << 14)
def _short(word: str) -> str | None:
    """Return a word of the lexicon for one whose letters are drawn out (`freeeee`); None when there is none."""
    for times in (r"\1\1", r"\1"):
        candidate = re.sub(r"([a-z])\1{2,}", times, word)
        if candidate != word and candidate in lexicon():
            return candidate
    return None


class _Places:
    """Character offsets of byte offsets that come in ascending order."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._ascii = data.isascii()
        self._bytes = self._count = 0

    def __call__(self, place: int) -> int:
        if self._ascii:
            return place
        self._count += len(self._data[self._bytes : place].decode())
        self._bytes = place
        return self._count


_RESTORABLE = re.compile(r"[a-z]{4,15}")


def restored(text: str) -> str:
    """Return a normalised text for models of English: accents dropped, swapped letters put right where a word appears.

    A second look that costs more than normalising: for texts that a model reads, not for each rule.
    """
    if not text.isascii():
        decomposed = unicodedata.normalize("NFD", text)
        text = "".join(character for character in decomposed if not 0x300 <= ord(character) <= 0x36F)
    return "\n".join(swapped_back(text.split("\n")))


def swapped_back(lines: Sequence[str]) -> list[str]:
    """Return lines in lower case with swapped letters put right where that makes a word."""
    tokens = [line.split(" ") for line in lines]
    unknown = set().union(*tokens) - lexicon()
    found = {token: read for token in unknown if (read := _restored_token(token)) != token}
    if not found:
        return list(lines)
    return [
        line if found.keys().isdisjoint(of_line) else " ".join([found.get(token, token) for token in of_line])
        for line, of_line in zip(lines, tokens, strict=True)
    ]


@lru_cache(maxsize=1 << 15)
def _restored_token(token: str) -> str:
    known, shuffled = lexicon(), _letters_of_words()
    for word in _RESTORABLE.findall(token):
        if word not in known and "".join(sorted(word)) in shuffled:
            token = token.replace(word, _unswapped(word, known), 1)
    return token


@cache
def _letters_of_words() -> frozenset[str]:
    """Return the letters of each known word in alphabetical order: most unknown words are no word's letters at all."""
    return frozenset("".join(sorted(word)) for word in lexicon() if 4 <= len(word) <= 15)


def _unswapped(word: str, known: frozenset[str]) -> str:
    for place in range(len(word) - 1):
        swapped = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        if swapped in known:
            return swapped
    return word


_READ_CHARACTERS = 400
_KNOWN_SHARE_MIN = 1 / 3


def reads_as_english(text: str) -> bool:
    """Whether the beginning of a normalised text has enough English words for a model of English to judge it."""
    words = _ANY_WORD.findall(_NAMES.sub(" ", restored(text[:_READ_CHARACTERS])))
    known = lexicon()
    return sum(word in known for word in words) >= max(1, len(words) * _KNOWN_SHARE_MIN)


_ANY_WORD = re.compile(r"[^\W\d_]+")
_NAMES = re.compile(r"@\S+|https?:\S+|www\.\S+")
