"""One mail on its way over one connection: its steps, and what replies and losses make of it."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from time import monotonic
from typing import TYPE_CHECKING

from routing.domain import AttemptResult, Outcome
from routing.providers.smtp_replies import RawReply, as_reply, codes

if TYPE_CHECKING:
    from collections.abc import Callable

    from routing.providers.smtp_mail import Mail

DEADLINE_PASSED = Outcome(AttemptResult.UNREACHED, "lease deadline passed")


class Step(StrEnum):
    """What a reply answers, as reasons name it."""

    RSET = "RSET"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    CONTENT = "content"
    FINAL_DOT = "final dot"


class Transaction:
    """One mail on its way over one connection.

    `done` ends in its Outcome; in None where it has to be carried again, `alone`: the connection was lost before its
    turn came, or it is `unjudged`: refused or ignored perhaps for where it stood. `begun`: its envelope is written,
    perhaps `behind` the mail before. `leading`: its turn has come. `kept`: the connection may carry another mail.
    `handed_on`: it went on with the next mail by itself. `stale`: a kept connection had been given up by the server
    before any command was answered; nothing was accepted.
    """

    __slots__ = (
        "alone", "at_final_dot", "behind", "deadline", "done", "failure", "handed_on", "kept", "leading", "mail",
        "stage", "stale", "steps", "unjudged",
    )  # fmt: skip

    def __init__(
        self,
        mail: Mail,
        deadline: Callable[[], float] | None,
        at_final_dot: Callable[[], None] | None,
        *,
        alone: bool = False,
    ) -> None:
        """Take a mail; one that goes `alone` is not begun behind another."""
        self.mail = mail
        self.alone = alone
        self.deadline = deadline
        self.at_final_dot = at_final_dot
        self.done: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self.steps: list[tuple[Step, bytes]] = []
        self.stage = 0
        self.failure: tuple[Step, RawReply] | None = None
        self.behind = self.leading = self.handed_on = self.stale = self.unjudged = False
        self.kept = True

    @property
    def begun(self) -> bool:
        """True as soon as its envelope is written."""
        return bool(self.steps)

    @property
    def step(self) -> Step:
        """The step whose reply is due."""
        return self.steps[self.stage][0]

    def late(self) -> bool:
        """True when nothing more may be written under this lease."""
        return self.deadline is not None and monotonic() >= self.deadline()


class Watch:
    """Calls `when_late` once the lease has ended. A lease may be renewed, so it looks again when it should have."""

    def __init__(self, deadline: Callable[[], float], when_late: Callable[[], None]) -> None:
        self._deadline = deadline
        self._when_late = when_late
        self._timer = self._look_later()

    def _look_later(self) -> asyncio.TimerHandle:
        seconds = max(self._deadline() - monotonic(), 0.0)
        return asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        if monotonic() >= self._deadline():
            self._when_late()
        else:
            self._timer = self._look_later()

    def cancel(self) -> None:
        """Watch no more."""
        self._timer.cancel()


def lost(transaction: Transaction, how: str) -> Outcome:
    """What a lost connection leaves: a refusal already heard stands; behind the final dot all is in doubt."""
    if transaction.failure is not None:
        return negative(*transaction.failure)
    in_doubt = transaction.step is Step.FINAL_DOT
    return Outcome(AttemptResult.DOUBT if in_doubt else AttemptResult.UNREACHED, f"{how} at {transaction.step}")


def negative(step: Step, raw: RawReply) -> Outcome:
    """The outcome of a reply that ends the transaction unaccepted, by the class of its code."""
    kind = 0 if step is Step.RSET and raw[0] != 421 else raw[0] // 100
    if kind == 4:
        return Outcome(AttemptResult.LATER, f"later at {step}: {codes(raw)}", as_reply(raw))
    if kind == 5:
        return Outcome(AttemptResult.REFUSED, f"refused at {step}: {codes(raw)}", as_reply(raw))
    return Outcome(AttemptResult.UNREACHED, f"answer to {step} not understood: {codes(raw)}", as_reply(raw))
