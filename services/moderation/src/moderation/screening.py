"""Screening of a batch, as the service and `waystation screen` run it: tier 0 for all, models for what they cover."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from moderation.domain import covered_by_models, judge
from moderation.examination import NOTHING_KNOWN, Context, examine
from moderation.text.words import reads_as_english

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from common.events.intake import Tool
    from moderation.domain import Decision
    from moderation.examination import Examination
    from moderation.mail import MailParts
    from moderation.policy.reading import Policy

NOT_COVERED = "models-language"
"""In `degraded`: the text is in a language that models were not made for, only tier 0 has spoken."""


class Case(NamedTuple):
    """A message to be screened, with what is known beside its content."""

    parts: MailParts
    tool: Tool
    context: Context = NOTHING_KNOWN


class ModelScores(Protocol):
    """What models say of one text."""

    @property
    def by_head(self) -> Mapping[str, float]:
        """A calibrated probability for each head."""

    @property
    def tiers(self) -> tuple[str, ...]:
        """The models that were asked."""


class Scorer(Protocol):
    """Models as one thing that scores normalised texts, in their order."""

    @property
    def digest(self) -> str:
        """`model@sha256:...`."""

    def score(self, texts: Sequence[str], /) -> Sequence[ModelScores]:
        """Score texts; one's scores do not depend on the others."""


class Screener:
    """A policy and, if there are any, models. A policy is replaced by setting the attribute: a batch reads it once."""

    def __init__(self, policy: Policy, scorer: Scorer | None = None) -> None:
        """Take what is ready to run."""
        self.policy = policy
        self.scorer = scorer

    @property
    def model(self) -> str | None:
        """The digest of the models, or None."""
        return None if self.scorer is None else self.scorer.digest

    def screen(self, cases: Sequence[Case], policy: Policy | None = None) -> list[Decision]:
        """Judge a batch, in its order, by one policy (the one in force); never raises, whatever the messages hold."""
        policy, scorer = policy or self.policy, self.scorer
        found = [examine(case.parts, policy, case.tool, case.context) for case in cases]
        if scorer is None:
            return [judge(item, policy) for item in found]
        texts = {n: item.text().text for n, item in enumerate(found) if covered_by_models(item.language)}
        asked = {n: text for n, text in texts.items() if text and (found[n].language or reads_as_english(text))}
        scores = dict(zip(asked, scorer.score(list(asked.values())), strict=True)) if asked else {}
        return [_with_models(item, policy, scores.get(n)) for n, item in enumerate(found)]


def _with_models(item: Examination, policy: Policy, scores: ModelScores | None) -> Decision:
    if scores is not None:
        return judge(item, policy, scores.by_head, scores.tiers)
    if item.places:
        item.degraded.add(NOT_COVERED)
    return judge(item, policy)
