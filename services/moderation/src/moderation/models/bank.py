"""The learnt models of a weights folder as one thing that scores texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moderation.models.calibration import Calibration
from moderation.models.encoder import Encoder
from moderation.models.heads import HEADS
from moderation.models.linear import LinearModel
from moderation.models.manifest import EncoderFigures, Manifest, read_manifest
from moderation.models.spam import FOREIGN, SpamModel
from moderation.text import restored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

LINEAR, ENCODER, SPAM_ALONE = "linear", "encoder", "spam"
_SPAM = HEADS.index("spam")
READ_CHARACTERS_MAX = 8_000
"""Of a longer text the models read the first three quarters and the last quarter of this many characters."""


class Scores(NamedTuple):
    """Calibrated probabilities by head for a text, and the tiers that gave them; `cut_short`: one was left out."""

    by_head: Mapping[str, float]
    tiers: tuple[str, ...]
    cut_short: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """What tier 1 says of texts, and by number the texts that `waiting` holds for tier 2."""

    columns: NDArray[np.float32]
    scores: NDArray[np.float32]
    waiting: Mapping[int, str]


class ModelBank:
    """Tier 1 for every text, tier 2 for those that pass its gate."""

    def __init__(
        self, manifest: Manifest, digest: str, linear: LinearModel, spam: SpamModel | None, encoder: Encoder | None
    ) -> None:
        """Put the parts together; `load` reads them from a folder."""
        self.digest = digest
        self._linear, self._spam, self._encoder = linear, spam, encoder
        self._figures = manifest.encoder
        self._calibration = _calibration(manifest)

    @classmethod
    def load(cls, folder: Path) -> ModelBank:
        """Read a weights folder. Raises ModelFileError when a file is missing or is not what the manifest says."""
        manifest, digest = read_manifest(folder)
        encoder = Encoder.load(folder, manifest.encoder.tokens_max) if manifest.encoder else None
        spam = SpamModel.load(folder / "spam.npz", manifest.spam) if manifest.spam else None
        return cls(manifest, digest, LinearModel.load(folder / "linear.npz"), spam, encoder)

    def score(self, texts: Sequence[str]) -> list[Scores]:
        """Score normalised texts (`moderation.text.normalise`), in their order.

        A text's scores do not depend on the others in the batch.
        """
        return self.finish(self.begin(texts))

    def begin(self, texts: Sequence[str]) -> Begun:
        """Ask tier 1, microseconds a text, and note which texts wait for tier 2."""
        logits = self._linear.logits(texts)
        columns = logits[:, : len(HEADS)]
        if self._spam is not None:
            with_spam(self._spam, columns, texts)
        scores = self._calibration.of_linear(columns)
        chosen = self._chosen(scores, logits)
        waiting = {number: restored(shortened(texts[number])) for number in chosen.tolist()}
        return Begun(columns, scores, waiting)

    def finish(self, begun: Begun, *, hurried: bool = False) -> list[Scores]:
        """Ask tier 2, milliseconds for each text that waits, in a thread of its own; hurried, tier 1 has to do."""
        if hurried:
            return [
                Scores(dict(zip(HEADS, line, strict=True)), (LINEAR,), cut_short=number in begun.waiting)
                for number, line in enumerate(begun.scores.tolist())
            ]
        scores = begun.scores.copy()
        if self._encoder is not None and begun.waiting:
            chosen = list(begun.waiting)
            second = self._encoder.logits(list(begun.waiting.values()))
            scores[chosen] = self._calibration.of_both(begun.columns[chosen], second)
        return [
            Scores(dict(zip(HEADS, line, strict=True)), (LINEAR, ENCODER) if number in begun.waiting else (LINEAR,))
            for number, line in enumerate(scores.tolist())
        ]

    def score_foreign(self, texts: Sequence[str]) -> list[Scores]:
        """Score normalised texts that are not in English, microseconds each: spam alone, no other head is known."""
        if self._spam is None:
            return [Scores({}, ())] * len(texts)
        columns = self._linear.logits(texts)[:, : len(HEADS)]
        columns[:, _SPAM] = self._spam.logits(texts, columns[:, _SPAM], np.full(len(texts), FOREIGN))
        spam = self._calibration.of_linear(columns)[:, _SPAM]
        return [Scores({HEADS[_SPAM]: probability}, (SPAM_ALONE,)) for probability in spam.tolist()]

    def _chosen(self, scores: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.intp]:
        if self._figures is None or self._encoder is None:
            return np.zeros(0, np.intp)
        gate = np.asarray(self._figures.gate, np.float32)
        return np.flatnonzero((scores >= gate).any(axis=1) | (logits[:, len(HEADS)] >= self._figures.need))


def with_spam(model: SpamModel, columns: NDArray[np.float32], texts: Sequence[str]) -> None:
    """Put the model of spam's word in the place of tier 1's for texts that are not harmless by tier 1."""
    said = columns[:, _SPAM].tolist()
    asked = [number for number, text in enumerate(texts) if model.wanted(text, said[number])]
    if asked:
        columns[asked, _SPAM] = model.logits([texts[number] for number in asked], columns[asked, _SPAM])


def shortened(text: str) -> str:
    """Return the part of a normalised text that models read."""
    if len(text) <= READ_CHARACTERS_MAX:
        return text
    return f"{text[: READ_CHARACTERS_MAX * 3 // 4]} {text[-READ_CHARACTERS_MAX // 4 :]}"


def _calibration(manifest: Manifest) -> Calibration:
    ones = tuple(1.0 for _ in HEADS)
    figures = manifest.encoder or EncoderFigures(
        gate=ones, need=0, tokens_max=16, linear_weight=ones, encoder_weight=ones, offset=ones
    )
    lines = (
        manifest.linear.slope,
        manifest.linear.offset,
        figures.linear_weight,
        figures.encoder_weight,
        figures.offset,
    )
    return Calibration(*(np.asarray(line, np.float32) for line in lines))
