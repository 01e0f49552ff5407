"""Models that are not asked twice for one text: by a shadow policy, or for a message that goes to many."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moderation.screening import ModelScores, Scorer

TEXTS_MAX = 1024
CHARACTERS_MAX = 4096


class RememberedScores:
    """A scorer that keeps what another one said of the last short texts; scores depend on the text alone."""

    def __init__(self, scorer: Scorer) -> None:
        """Ask this one."""
        self._scorer = scorer
        self._kept: OrderedDict[str, ModelScores] = OrderedDict()

    @property
    def digest(self) -> str:
        """The digest of the models behind it."""
        return self._scorer.digest

    def score(self, texts: Sequence[str], /) -> Sequence[ModelScores]:
        """Return scores in the order of the texts."""
        unknown = [text for text in dict.fromkeys(texts) if text not in self._kept]
        said = dict(zip(unknown, self._scorer.score(unknown), strict=True)) if unknown else {}
        found = [said[text] if text in said else self._kept[text] for text in texts]
        for text, scores in said.items():
            if len(text) <= CHARACTERS_MAX:
                self._kept[text] = scores
        while len(self._kept) > TEXTS_MAX:
            self._kept.popitem(last=False)
        return found
