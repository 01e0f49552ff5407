"""Measure shipped weights on the development split: `python -m training.evaluate --data FOLDER --out FILE.md`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import average_precision_score

from moderation.models import HEADS, ModelBank
from moderation.models.thresholds import THRESHOLDS_FILE, read_thresholds
from moderation.text import normalise
from training.augment import disguise
from training.corpus import Row, read_rows
from training.synthesis import synthetic_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    Scored = NDArray[np.float32]

CLEAN_SOURCES = {"banking77", "clinc150", "enron_spam", "spamassassin", "uci_sms", "mendeley_sms"}
CLEAN_SECTIONS = {"codes", "orders", "appointments", "office", "care"}
TOOL_OF_CHANNEL = {"email": "email", "sms": "sms", "form": "form"}
DISGUISES = ("invisible", "lookalike", "leet", "spaced", "swapped")


def main() -> None:
    """Score the test rows once and write tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    bank = ModelBank.load(given.weights)
    thresholds = read_thresholds(given.weights / THRESHOLDS_FILE)
    rows = [row for row in [*read_rows(given.data), *synthetic_rows()] if row.split == "test"]
    began = time.process_time()
    scored, tiers = score(bank, [row.text for row in rows])
    spent = time.process_time() - began
    limits = np.array([[thresholds[head][tool_of(row)] for head in HEADS] for row in rows], np.float32)
    lines = [
        f"Weights `{bank.digest[:16]}`; {len(rows)} texts of the test split, of which",
        f"{sum(row.source == 'synthetic' for row in rows)} synthetic; {spent / len(rows) * 1e6:.0f} us of CPU each;",
        f"{np.mean([len(one) > 1 for one in tiers]):.0%} reached tier 2.",
        "",
        *_by_head(rows, scored, limits),
        *_clean(rows, scored, limits, tiers),
        *_sections(rows, scored, limits),
        *_disguised(bank, rows, scored, limits),
    ]
    given.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def score(bank: ModelBank, texts: Sequence[str]) -> tuple[Scored, list[tuple[str, ...]]]:
    """Return scores [texts, heads] and tiers, of texts as they were written."""
    found = bank.score([normalise(text).text for text in texts])
    return np.array([[one.by_head[head] for head in HEADS] for one in found], np.float32), [one.tiers for one in found]


def tool_of(row: Row) -> str:
    """Return the tool whose thresholds a row is measured with."""
    return TOOL_OF_CHANNEL.get(row.channel, "chat")


def _header(names: str) -> str:
    cells = names.split(", ")
    return f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}"


def _by_head(rows: Sequence[Row], scored: Scored, limits: Scored) -> Iterable[str]:
    yield _header(
        "head, known, true, AP, AP without synthetic, caught, missed, false alarms, passed, precision, recall"
    )
    real = np.array([row.source != "synthetic" for row in rows])
    for place, head in enumerate(HEADS):
        labels = np.array([row.label(head) for row in rows])
        over = scored[:, place] >= limits[:, place]
        true, false = labels == 1, labels == 0
        cells = [
            int((true & over).sum()),
            int((true & ~over).sum()),
            int((false & over).sum()),
            int((false & ~over).sum()),
        ]
        precision = cells[0] / max(cells[0] + cells[2], 1)
        yield (
            f"| {head} | {int((true | false).sum())} | {int(true.sum())} | {_ap(labels, scored[:, place])} "
            f"| {_ap(labels[real], scored[real, place])} | {' | '.join(map(str, cells))} "
            f"| {precision:.3f} | {cells[0] / max(int(true.sum()), 1):.3f} |"
        )
    yield ""


def _ap(labels: NDArray[np.int64], scores: Scored) -> str:
    known = labels >= 0
    if (labels[known] == 1).sum() < 3:
        return "-"
    return f"{average_precision_score(labels[known], scores[known]):.3f}"


def is_clean(row: Row) -> bool:
    """Whether a row is honest business text."""
    if row.source == "synthetic":
        return row.origin in CLEAN_SECTIONS
    return row.source in CLEAN_SOURCES and not row.positive and "spam" in row.negative and "toxic" in row.negative


def _clean(rows: Sequence[Row], scored: Scored, limits: Scored, tiers: list[tuple[str, ...]]) -> Iterable[str]:
    yield _header("clean business text, texts, to tier 2, not spam but over, spam over, not spam but .5, spam .5")
    spam = HEADS.index("spam")
    for source in [*sorted(CLEAN_SOURCES), "synthetic", "all"]:
        chosen = [n for n, row in enumerate(rows) if is_clean(row) and source in {row.source, "all"}]
        if not chosen:
            continue
        shares = []
        for limit in (limits[chosen], np.float32(0.5)):
            over = scored[chosen] >= limit
            shares += [np.delete(over, spam, 1).any(1).mean(), over[:, spam].mean()]
        deep = np.mean([len(tiers[n]) > 1 for n in chosen])
        yield f"| {source} | {len(chosen)} | {deep:.1%} | {' | '.join(f'{share:.2%}' for share in shares)} |"
    yield ""


def _sections(rows: Sequence[Row], scored: Scored, limits: Scored) -> Iterable[str]:
    yield _header("synthetic section, texts, right on every known head")
    for section in dict.fromkeys(row.origin for row in rows if row.source == "synthetic"):
        chosen = [n for n, row in enumerate(rows) if row.origin == section and row.source == "synthetic"]
        labels = np.array([[rows[n].label(head) for head in HEADS] for n in chosen])
        over = scored[chosen] >= limits[chosen]
        right = ((labels < 0) | (over == (labels == 1))).all(1)
        yield f"| {section} | {len(chosen)} | {right.mean():.1%} |"
    yield ""


def _disguised(bank: ModelBank, rows: Sequence[Row], scored: Scored, limits: Scored) -> Iterable[str]:
    yield _header("disguise, texts caught without it, of these still caught")
    labels = np.array([[row.label(head) for head in HEADS] for row in rows]) == 1
    chosen = [n for n in np.flatnonzero((labels & (scored >= limits)).any(1)) if len(rows[n].text) < 400][:600]
    for kind in DISGUISES:
        random = Random(3)
        again, _ = score(bank, [disguise(rows[n].text, kind, random) for n in chosen])
        kept = (labels[chosen] & (scored >= limits)[chosen] & (again >= limits[chosen])).any(1)
        yield f"| {kind} | {len(chosen)} | {kept.mean():.1%} |"
    yield ""


if __name__ == "__main__":
    main()
