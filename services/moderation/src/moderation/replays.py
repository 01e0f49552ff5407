"""Verdicts reached again inside the service: one that is asked for, and a sample of each night's by itself.

From the kept features the decision must come out exactly. While the message is in `intake.messages` and may be opened,
its features are taken anew and must be those that were kept, within 1e-3; what was known beside the content (velocity,
caps, other scanners, lists) is taken as kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from common.events.intake import VerifiedInstruction
from common.kafka.consumer import RetryableError
from common.kafka.reading import Place
from common.security.signing import SignatureError
from common.times import now
from moderation.errors import PolicyError, TrialError
from moderation.handlers import content_of
from moderation.mail import read_mail
from moderation.policies import compiled
from moderation.replaying import ReplayError, content_differences, replay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from common.events.intake import MessageAdmitted
    from common.security.signing import TrustedKeys
    from common.telemetry.measuring import Counts
    from moderation.handlers import Opener
    from moderation.policies import Policies
    from moderation.policy.reading import Policy
    from moderation.screening import Scorer
    from moderation.store import PolicyShelf, ReplayedVerdict, ReplayShelf

SAMPLE_MAX = 1000
NIGHT_HOUR = 3
NIGHT_SAMPLE = 200
_POLICIES_MAX = 4

log = logging.getLogger(__name__)


class Intake(Protocol):
    """`intake.messages`, as far as replays need it."""

    async def read(self, places: set[Place], /) -> Mapping[Place, MessageAdmitted]:
        """Return the messages that stand at these places."""

    async def draw(self, count: int, since: datetime, /) -> Sequence[Place]:
        """Return so many places of messages since a moment, at random."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of one verdict; `content` tells whether its features were taken anew, or why not."""

    message_id: str
    policy: str
    outcome: str
    content: str
    differences: tuple[str, ...] = ()


@dataclass(slots=True)
class Sampled:
    """What came of many."""

    verdicts: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    contents: Counter[str] = field(default_factory=Counter)
    differing: list[Replayed] = field(default_factory=list)


class Replays:
    """Replays verdicts of this service."""

    def __init__(
        self,
        verdicts: ReplayShelf,
        policies: Policies,
        shelf: PolicyShelf,
        scorer: Scorer | None,
        *,
        intake: Intake,
        vault: Opener,
        instruction_keys: TrustedKeys,
        verdict_keys: TrustedKeys,
        counts: Counts,
        clock: Callable[[], datetime] = now,
    ) -> None:
        """Read messages from `intake`, open them like screening does, count outcomes."""
        self._verdicts = verdicts
        self._policies = policies
        self._shelf = shelf
        self._scorer = scorer
        self._intake = intake
        self._vault = vault
        self._instruction_keys = instruction_keys
        self._verdict_keys = verdict_keys
        self._counts = counts
        self._clock = clock
        self._compiled: OrderedDict[str, Policy] = OrderedDict()

    async def one(self, message_id: object) -> Replayed | None:
        """Replay one verdict; None when there is none."""
        found = await self._verdicts.some([message_id])
        places = {Place(*one.place) for one in found if one.place is not None}
        replayed = await self._replayed(found, await self._messages(places))
        return replayed[0] if replayed else None

    async def sample(self, count: int) -> Sampled:
        """Replay verdicts on messages of the last day, each as likely as any other; log what differs."""
        places = await self._intake.draw(count, self._clock() - timedelta(days=1))
        messages = await self._messages(set(places))
        found, sampled = await self._verdicts.some([one.instruction.message_id for one in messages.values()]), Sampled()
        for one in await self._replayed(found, messages):
            sampled.verdicts += 1
            sampled.outcomes[one.outcome] += 1
            sampled.contents[one.content] += 1
            self._counts.add(1, one.outcome)
            if one.outcome == "differs":
                sampled.differing.append(one)
                log.error("the verdict on %s is not reached again: %s", one.message_id, "; ".join(one.differences))
        return sampled

    async def look(self) -> Sampled | None:
        """Replay this night's sample if it is the hour, and no copy did it."""
        moment = self._clock()
        if moment.hour != NIGHT_HOUR or not await self._verdicts.begin_night(moment.date(), moment):
            return None
        sampled = await self.sample(NIGHT_SAMPLE)
        await self._verdicts.end_night(moment.date(), sampled.verdicts, len(sampled.differing))
        log.info("replayed %d verdicts of the last day, %d differ", sampled.verdicts, len(sampled.differing))
        return sampled

    async def _replayed(
        self, verdicts: Sequence[ReplayedVerdict], messages: Mapping[str, VerifiedInstruction]
    ) -> list[Replayed]:
        judged = [messages.get(verdict.signed.statement["instruction_digest"]) for verdict in verdicts]
        contents = await self._contents([message for message in judged if message is not None])
        answers: list[Replayed] = []
        for verdict in verdicts:
            policy = await self._policy(verdict.signed.statement["policy"])
            content = contents.get(verdict.message_id, "gone")
            answers.append(_answer(verdict, policy, content, self._verdict_keys, self._scorer))
            await asyncio.sleep(0)
        return answers

    async def _messages(self, places: set[Place]) -> dict[str, VerifiedInstruction]:
        """Return the genuine messages of some places by the digests of their instructions."""
        events = await self._intake.read(places) if places else {}
        genuine: dict[str, VerifiedInstruction] = {}
        for event in events.values():
            with contextlib.suppress(SignatureError):
                verified = VerifiedInstruction.verify(event, self._instruction_keys)
                genuine[verified.digest] = verified
        return genuine

    async def _contents(self, genuine: Sequence[VerifiedInstruction]) -> dict[str, bytes | str]:
        """Return by message id the content, or why it is not there."""
        try:
            return await content_of(genuine, self._vault)
        except RetryableError:
            return {one.instruction.message_id: "vault-away" for one in genuine}

    async def _policy(self, name: str) -> Policy | None:
        if name == self._policies.active.name:
            return self._policies.active
        if name not in self._compiled:
            state = self._policies.table.states.get(name)
            text = state.text if state is not None else await self._shelf.text(name)
            if text is None:
                return None
            try:
                self._compiled[name] = await compiled(text, with_examples=False)
            except (PolicyError, TrialError):
                return None
            while len(self._compiled) > _POLICIES_MAX:
                self._compiled.popitem(last=False)
        return self._compiled[name]


def _answer(
    verdict: ReplayedVerdict,
    policy: Policy | None,
    content: bytes | str,
    keys: TrustedKeys,
    scorer: Scorer | None,
) -> Replayed:
    statement = verdict.signed.statement
    if policy is None:
        return Replayed(
            verdict.message_id,
            statement["policy"],
            "not-replayed",
            "not-asked",
            ("its policy is not kept or cannot be used",),
        )
    try:
        keys.verify(verdict.signed)
        differences = list(replay(statement, policy).differences)
    except (SignatureError, ReplayError) as error:
        outcome = "differs" if isinstance(error, SignatureError) else "not-replayed"
        return Replayed(verdict.message_id, policy.name, outcome, "not-asked", (str(error),))
    told = content if isinstance(content, str) else "compared"
    if isinstance(content, bytes):
        differences += content_differences(statement, read_mail(content), policy, scorer)
    return Replayed(verdict.message_id, policy.name, "differs" if differences else "same", told, tuple(differences))
