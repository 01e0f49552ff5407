"""What the encoder is trained on, and how much each label weighs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moderation.models.heads import HEADS
from training.corpus import Row, read_rows
from training.synthesis import SYNTHETIC_SEED, synthetic_rows

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

READINGS = {
    "davidson": 0.7, "edos": 1.8, "paradetox": 0.7, "hatemojibuild": 3.5, "toxigen_prompts": 3.0, "madlibs": 1.5,
    "catqa": 2.5, "clinc150": 1.0, "banking77": 0.8, "enron_spam": 1.2, "spamassassin": 1.4, "uci_sms": 1.8,
    "mendeley_sms": 1.8, "tg_spam": 0.5, "youtube_spam": 1.0,
}  # fmt: skip
"""How often the encoder reads a source's rows in a pass; of a part of a reading, as many rows by chance."""
WRITTEN_READINGS = 2
"""How often, in a pass, it reads the texts written for the project; each time the templates are spelt out anew."""
WRITTEN_SHARES = {
    "codes": 0.4, "orders": 0.4, "appointments": 0.4, "office": 0.4, "office_2": 0.5, "care": 0.5, "parcel_lure": 0.5,
    "bank_lure": 0.5, "mail_phish": 0.5, "phish_2": 0.5, "mail_spam": 0.6, "gambling": 0.6, "comment_spam": 0.6,
    "counter": 0.6, "mail_lure_3": 0.6, "mail_spam_2": 0.7, "sms_chat_2": 0.7,
}  # fmt: skip
HEAD_WEIGHTS = dict.fromkeys(HEADS, 1.0) | {"hate": 2.0, "threat": 2.0}
"""Heads on which the encoder has to do better than tier 1."""
POSITIVE_WEIGHTS = dict(zip(HEADS, (1.5, 1.0, 3.0, 3.0, 4.0, 4.0, 6.0, 6.0, 2.5, 1.5), strict=True))


@dataclass(frozen=True, slots=True)
class Example:
    """A text with a label and a weight per head; weight 0 where the label is unknown."""

    text: str
    labels: tuple[float, ...]
    weights: tuple[float, ...]


def mixture(data: Path, number: int, random: Random) -> list[Example]:
    """Return what the encoder reads in a pass, in a settled order."""
    rows = [(row, READINGS[row.source]) for row in read_rows(data) if row.split == "train"]
    for reading in range(WRITTEN_READINGS):
        written = synthetic_rows(SYNTHETIC_SEED + number * WRITTEN_READINGS + reading)
        rows += [(row, WRITTEN_SHARES.get(row.origin, 1.0)) for row in written if row.split == "train"]
    times = [int(often + random.random()) for _, often in rows]
    return [_for_encoder(example(row)) for (row, _), count in zip(rows, times, strict=True) for _ in range(count)]


def _for_encoder(one: Example) -> Example:
    weights = zip(one.weights, HEAD_WEIGHTS.values(), strict=True)
    return Example(one.text, one.labels, tuple(weight * factor for weight, factor in weights))


def example(row: Row, weight: float = 1.0) -> Example:
    """Turn a row's marks into labels and weights."""
    labels = [row.label(head) for head in HEADS]
    weights = [
        0.0 if label < 0 else weight * (POSITIVE_WEIGHTS[head] if label else 1.0)
        for head, label in zip(HEADS, labels, strict=True)
    ]
    return Example(row.text, tuple(float(label == 1) for label in labels), tuple(weights))
