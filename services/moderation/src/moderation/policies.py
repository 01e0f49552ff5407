"""The policies of the topic in this process: verified, tried in another, put in force between two batches.

The screener's policy is one attribute and a batch reads it once, so no message is judged by a mixture. Whatever is
wrong with a policy (signature, digest, schema, its own examples) is counted, and the present one stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from common.events.screening import PolicyState, PolicyStated, VerifiedPolicyState
from common.security.signing import SignatureError, canonical
from common.times import now, rfc3339
from moderation.policy.errors import PolicyError, TrialError
from moderation.policy.life import PolicyTable
from moderation.policy.reading import Policy, assembled, canonical_text
from moderation.trial import tried

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from datetime import datetime

    from common.kafka.records import Record
    from common.security.signing import Signed, Signer, TrustedKeys
    from common.telemetry.measuring import Counts
    from moderation.screening import Screener

COMPILED_MAX = 6
AGAIN_SECONDS = 1.0
STATEMENT_BYTES_MAX = 900_000

log = logging.getLogger(__name__)


class PolicyRefusedError(Exception):
    """A state of a policy that is not taken; the text says why."""


class RecordPublisher(Protocol):
    """Kafka, as far as policies need it."""

    async def publish(self, records: Sequence[Record], /) -> None:
        """Write all records, or raise."""


class PolicyKeeper(Protocol):
    """This service's database, as far as policies need it."""

    async def keep_policy(self, policy: Policy, at: datetime, /) -> None:
        """Keep the text of a policy that is about to be in force: its verdicts are replayed by it."""

    async def keep_state(self, state: PolicyState, /) -> None:
        """Keep a state for the history."""


@dataclass(frozen=True, slots=True)
class PolicyKeys:
    """Who may say what about policies: operators everything, moderation itself only to take one back."""

    policy: TrustedKeys
    verdict: TrustedKeys


async def compiled(text: str, *, with_examples: bool = True) -> Policy:
    """Compile a policy that keeps its own examples, while messages are judged; raise PolicyError, or TrialError."""
    canonical_form = canonical_text(text.encode("utf-8", "replace"))
    return await assembled(await tried(canonical_form, with_examples=with_examples), canonical_form)


class Policies:
    """What the topic says of policies, and the screener's policy that follows from it."""

    def __init__(
        self,
        screener: Screener,
        keys: PolicyKeys,
        keeper: PolicyKeeper,
        *,
        refused: Counts | None = None,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], datetime] = now,
        compiles: Callable[[str], Awaitable[Policy]] = compiled,
    ) -> None:
        """Begin with the screener's policy, which is the file's."""
        self.table = PolicyTable()
        self.shadow: Policy | None = None
        self.refusals: Counter[str] = Counter()
        self._screener = screener
        self._keys = keys
        self._keeper = keeper
        self._counts = refused
        self._on_change = on_change
        self._clock = clock
        self._of_file = screener.policy
        self._compiles = compiles
        self._compiled: OrderedDict[str, Policy] = OrderedDict()
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def active(self) -> Policy:
        """The policy in force in this process."""
        return self._screener.policy

    def start(self) -> None:
        """Begin to put in force what the topic says."""
        self._changed.set()
        self._task = asyncio.create_task(self._run(), name="policies")

    async def stop(self) -> None:
        """Leave everything as it is."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def settled(self) -> None:
        """Return once all that was read is in force."""
        await self._settled.wait()

    async def on_policy_stated(self, events: Sequence[PolicyStated]) -> None:
        """Note what the topic says, oldest first; what is not genuine is counted and left out."""
        for event in events:
            try:
                state = VerifiedPolicyState.verify(event.state, self._keys.policy, self._keys.verdict).state
            except SignatureError as error:
                self._refuse("signature", str(error))
            else:
                if self.table.apply(state):
                    self._settled.clear()
                    self._changed.set()

    async def checked(self, signed: Signed) -> PolicyStated:
        """Return the event of a person's statement that may follow now; raise PolicyRefusedError, and count it."""
        try:
            state = VerifiedPolicyState.verify(signed, self._keys.policy).state
        except SignatureError as error:
            raise self._refuse("signature", str(error)) from None
        if len(canonical(signed.statement)) > STATEMENT_BYTES_MAX:
            raise self._refuse("policy", f"policy: longer than {STATEMENT_BYTES_MAX:,} bytes")
        if (reason := self.table.refusal(state)) is not None:
            raise self._refuse("order", f"policy: {reason}")
        if state.status != "rolled-back":
            try:
                await self._policy_of(state)
            except (PolicyError, TrialError) as error:
                raise self._refuse("policy", str(error)) from None
        return PolicyStated(state=signed)

    def take_back(self, policy: Policy, reason: str, signer: Signer) -> PolicyStated | None:
        """Return the machine's statement that takes a policy back; None when it is not the topic's to take back."""
        state = self.table.states.get(policy.name)
        if state is None or state.status != "active":
            return None
        again = state.model_copy(
            update={
                "status": "rolled-back",
                "revision": self.table.revision + 1,
                "reason": reason,
                "decided_by": "machine",
                "changed_at": rfc3339(self._clock()),
            }
        )
        return PolicyStated(state=signer.sign([again.statement()])[0])

    async def _run(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._follow()
            except Exception as error:  # noqa: BLE001  the database may be away: what is in force stays until it is back
                log.warning("the policies are looked at again: %s", type(error).__name__)
                await asyncio.sleep(AGAIN_SECONDS)
                self._changed.set()
                continue
            if not self._changed.is_set():
                self._settled.set()

    async def _follow(self) -> None:
        """Compile what is wanted, then swap; a policy that does not compile here is passed over."""
        for state in list(self.table.states.values()):
            await self._keeper.keep_state(state)
        active = await self._usable(lambda: self.table.active) or self._of_file
        shadow = await self._usable(lambda: self.table.shadow)
        if active.name != self._screener.policy.name:
            await self._keeper.keep_policy(active, self._clock())
            log.info("policy in force: %s (before: %s)", active.name, self._screener.policy.name)
            self._screener.policy = active
            self._on_change()
        if shadow is not self.shadow:
            log.info("policy in shadow: %s", "none" if shadow is None else shadow.name)
            self.shadow = shadow
            self._on_change()

    async def _usable(self, newest: Callable[[], PolicyState | None]) -> Policy | None:
        while (state := newest()) is not None:
            try:
                return await self._policy_of(state)
            except PolicyError as error:
                self.table.unusable.add(state.policy)
                self._refuse("policy", f"{state.policy}: {error}")
        return None

    async def _policy_of(self, state: PolicyState) -> Policy:
        if state.policy == self._of_file.name:
            return self._of_file
        found = self._compiled.get(state.policy)
        if found is None:
            found = await self._compiles(state.text)
            if found.name != state.policy:
                raise PolicyError(f"its text is that of {found.name}")
        self._compiled[state.policy] = found
        self._compiled.move_to_end(state.policy)
        while len(self._compiled) > COMPILED_MAX:
            self._compiled.popitem(last=False)
        return found

    def _refuse(self, kind: str, reason: str) -> PolicyRefusedError:
        self.refusals[kind] += 1
        if self._counts is not None:
            self._counts.add(1, kind)
        log.error("a policy is refused, %s stays in force: %s", self._screener.policy.name, reason)
        return PolicyRefusedError(reason)


async def until(condition: Callable[[], bool], each: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Return once a condition holds, looked at ten times a second."""
    while not condition():
        await each(0.1)
