"""Letters in other shapes as the Latin letters that people read: full-width, mathematical, emoji, look-alikes."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from moderation.text.engine import engine, occurs
from moderation.text.offsets import Edit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import re2

EDITS_MAX = 12_000
WORDS_MAX = 4_000
"""So many disguised words are read; a text with more of them tells enough."""

_MARKS = (
    range(0x300, 0x370), range(0x483, 0x48A), range(0x1AB0, 0x1B00), range(0x1DC0, 0x1E00), range(0x20D0, 0x2100),
    range(0xFE20, 0xFE30),
)  # fmt: skip
_REGIONAL = range(0x1F1E6, 0x1F200)
_VARIATION = (range(0x180B, 0x1810), range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0))
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800")
_ASSIGNED = (range(0x80, 0x20000), range(0xE0000, 0xE0200))
_MARKS_KEPT = 2
_EXPANSION_MAX = 4
_TYPOGRAPHY = str.maketrans(
    "\u2018\u2019\u201a\u201b\u2032\u201c\u201d\u201e\u201f\u2033\u2010\u2011\u2026", "'''''\"\"\"\"\"--."
)
# Letters of other scripts that nobody tells from the Latin ones; only they make a whole word a disguise.
_STRICT = frozenset("аеорсухіјѕԁһӏԝԛѵквмнтАЕОРСУХІЈЅԀҺӀԜԚѴКВМНТοανρικτυΟΑΒΕΖΗΙΚΜΝΡΤΥΧ")
_KINDS_MAX = 16
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_WORD = re.compile(r"[^\W\d_]+")


class _Tables(NamedTuple):
    spaces: dict[int, str]  # one character for one, silently
    shapes: dict[int, str]  # one letter for one, counted
    longer: dict[int, str]  # one character for none or several
    in_words: dict[int, str]
    find_any: re2._Regexp
    find_spaces: re2._Regexp
    find_shapes: re2._Regexp
    find_edits: re2._Regexp
    edits: re.Pattern[str]
    foreign: re2._Regexp
    mixed: re2._Regexp
    genuine: re2._Regexp


@cache
def _tables() -> _Tables:
    always, in_words = _listed()
    spaces = {code: chr(plain) for code, plain in _TYPOGRAPHY.items()}
    shapes = {ord(key): value for key, value in always.items()}
    longer: dict[int, str] = {}
    for code in (code for block in _ASSIGNED for code in block if code not in shapes and code not in spaces):
        replacement = _replacement(code, always)
        if replacement is None:
            continue
        if len(replacement) != 1:
            longer[code] = replacement
        elif replacement.isspace() or not replacement.isalnum():
            spaces[code] = replacement
        else:
            shapes[code] = replacement
    longer |= dict.fromkeys((*range(9), *range(0x0E, 0x20), 0x7F), "")
    marks = [code for block in _MARKS for code in block]
    edited = f"{_class(longer.keys() | set(_REGIONAL))}+|[^{_class(marks)[1:]}?{_class(marks)}+"
    strange = _class(in_words, re2_syntax=True)
    return _Tables(
        spaces, shapes, longer, in_words,
        find_any=engine(_class({*spaces, *shapes, *longer, *_REGIONAL, *marks, *in_words}, re2_syntax=True)),
        find_spaces=engine(_class(spaces, re2_syntax=True)),
        find_shapes=engine(_class(shapes, re2_syntax=True)),
        find_edits=engine(_class([*longer, *_REGIONAL, *marks], re2_syntax=True)),
        edits=re.compile(edited),
        foreign=engine(strange),
        mixed=engine(f"[A-Za-z]{strange}|{strange}[A-Za-z]"),
        genuine=engine(_honest_letter()),
    )  # fmt: skip


def _honest_letter() -> str:
    """Return a pattern for a letter that no Latin one looks like, with no Latin letter beside it."""
    scripts = [*range(0x370, 0x400), *range(0x400, 0x530)]
    letters = [code for code in scripts if chr(code).isalpha() and chr(code) not in _STRICT]
    return f"(?:^|[^A-Za-z]){_class(letters, re2_syntax=True)}(?:[^A-Za-z]|$)"


def _listed() -> tuple[dict[str, str], dict[int, str]]:
    always: dict[str, str] = {}
    in_words: dict[int, str] = {}
    lines = files("moderation.text").joinpath("letters.txt").read_text("utf-8").splitlines()
    for kind, letter, characters in (line.split(" ") for line in lines if not line.startswith("#")):
        if kind == "always":
            always |= dict.fromkeys(characters, letter)
        else:
            in_words |= dict.fromkeys(map(ord, characters), letter)
    return always, in_words


def _replacement(code: int, always: Mapping[str, str]) -> str | None:
    """Return what a character stands for; None when it stands for itself or only in composition."""
    character = chr(code)
    if character in _UNSEEN or any(code in block for block in _VARIATION):
        return ""
    category = unicodedata.category(character)
    if category in ("Zl", "Zp") or code == 0x85:
        return "\n"
    if category == "Zs":
        return " "
    if category in ("Cf", "Cc"):
        return ""
    if category[0] == "M" or unicodedata.is_normalized("NFKC", character):
        return "i" if code == 0x130 else None
    decomposed = unicodedata.normalize("NFKC", character)
    kept = [always.get(part, part) for part in decomposed if not unicodedata.combining(part)]
    return "".join(kept[:_EXPANSION_MAX])


def _class(codes: Iterable[int], *, re2_syntax: bool = False) -> str:
    ranges: list[list[int]] = []
    for code in sorted(codes):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    form = "\\x{{{:x}}}-\\x{{{:x}}}" if re2_syntax else "\\U{:08x}-\\U{:08x}"
    return f"[{''.join(form.format(first, last) for first, last in ranges)}]"


def has_other_shapes(data: bytes) -> bool:
    """Whether a text, UTF-8, has any character that `reshaped`, `letter_edits` or `word_edits` may replace."""
    return occurs(_tables().find_any, data)


def reshaped(text: str, counts: dict[str, int]) -> str:
    """Return a text of the same length in which other shapes of a letter or a space are that letter or space."""
    tables, data = _tables(), text.encode()
    if occurs(tables.find_spaces, data):
        text = _translated(text, tables.spaces)
    if occurs(tables.find_shapes, data):
        plain = _translated(text, tables.shapes)
        counts["lookalikes"] += sum(map(str.__ne__, text, plain))
        return plain
    return text


def _translated(text: str, table: Mapping[int, str]) -> str:
    """Return what `translate` would, which looks up each letter; a text mostly has few kinds that are not ASCII."""
    kinds = set("".join(_NOT_ASCII.findall(text)))
    if len(kinds) > _KINDS_MAX:
        return text.translate(table)
    for kind in kinds:
        text = text.replace(kind, table.get(ord(kind), kind))
    return text


def letter_edits(text: str, counts: dict[str, int]) -> Iterator[Edit]:
    """Yield what to replace so that nothing unseen stands between letters, and marks are with theirs.

    Marks of Latin, Greek and Cyrillic join their letter where Unicode has the pair and are dropped elsewhere. `counts`
    learns how many characters were `invisible`. Ends after EDITS_MAX; the caller cuts the text there.
    """
    tables = _tables()
    if not occurs(tables.find_edits, text.encode()):
        return
    for match in islice(tables.edits.finditer(text), EDITS_MAX):
        found = match[0]
        if _is_mark(found[-1]):
            yield Edit(match.start(), match.end(), _joined(found, tables, counts))
            continue
        read = found.translate(tables.longer)
        if ord(found[0]) in _REGIONAL and len(found) % 2:  # pairs are flags
            read = read.translate({code: chr(code - _REGIONAL[0] + 0x61) for code in _REGIONAL})
            counts["lookalikes"] += len(found)
        counts["invisible"] += max(0, len(found) - len(read))
        if read != found:
            yield Edit(match.start(), match.end(), read)


def _is_mark(character: str) -> bool:
    return any(ord(character) in block for block in _MARKS)


def _joined(cluster: str, tables: _Tables, counts: dict[str, int]) -> str:
    base = "" if _is_mark(cluster[0]) else cluster[0].translate(tables.longer)
    marks = cluster if _is_mark(cluster[0]) else cluster[1:]
    composed = unicodedata.normalize("NFC", base + marks[:_MARKS_KEPT]) if base else ""
    kept = "".join(character for character in composed if not _is_mark(character))
    counts["invisible"] += len(composed) - len(kept) + max(0, len(marks) - _MARKS_KEPT)
    return kept


def word_edits(text: str, counts: dict[str, int]) -> Iterator[Edit]:
    """Yield the words that only look Latin: letters of two scripts in one word, or all of them look-alikes.

    A word of look-alikes alone counts when no word of the text is truly of that script: Russian stays Russian.
    """
    tables, data = _tables(), text.encode()
    if not occurs(tables.foreign, data):
        return
    honest = occurs(tables.genuine, data)
    if honest and not occurs(tables.mixed, data):
        return
    found = 0
    for match in _WORD.finditer(text):
        word = match[0]
        if word.isascii():
            continue
        folded = word.translate(tables.in_words)
        if folded == word or not (_latin(word) or (not honest and _STRICT.issuperset(word))):
            continue
        counts["lookalikes"] += sum(map(str.__ne__, word, folded))
        yield Edit(match.start(), match.end(), folded)
        found += 1
        if found >= WORDS_MAX:
            return


def _latin(word: str) -> bool:
    return any(character.isascii() for character in word)
