"""The learnt models of a weights folder as one thing that scores texts."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moderation.language import is_short
from moderation.models.calibration import Calibration, lowered
from moderation.models.encoder import Encoder
from moderation.models.heads import HEADS
from moderation.models.linear import LinearModel
from moderation.models.manifest import EncoderFigures, Manifest, read_manifest
from moderation.models.spam import FOREIGN, SpamModel
from moderation.text import restored

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from moderation.models.linear import Readings

LINEAR, ENCODER, SPAM_ALONE = "linear", "encoder", "spam"
_SPAM = HEADS.index("spam")
_HIDDEN = [HEADS.index(head) for head in ("hate", "threat", "sexual")]
"""Heads for which the worst passages of a text are judged by themselves: harm may stand among much that does none."""
PASSAGES_MAX = 6
PASSAGE_WORDS_MIN = 3
PASSAGE_DISCOUNT = 0.7
"""Log-odds that a passage is rated lower than a text of its own: it is one of many, and out of its place."""
_KEPT_PASSAGES_MAX = 4_096
_NO_PASSAGES: Mapping[str, str] = MappingProxyType({})
READ_CHARACTERS_MAX = 8_000
"""Of a longer text the models read the first three quarters and the last quarter of this many characters."""


class Scores(NamedTuple):
    """Calibrated probabilities by head for a text, and the tiers that gave them; `cut_short`: one was left out.

    `passages` are, by head, those whose word is higher than that on the whole text.
    """

    by_head: Mapping[str, float]
    tiers: tuple[str, ...]
    cut_short: bool = False
    passages: Mapping[str, str] = _NO_PASSAGES


@dataclass(frozen=True, slots=True)
class Begun:
    """What tier 1 says of texts, and by number what tier 2 is to read: whole texts, and passages of texts."""

    columns: NDArray[np.float32]
    scores: NDArray[np.float32]
    whole: Mapping[int, str]
    passages: Mapping[int, Sequence[str]]
    said: Mapping[str, NDArray[np.float32]]
    """Of the passages, those that tier 2 has read before."""
    unread: Mapping[str, NDArray[np.float32]]
    """The others, with what tier 1 says."""

    @property
    def waiting(self) -> Collection[int]:
        """The texts that tier 2 takes milliseconds for."""
        return {*self.whole, *(n for n, some in self.passages.items() if any(one in self.unread for one in some))}


class ModelBank:
    """Tier 1 for every text, tier 2 for those that pass its gate."""

    def __init__(
        self, manifest: Manifest, digest: str, linear: LinearModel, spam: SpamModel | None, encoder: Encoder | None
    ) -> None:
        """Put the parts together; `load` reads them from a folder."""
        self.digest = digest
        self._linear, self._spam, self._encoder = linear, spam, encoder
        self._figures = manifest.encoder
        self._passages: dict[str, NDArray[np.float32]] = {}
        self._calibration = _calibration(manifest)
        if self._figures is not None:
            self._limits = self._calibration.logits_of(np.asarray(self._figures.gate, np.float32))[_HIDDEN]

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
        """Ask tier 1, microseconds a text, and note what waits for tier 2."""
        read = self._linear.read(texts)
        columns = read.of_texts[:, : len(HEADS)]
        if self._spam is not None:
            with_spam(self._spam, columns, texts)
        scores = self._calibration.of_linear(columns)
        chosen = self._chosen(scores, read.of_texts)
        whole = {number: restored(shortened(texts[number])) for number in chosen.tolist()}
        places = self._suspicious(read)
        passages = {number: list(some) for number, some in places.items()}
        asked = {line: read.of_lines[place] for some in places.values() for line, place in some.items()}
        said = {line: known for line in asked if (known := self._passages.get(line)) is not None}
        unread = {line: of_line[: len(HEADS)] for line, of_line in asked.items() if line not in said}
        return Begun(columns, scores, whole, passages, said, unread)

    def finish(self, begun: Begun, *, hurried: bool = False) -> list[Scores]:
        """Ask tier 2, milliseconds for each text that waits, in a thread of its own; hurried, tier 1 has to do."""
        left_out: Collection[int] = begun.waiting if hurried else ()
        scores = begun.scores.copy()
        read = set() if hurried else set(begun.whole)
        if self._encoder is not None and read:
            chosen = list(begun.whole)
            second = self._encoder.logits(list(begun.whole.values()))
            scores[chosen] = self._calibration.of_both(begun.columns[chosen], second)
        said = begun.said if hurried else {**begun.said, **self._read(begun.unread)}
        higher: dict[int, dict[str, str]] = {}
        for number, some in begun.passages.items():
            for line in some:
                if (of_line := said.get(line)) is not None:
                    read.add(number)
                    over = [
                        place for place, value in zip(_HIDDEN, of_line, strict=True) if value > scores[number, place]
                    ]
                    scores[number, _HIDDEN] = np.maximum(scores[number, _HIDDEN], of_line)
                    higher.setdefault(number, {}).update((HEADS[place], line) for place in over)
        return [
            Scores(
                dict(zip(HEADS, line, strict=True)),
                (LINEAR, ENCODER) if number in read else (LINEAR,),
                number in left_out,
                higher.get(number, _NO_PASSAGES),
            )
            for number, line in enumerate(scores.tolist())
        ]

    def score_foreign(self, texts: Sequence[str]) -> list[Scores]:
        """Score normalised texts that are not in English, microseconds each: spam alone, no other head is known.

        Those too short to be judged in another language are judged as if they were English.
        """
        if self._spam is None:
            return [Scores({}, ())] * len(texts)
        columns = self._linear.logits(texts)[:, : len(HEADS)]
        short, long = ([n for n, text in enumerate(texts) if is_short(text) == wanted] for wanted in (True, False))
        if short:
            of_short = columns[short]
            with_spam(self._spam, of_short, [texts[n] for n in short])
            columns[short] = of_short
        if long:
            linear = columns[long, _SPAM]
            columns[long, _SPAM] = self._spam.logits([texts[n] for n in long], linear, np.full(len(long), FOREIGN))
        spam = self._calibration.of_linear(columns)[:, _SPAM]
        return [Scores({HEADS[_SPAM]: probability}, (SPAM_ALONE,)) for probability in spam.tolist()]

    def _chosen(self, scores: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.intp]:
        if self._figures is None or self._encoder is None:
            return np.zeros(0, np.intp)
        gate = np.asarray(self._figures.gate, np.float32)
        return np.flatnonzero((scores >= gate).any(axis=1) | (logits[:, len(HEADS)] >= self._figures.need))

    def _suspicious(self, read: Readings) -> dict[int, dict[str, int]]:
        """Return, by text, the lines that would pass the gate by themselves, the worst ones, and their places."""
        if self._figures is None or self._encoder is None or len(read.lines) == len(read.counts):
            return {}
        over = (read.of_lines[:, _HIDDEN] - self._limits).max(axis=1)
        ends = np.cumsum(read.counts)
        found: dict[int, dict[str, int]] = {}
        for place in sorted(np.flatnonzero(over >= 0).tolist(), key=lambda place: -float(over[place])):
            number, line = int(np.searchsorted(ends, place, side="right")), read.lines[place]
            if read.counts[number] > 1 and _has_words(line) and len(found.get(number, ())) < PASSAGES_MAX:
                found.setdefault(number, {})[line] = place
        return found

    def _read(self, passages: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Let tier 2 read passages; return by passage the probabilities of what may be hidden, and keep them."""
        if self._encoder is None or not passages:
            return {}
        second = self._encoder.logits([restored(line) for line in passages])
        said = self._calibration.of_both(np.array(list(passages.values())), second)[:, _HIDDEN]
        found = dict(zip(passages, lowered(said, PASSAGE_DISCOUNT), strict=True))
        if len(self._passages) + len(found) > _KEPT_PASSAGES_MAX:
            self._passages.clear()
        self._passages.update(found)
        return found


def _has_words(line: str) -> bool:
    return len(line.split(None, PASSAGE_WORDS_MIN)) >= PASSAGE_WORDS_MIN


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
