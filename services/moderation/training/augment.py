"""Texts written so as to slip past: letters swapped, doubled, dropped, masked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

_WORD = re.compile(r"[A-Za-z]{4,}")


def swap_letters(text: str, share: float, random: Random) -> str:
    """Exchange two neighbours in this share of the words of four letters or more."""

    def swapped(match: re.Match[str]) -> str:
        word = match.group()
        if random.random() >= share:
            return word
        place = random.randrange(len(word) - 1)
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]

    return _WORD.sub(swapped, text)


def misspell(text: str, share: float, random: Random) -> str:
    """Double, drop or mask one letter in this share of the words of four letters or more."""

    def changed(match: re.Match[str]) -> str:
        word = match.group()
        if random.random() >= share:
            return word
        place = random.randrange(1, len(word))
        put = random.choice((word[place] * 2, "", "*", word[place] * 3))
        return word[:place] + put + word[place + 1 :]

    return _WORD.sub(changed, text)


def disturb(text: str, random: Random) -> str:
    """Return the text as it is four times in five, else written badly."""
    draw = random.random()
    if draw < 0.13:
        return swap_letters(text, random.uniform(0.2, 1.0), random)
    if draw < 0.2:
        return misspell(text, random.uniform(0.1, 0.6), random)
    return text


_LOOKALIKES = str.maketrans("aeiopcxysAEIOPCXTHBKM", "аеіорсхуѕАЕІОРСХТНВКМ")  # noqa: RUF001  Cyrillic on purpose
_LEET = str.maketrans("aeiost", "431057")


def disguise(text: str, kind: str, random: Random) -> str:
    """Return the text in one of the disguises that screening is measured with."""
    if kind == "invisible":
        return _WORD.sub(lambda match: "\u200b".join(match.group()), text)
    if kind == "lookalike":
        return text.translate(_LOOKALIKES)
    if kind == "leet":
        return _WORD.sub(lambda match: match.group().translate(_LEET), text)
    if kind == "spaced":
        return _WORD.sub(lambda match: " ".join(match.group()) if random.random() < 0.4 else match.group(), text)
    assert kind == "swapped", kind
    return swap_letters(text, 1.0, random)
