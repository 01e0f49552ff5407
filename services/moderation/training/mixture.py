"""What each training stage reads, and how much each label weighs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moderation.models.heads import HEADS
from training.corpus import Row, read_rows
from training.synthesis import synthetic_rows

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

STAGE_1_SHARES = {
    "davidson": 0.55,
    "edos": 0.8,
    "clinc150": 0.5,
    "banking77": 0.5,
    "enron_spam": 0.6,
    "spamassassin": 0.6,
}
"""Share of a source's rows that the first stage reads; 1 where not named."""
STAGE_2_SHARES = {
    "davidson": 0.12, "edos": 0.2, "paradetox": 0.2, "clinc150": 0.4, "banking77": 0.4, "enron_spam": 0.22,
    "spamassassin": 0.3, "hatemojibuild": 0.5, "tg_spam": 0.4,
}  # fmt: skip
STAGE_3_SHARES = {
    "davidson": 0.04, "edos": 0.15, "paradetox": 0.06, "clinc150": 0.08, "banking77": 0.08, "enron_spam": 0.06,
    "spamassassin": 0.08, "hatemojibuild": 0.5, "uci_sms": 0.2, "mendeley_sms": 0.5, "tg_spam": 0.3,
    "youtube_spam": 0.3, "madlibs": 0.3, "toxigen_prompts": 1.0, "catqa": 1.0,
}  # fmt: skip
STAGE_3_RARE = {"hate", "threat", "sexual", "drugs", "weapons", "extremism"}
"""Rows with one of these are read whatever their source's share (hateful rows of HatemojiBuild by its share)."""
STAGE_3_WRITTEN = {
    "codes": 0.3, "orders": 0.3, "appointments": 0.3, "office": 0.25, "care": 0.4, "narrative": 0.6, "office_2": 0.3,
    "parcel_lure": 0.4, "bank_lure": 0.4, "mail_phish": 0.3, "phish_2": 0.3, "mail_spam": 0.4, "comment_spam": 0.5,
    "sms_spam": 0.6, "counter": 0.5, "hate_statement": 0.6, "neutral_identity": 0.6, "gambling": 0.6, "chat_2": 0.5,
}  # fmt: skip
POSITIVE_WEIGHTS = dict(zip(HEADS, (1.5, 1.0, 3.0, 3.0, 4.0, 4.0, 6.0, 6.0, 2.5, 1.5), strict=True))


@dataclass(frozen=True, slots=True)
class Example:
    """A text with a label and a weight per head; weight 0 where the label is unknown."""

    text: str
    labels: tuple[float, ...]
    weights: tuple[float, ...]


def mixture(data: Path, stage: int, random: Random) -> list[Example]:
    """Return the examples of a stage in a settled order."""
    rows = [row for row in read_rows(data) if row.split == "train"]
    if stage == 1:
        return [example(row) for row in rows if random.random() < STAGE_1_SHARES.get(row.source, 1.0)]
    if stage == 2:
        written = [example(row) for row in synthetic_rows() if row.split == "train"]
        return [example(row) for row in rows if random.random() < STAGE_2_SHARES.get(row.source, 1.0)] + written
    rows += [row for row in synthetic_rows() if row.split == "train"]
    return [example(row) for row in rows if random.random() < stage_3_share(row)]


def stage_3_share(row: Row) -> float:
    """Return how likely the last stage reads a row: all that is rare, little of the rest."""
    if row.source == "synthetic":
        return STAGE_3_WRITTEN.get(row.origin, 1.0)
    if row.positive & STAGE_3_RARE and row.source not in {"hatemojibuild", "enron_spam"}:
        return 1.0
    return STAGE_3_SHARES[row.source]


def example(row: Row, weight: float = 1.0) -> Example:
    """Turn a row's marks into labels and weights."""
    labels = [row.label(head) for head in HEADS]
    weights = [
        0.0 if label < 0 else weight * (POSITIVE_WEIGHTS[head] if label else 1.0)
        for head, label in zip(HEADS, labels, strict=True)
    ]
    return Example(row.text, tuple(float(label == 1) for label in labels), tuple(weights))
