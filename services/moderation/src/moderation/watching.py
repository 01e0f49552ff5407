"""What goes on beside judging: caps of rules, rates and their bounds, the shadow policy, what accounts did lately."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from common.events.envelope import encode
from common.kafka.publisher import PublishError
from moderation.comparing import Backtest, Judged
from moderation.examination import Context
from moderation.mail.authentication import authentication_failed
from moderation.policy.compiling import TOOLS
from moderation.policy.life import Rates, outside
from moderation.remembering import RememberedScores
from moderation.screening import Screener
from moderation.store import count_rule_days, rule_days

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import date, datetime

    from common.events.intake import Instruction
    from common.postgres.pool import Connection
    from common.security.signing import Signer
    from common.telemetry.measuring import Counts
    from moderation.domain import Decision
    from moderation.examination import Case
    from moderation.mail import MailParts
    from moderation.policies import Policies, RecordPublisher
    from moderation.policy.document import RuleTool
    from moderation.policy.reading import Policy
    from moderation.recent import RecentMessages
    from moderation.screening import ModelScores

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Caps:
    """What rules with a cap have stopped today: as the database said at the start of the batch, and since then."""

    day: date | None = None
    limits: dict[str, int] = field(default_factory=dict)
    stopped: Counter[str] = field(default_factory=Counter)
    new: Counter[str] = field(default_factory=Counter)

    def reached(self) -> frozenset[str]:
        return frozenset(rule for rule, limit in self.limits.items() if self.stopped[rule] + self.new[rule] >= limit)


class _Term(NamedTuple):
    """A policy in force, and the revision that put it there: 0 for the file's. Lists beside it begin no other term."""

    policy: str
    revision: int


class Watch:
    """Sees every message before and after it is judged; one for each copy of the service."""

    def __init__(
        self,
        policies: Policies,
        screener: Screener,
        recent: RecentMessages,
        *,
        publisher: RecordPublisher,
        signer: Signer,
        effects: Counts,
        differences: Counts,
        mail_server: str = "",
    ) -> None:
        """Take back policies with this signer; count rules' effects, and what the shadow policy would change."""
        self._policies = policies
        self._screener = screener
        self._recent = recent
        self._publisher = publisher
        self._signer = signer
        self._effects = effects
        self._differences = differences
        self._mail_server = mail_server
        self._caps = _Caps()
        self._rated: _Term | None = None
        self._rates = Rates()
        self._asked: Mapping[RuleTool, Sequence[str]] = {}
        self._left: set[_Term] = set()
        self.comparison = Backtest()
        self._compared: tuple[str, str] | None = None
        self._beside: Screener | None = None

    async def begin(self, connection: Connection, policy: Policy, moment: datetime) -> None:
        """Learn what capped rules have stopped today; no query for a policy without caps."""
        limits = {rule.id: rule.cap.messages_per_day for rule in policy.document.rules if rule.cap is not None}
        stopped = await rule_days(connection, moment.date(), list(limits)) if limits else {}
        self._caps = _Caps(moment.date(), limits, Counter(stopped))

    @property
    def has_caps(self) -> bool:
        """Whether what one message does may change what is known of the next."""
        return bool(self._caps.limits)

    def context(self, instruction: Instruction, parts: MailParts, moment: datetime) -> Context:
        """Return what is known of a message beside its content."""
        seen = self._recent.add(instruction.account_id, instruction.recipient_token, parts, moment)
        return Context(
            messages_per_minute=seen.messages_per_minute,
            same_text_share=seen.same_text_share,
            recipient_overlap=seen.recipient_overlap,
            authentication_failed=self._authentication(instruction, parts),
            capped=self._caps.reached(),
        )

    def _authentication(self, instruction: Instruction, parts: MailParts) -> bool | None:
        if instruction.direction != "inbound" or not parts.authentication_results:
            return None
        return authentication_failed(parts.authentication_results, self._mail_server)

    def judged(self, policy: Policy, cases: Sequence[Case], decisions: Sequence[Decision]) -> None:
        """Count what rules did to some messages of the batch."""
        if self._rated != (term := self._term(policy)):
            self._rated, self._rates = term, Rates()
            self._asked = {tool: _with_bound(policy, tool) for tool in TOOLS}
        for case, decision in zip(cases, decisions, strict=True):
            self._count(decision)
            self._rate(case, decision)

    async def compare(
        self,
        policy: Policy,
        accounts: Sequence[str],
        cases: Sequence[Case],
        decisions: Sequence[Decision],
        said: Mapping[str, ModelScores],
    ) -> None:
        """Count what the shadow policy would have done, in a turn of the loop of its own, by what the models said."""
        shadow, scorer = self._policies.shadow, self._screener.scorer
        if shadow is None:
            return
        await asyncio.sleep(0)
        if self._compared != (policy.name, shadow.name):
            self._compared, self.comparison = (policy.name, shadow.name), Backtest()
        if self._beside is None or self._beside.policy.name != shadow.name:
            self._beside = Screener(shadow)
        if self._beside.lists is not self._screener.lists:
            self._beside.lists = self._screener.lists
        self._beside.scorer = None if scorer is None else RememberedScores(scorer, said)
        screening = self._beside.begin(cases)
        screening.ask_models(hurried=True)
        for account, one, other in zip(accounts, decisions, screening.decisions(), strict=True):
            for change, clause in self.comparison.add("", account, Judged.of(one), Judged.of(other)):
                self._differences.add(1, change, clause)

    async def end(self, connection: Connection) -> None:
        """Write down what capped rules stopped, and take the policy back when a rule has left its bound."""
        if self._caps.new and self._caps.day is not None:
            await count_rule_days(connection, self._caps.day, self._caps.new)
            self._caps.new = Counter()
        policy = self._screener.policy
        if self._rated != (term := self._term(policy)) or term in self._left:
            return
        for rule in policy.document.rules:
            if rule.bound is not None and outside(rule.bound, *self._rates.of(rule.id)):
                hits, messages = self._rates.of(rule.id)
                reason = f"rule {rule.id} applied to {hits} of {messages} messages, outside its bound"
                await self._take_back(policy, reason)
                return

    def _count(self, decision: Decision) -> None:
        for kind, rules in (
            ("applied", decision.rules), ("shadow", decision.shadow), ("unsure", decision.unsure),
            ("capped", decision.capped),
        ):  # fmt: skip
            for rule in rules:
                self._effects.add(1, rule, kind)
        self._caps.new.update(rule for rule in decision.rules if rule in self._caps.limits)

    def _term(self, policy: Policy) -> _Term:
        state = self._policies.table.states.get(policy.name)
        return _Term(policy.name, 0 if state is None else state.revision)

    def _rate(self, case: Case, decision: Decision) -> None:
        if asked := self._asked[case.tool]:
            self._rates.add(asked, [rule for rule in (*decision.rules, *decision.capped) if rule in asked])

    async def _take_back(self, policy: Policy, reason: str) -> None:
        term = self._term(policy)
        event = self._policies.take_back(policy, reason, self._signer)
        if event is None:
            log.error("%s is not active by the topic and cannot be taken back: %s", policy.name, reason)
            self._left.add(term)
            return
        try:
            await self._publisher.publish([encode(event)])
        except PublishError as error:
            log.warning("%s is not taken back yet: %s", policy.name, error)
            return
        self._left.add(term)
        log.error("%s is taken back: %s", policy.name, reason)


def _with_bound(policy: Policy, tool: RuleTool) -> list[str]:
    """Return the active rules for a tool whose share of messages is bounded."""
    return [r.id for r in policy.document.rules if r.bound is not None and r.status == "active" and tool in r.tools]
