"""WordPiece: text to the numbers of a vocabulary, longest piece first (Devlin et al. 2019, uncased).

Emoji are spelt out by their Unicode names, as the vocabulary has none of them.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

UNKNOWN, START, END = "[UNK]", "[CLS]", "[SEP]"
WORD_CHARACTERS_MAX = 48
_CACHED_WORDS = 16_384
_WORDS = re.compile(r"[^\W_]+|[^\w\s]|_")
_SKIN_TONES = re.compile("[\U0001f3fb-\U0001f3ff\u200d\ufe0f\u20e3]")
_MARKS_FIRST, _SYMBOLS_FIRST = "\u0300", "\u2190"


class WordPiece:
    """A vocabulary and how to read text with it."""

    def __init__(self, pieces: Sequence[str]) -> None:
        """Take the pieces in the order of their numbers; a piece inside a word starts with `##`."""
        self._numbers = {piece: number for number, piece in enumerate(pieces)}
        self.unknown, self.start, self.end = (self._numbers[name] for name in (UNKNOWN, START, END))
        self._longest = max(len(piece) for piece in pieces)
        self._split = lru_cache(_CACHED_WORDS)(self._split_word)

    def read(self, text: str, tokens_max: int) -> list[int]:
        """Return start, pieces, end; of a text that is too long the first three quarters and the last quarter."""
        numbers: list[int] = []
        room = tokens_max - 2
        words = _WORDS.findall(plain_letters(text))
        if len(words) > room:
            head = room * 3 // 4
            words = words[:room] + words[head - room :]
            heads = self._pieces(words[:room])[:head]
            return [self.start, *heads, *self._pieces(words[room:])[head - room :], self.end]
        numbers = self._pieces(words)
        if len(numbers) > room:
            head = room * 3 // 4
            numbers = numbers[:head] + numbers[head - room :]
        return [self.start, *numbers, self.end]

    def _pieces(self, words: Sequence[str]) -> list[int]:
        numbers: list[int] = []
        for word in words:
            numbers.extend(self._split(word))
        return numbers

    def _split_word(self, word: str) -> tuple[int, ...]:
        numbers: list[int] = []
        start, length = 0, min(len(word), WORD_CHARACTERS_MAX)
        while start < length:
            prefix = "##" if start else ""
            for stop in range(min(length, start + self._longest), start, -1):
                number = self._numbers.get(prefix + word[start:stop])
                if number is not None:
                    break
            else:
                return (self.unknown,)
            numbers.append(number)
            start = stop
        return tuple(numbers)


def plain_letters(text: str) -> str:
    """Return the text in small letters without accents, emoji as the words of their Unicode names."""
    text = text.lower()
    if text.isascii():
        return text
    plain = (mark for mark in unicodedata.normalize("NFD", text) if unicodedata.category(mark) != "Mn")
    return "".join(plain if max(text) < _SYMBOLS_FIRST else map(spell_symbol, plain))


def spell_symbol(character: str) -> str:
    """Return a pictograph's name between spaces, nothing for skin tones and joiners, any other character itself."""
    if character < _SYMBOLS_FIRST:
        return "" if character == "\u200d" else character
    return _spell(character)


@lru_cache(4096)
def _spell(character: str) -> str:
    if _SKIN_TONES.match(character):
        return ""
    if unicodedata.category(character) != "So":
        return character
    return f" {unicodedata.name(character, 'symbol').lower()} "
