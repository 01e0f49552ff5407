"""Texts written for the project: templates in `synthetic/*.txt`, spelt out with seeds, split by template."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from moderation.models.heads import HEADS
from training.corpus import Row, Split

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parent / "synthetic"
LANGUAGES, TEXTING, APART = FOLDER / "languages", FOLDER / "texting", FOLDER / "apart"
_CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")
_SLOT = re.compile(r"\{(\w+)\}")
_ONE_SLOT = re.compile(r"\((\{\w+\})\)")
_DEPTH_MAX = 12
SYNTHETIC_SEED = 20
SYNTHETIC_SOURCE, FOREIGN_SOURCE = "synthetic", "foreign"


@dataclass(slots=True)
class Section:
    """Templates with the same labels."""

    name: str
    positive: frozenset[str]
    negative: frozenset[str]
    channel: str
    texts: int
    joined: tuple[int, int]
    templates: list[str] = field(default_factory=list)


def synthetic_rows(seed: int = SYNTHETIC_SEED) -> list[Row]:
    """Return the texts that all models learn from, the same for the same seed and files."""
    return _rows(FOLDER, seed, SYNTHETIC_SOURCE)


def texting_rows(seed: int = SYNTHETIC_SEED) -> list[Row]:
    """Return text messages, honest ones and spam, which only the model of spam learns from."""
    return _rows(TEXTING, seed, SYNTHETIC_SOURCE)


def apart_rows(seed: int = SYNTHETIC_SEED) -> list[Row]:
    """Return the texts that no model learns from, whatever their split says."""
    return _rows(APART, seed, SYNTHETIC_SOURCE)


def foreign_rows(seed: int = SYNTHETIC_SEED) -> list[Row]:
    """Return the texts in languages other than English, `origin` is `honest_LANGUAGE` or `spam_LANGUAGE`."""
    return _rows(LANGUAGES, seed, FOREIGN_SOURCE)


def _rows(folder: Path, seed: int, source: str) -> list[Row]:
    """Spell out the templates of a folder; every folder may use the slots of the first."""
    slots, sections = read_templates(folder)
    slots = {**read_templates(FOLDER)[0], **slots}
    return [row for one in sections for row in _spell_out(one, slots, Random(f"{seed} {one.name}"), source)]


def read_templates(folder: Path) -> tuple[dict[str, list[str]], list[Section]]:
    """Read every file: `= slot` and its choices, `@ section` and its templates."""
    slots: dict[str, list[str]] = {}
    sections: list[Section] = []
    for file in sorted(folder.glob("*.txt")):
        put: list[str] = []
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.startswith("= "):
                put = slots.setdefault(line[2:].strip(), [])
            elif line.startswith("@ "):
                sections.append(_section(line[2:]))
                put = sections[-1].templates
            elif line and not line.startswith("# "):
                put.append(line)
    return {name: [choice for line in lines for choice in _parts(line)] for name, lines in slots.items()}, sections


def _section(line: str) -> Section:
    name, *pairs = line.split()
    given = dict(pair.split("=", 1) for pair in pairs)
    positive = frozenset(filter(None, given.get("pos", "").split(",")))
    unknown = frozenset(filter(None, given.get("unk", "").split(",")))
    negative = frozenset(HEADS) - positive - unknown
    assert positive | unknown <= frozenset(HEADS), line
    low, _, high = given.get("join", "1").partition("-")
    return Section(name, positive, negative, given.get("ch", "chat"), int(given["n"]), (int(low), int(high or low)))


def _parts(line: str) -> list[str]:
    """Split at `|` outside parentheses."""
    parts, depth, last = [], 0, 0
    for place, sign in enumerate(line):
        depth += (sign == "(") - (sign == ")")
        if sign == "|" and depth == 0:
            parts.append(line[last:place])
            last = place + 1
    return [*parts, line[last:]]


def _spell_out(section: Section, slots: dict[str, list[str]], random: Random, source: str) -> Iterator[Row]:
    splits = _splits(section.templates)
    by_split: dict[Split, list[str]] = {"train": [], "calibrate": [], "test": []}
    for template, split in splits.items():
        by_split[split].append(template)
    seen: set[str] = set()
    for number in range(section.texts):
        template = section.templates[number % len(section.templates)]
        split = splits[template]
        count = random.randint(*section.joined)
        chosen = [template, *(random.choice(by_split[split]) for _ in range(count - 1))]
        text = _style(". ".join(spell(one, slots, random) for one in chosen), random)
        if text not in seen:
            seen.add(text)
            yield Row(text, section.positive, section.negative, source, section.name, section.channel, split)


def _splits(templates: list[str]) -> dict[str, Split]:
    """Keep an eighth of the templates for tests and a twelfth for calibration, by their hashes, at least one each."""
    ranked = sorted(templates, key=lambda template: hashlib.sha256(template.encode()).digest())
    tests, calibrations = max(1, len(ranked) // 8), max(1, len(ranked) // 12)
    kept: dict[str, Split] = dict.fromkeys(ranked, "train")
    kept |= dict.fromkeys(ranked[:tests], "test")
    return kept | dict.fromkeys(ranked[tests : tests + calibrations], "calibrate")


def spell(template: str, slots: dict[str, list[str]], random: Random) -> str:
    """Choose until nothing is left to choose."""
    text = _ONE_SLOT.sub(r"\1", template)
    for _ in range(_DEPTH_MAX):
        if not (_CHOICE.search(text) or _SLOT.search(text)):
            break
        text = _CHOICE.sub(lambda match: random.choice(match.group(1).split("|")), text)
        text = _SLOT.sub(lambda match: random.choice(slots[match.group(1)]), text)
    return text.replace("⏎", "\n")


def _style(text: str, random: Random) -> str:
    text = re.sub(r" {2,}", " ", text).strip().replace(" ,", ",").replace(" .", ".")
    draw = random.random()
    if draw < 0.25:
        return text.lower()
    if draw < 0.28:
        return text.upper()
    if draw < 0.35:
        return re.sub(r"[.,!']", "", text)
    return text[:1].upper() + text[1:]
