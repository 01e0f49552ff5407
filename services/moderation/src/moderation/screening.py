"""Screening of a batch, as the service and `waystation screen` run it: tier 0 for all, models for what they cover."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from moderation.domain import Opinion, judge_all
from moderation.examination import examine_all
from moderation.language import MODEL_LANGUAGES, is_short, may_be_scored
from moderation.policy.reading import NO_LISTS, with_lists
from moderation.rejudging.hashes import hashes_of
from moderation.text.words import reads_as_english

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from moderation.domain import Decision
    from moderation.examination import Case, Examination
    from moderation.features import Value
    from moderation.lists import HashLists
    from moderation.policy.reading import Policy

NOT_COVERED = "models-language"
"""In `degraded`: the text is in a language that models were not made for; at most the one of spam has spoken."""
BUSY = "models-busy"
"""In `degraded`: the slower model would have been asked, and too many texts waited for it."""


_NOTHING_ASKED: Mapping[int, str] = MappingProxyType({})
_NOTHING_SAID: Mapping[int, ModelScores] = MappingProxyType({})


class ModelScores(Protocol):
    """What models say of one text."""

    @property
    def by_head(self) -> Mapping[str, float]:
        """A calibrated probability for each head that is known."""

    @property
    def tiers(self) -> tuple[str, ...]:
        """The models that were asked."""

    @property
    def passages(self) -> Mapping[str, str]:
        """By head, the part of the text that is worse than all of it."""

    @property
    def cut_short(self) -> bool:
        """Whether a slower model would have been asked if there had been time."""


class BegunScores(Protocol):
    """Texts that models have begun to read."""

    @property
    def waiting(self) -> Collection[int]:
        """The numbers of the texts that take milliseconds to finish."""


class Scorer(Protocol):
    """Models as one thing that scores normalised texts, in their order; one's scores do not depend on the others."""

    @property
    def digest(self) -> str:
        """`model@sha256:...`."""

    def begin(self, texts: Sequence[str], /) -> Any:
        """Read texts, microseconds each."""

    def score_foreign(self, texts: Sequence[str], /) -> Sequence[ModelScores]:
        """Score texts that are not in English for spam, and for nothing else."""

    def finish(self, begun: Any, /, *, hurried: bool = False) -> Sequence[ModelScores]:
        """Score them; where texts wait, in milliseconds, and in any thread. Hurried, none is waited for."""


class Screener:
    """A policy and, if there are any, models. A policy is replaced by setting the attribute: a batch reads it once.

    Lists of bad addresses and files stand beside whatever policy is set, and stay when it is replaced.
    """

    def __init__(
        self,
        policy: Policy,
        scorer: Scorer | None = None,
        *,
        lists: HashLists = NO_LISTS,
        keeps_hashes: bool = False,
    ) -> None:
        """Take what is ready to run; `keeps_hashes` for re-judgement."""
        self._lists = lists
        self.policy = policy
        self.scorer = scorer
        self.keeps_hashes = keeps_hashes

    @property
    def policy(self) -> Policy:
        """The policy in force, with the lists."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy if policy.lists is self._lists else with_lists(policy, self._lists)

    @property
    def lists(self) -> HashLists:
        """The lists in force."""
        return self._lists

    @lists.setter
    def lists(self, lists: HashLists) -> None:
        self._lists = lists
        self.policy = self._policy

    @property
    def model(self) -> str | None:
        """The digest of the models, or None."""
        return None if self.scorer is None else self.scorer.digest

    def screen(self, cases: Sequence[Case], policy: Policy | None = None) -> list[Decision]:
        """Judge a batch, in its order, by one policy (the one in force); never raises, whatever the messages hold."""
        return self.begin(cases, policy).decisions()

    def begin(self, cases: Sequence[Case], policy: Policy | None = None) -> Screening:
        """Look at a batch with all that takes microseconds."""
        policy, scorer = policy or self.policy, self.scorer
        found = examine_all(cases, policy)
        if self.keeps_hashes:
            for item in found:
                item.carried = hashes_of(item.parts, item.longest_text())
        if scorer is None:
            return Screening(found, policy)
        texts = {n: text for n, item in enumerate(found) if may_be_scored(item.language) and (text := item.text())}
        asked = {n: text for n, text in texts.items() if _is_english(found[n].language, text)}
        foreign = {
            n: text for n, text in texts.items() if n not in asked and not (found[n].language and is_short(text))
        }
        return Screening(
            found, policy, scorer, asked, scorer.begin(list(asked.values())), foreign=_spam_alone(scorer, foreign)
        )


def _is_english(language: str | None, text: str) -> bool:
    return language in MODEL_LANGUAGES or (language is None and reads_as_english(text))


def _spam_alone(scorer: Scorer, foreign: Mapping[int, str]) -> Mapping[int, ModelScores]:
    if not foreign:
        return _NOTHING_SAID
    return dict(zip(foreign, scorer.score_foreign(list(foreign.values())), strict=True))


class Screening:
    """A batch that has been begun: `ask_models` where it `takes_long` (in any thread), then `decisions`."""

    def __init__(
        self,
        found: Sequence[Examination],
        policy: Policy,
        scorer: Scorer | None = None,
        asked: Mapping[int, str] = _NOTHING_ASKED,
        begun: BegunScores | None = None,
        *,
        foreign: Mapping[int, ModelScores] = _NOTHING_SAID,
    ) -> None:
        self._found, self._policy, self._scorer = found, policy, scorer
        self._asked, self._begun, self._foreign = asked, begun, foreign
        self._scores: dict[int, ModelScores] | None = None

    @property
    def takes_long(self) -> bool:
        """Whether `ask_models` takes milliseconds."""
        return self._begun is not None and bool(self._begun.waiting)

    def ask_models(self, *, hurried: bool = False) -> None:
        """Let the models finish; hurried, without the slower ones, and the verdict says so."""
        if self._scorer is not None:
            self._scores = dict(zip(self._asked, self._scorer.finish(self._begun, hurried=hurried), strict=True))

    @property
    def said(self) -> Mapping[str, ModelScores]:
        """What the models said, by text; nothing before they were asked."""
        return {self._asked[number]: scores for number, scores in (self._scores or {}).items()}

    def take_as_kept(self, number: int, names: Iterable[str], kept: Mapping[str, Value]) -> None:
        """Give features of a message the values that an earlier decision kept, instead of those that are found now."""
        places, template = (
            {name: n for n, name in enumerate(self._policy.compiled.names)},
            self._policy.compiled.template,
        )
        values = self._found[number].values
        for name in names:
            values[places[name]] = kept.get(name, template[places[name]])

    def decisions(self) -> list[Decision]:
        """Judge; asks the models if that was not done before."""
        if self._scorer is None:
            return judge_all([Opinion(item) for item in self._found], self._policy)
        if self._scores is None:
            self.ask_models()
        said = {**self._foreign, **(self._scores or {})}
        opinions = [_with_models(item, said.get(n), in_english=n in self._asked) for n, item in enumerate(self._found)]
        return judge_all(opinions, self._policy)


def _with_models(item: Examination, scores: ModelScores | None, *, in_english: bool) -> Opinion:
    if item.places and not in_english:
        item.degraded.add(NOT_COVERED)
    if scores is None:
        return Opinion(item)
    if scores.cut_short:
        item.degraded.add(BUSY)
    return Opinion(item, scores.by_head, scores.tiers, scores.passages)
