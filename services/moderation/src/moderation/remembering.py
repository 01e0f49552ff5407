"""Models that are not asked twice for one text: by a shadow policy, or for a message that goes to many."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from moderation.screening import BegunScores, ModelScores, Scorer

TEXTS_MAX = 1024
CHARACTERS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Begun:
    """Texts, what is known of some, and what the models have begun of the others."""

    texts: Sequence[str]
    known: Mapping[str, ModelScores]
    unknown: Sequence[str]
    begun: BegunScores | None

    @property
    def waiting(self) -> Collection[int]:
        """The unknown texts that take milliseconds."""
        return () if self.begun is None else self.begun.waiting


class RememberedScores:
    """A scorer that keeps what another one said of the last short texts; scores depend on the text alone."""

    def __init__(self, scorer: Scorer, said: Mapping[str, ModelScores] | None = None) -> None:
        """Ask this one for what is not known yet."""
        self._scorer = scorer
        self._kept: OrderedDict[str, ModelScores] = OrderedDict(said or {})

    @property
    def digest(self) -> str:
        """The digest of the models behind it."""
        return self._scorer.digest

    def score_foreign(self, texts: Sequence[str], /) -> Sequence[ModelScores]:
        """Ask anew: it takes microseconds."""
        return self._scorer.score_foreign(texts)

    def begin(self, texts: Sequence[str], /) -> Begun:
        """Begin with the texts that nothing is known of; others may be finished meanwhile."""
        known = {text: said for text in texts if (said := self._kept.get(text)) is not None}
        unknown = [text for text in dict.fromkeys(texts) if text not in known]
        return Begun(texts, known, unknown, self._scorer.begin(unknown) if unknown else None)

    def finish(self, begun: Begun, /, *, hurried: bool = False) -> Sequence[ModelScores]:
        """Return scores in the order of the texts."""
        said: dict[str, ModelScores] = {}
        if begun.unknown:
            said = dict(zip(begun.unknown, self._scorer.finish(begun.begun, hurried=hurried), strict=True))
        for text, scores in said.items():
            if len(text) <= CHARACTERS_MAX and not scores.cut_short:
                self._kept[text] = scores
        while len(self._kept) > TEXTS_MAX:
            self._kept.popitem(last=False)
        found = {**begun.known, **said}
        return [found[text] for text in begun.texts]
