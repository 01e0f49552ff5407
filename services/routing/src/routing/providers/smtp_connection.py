"""One SMTP connection as a state machine: commands while it is being opened, then one transaction after the other.

The envelope of a mail that waits is written together with the final dot of the mail before it (RFC 2920 3.1): a round
trip a mail instead of two. Its content is not, so whatever happens before its own final dot leaves it untouched.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, cast

from routing.domain import AttemptResult, Outcome
from routing.providers.smtp_mail import Extensions, dot_stuffed, mail_command
from routing.providers.smtp_replies import RawReply, ReplyParser, as_reply, codes
from routing.providers.smtp_transaction import DEADLINE_PASSED, Step, Transaction, lost, negative

if TYPE_CHECKING:
    from collections.abc import Callable

    from routing.providers.smtp_settings import SmtpSettings

BAD_SEQUENCE = 503
LARGE_CONTENT_OCTETS = 64 * 1024
QUIT_SECONDS = 2.0


class ConnectionUnusableError(Exception):
    """The connection could not be opened; `str()` holds stage and codes, never a reply's text."""


_ENVELOPE_CLASS = {Step.RSET: 2, Step.MAIL: 2, Step.RCPT: 2, Step.DATA: 3}
_DATA_STEP = (Step.DATA, b"DATA\r\n")
_RSET_STEP = (Step.RSET, b"RSET\r\n")
_CONTENT_STEP = (Step.CONTENT, b"")
_FINAL_STEP = (Step.FINAL_DOT, b"")


class SmtpConnection(asyncio.Protocol):
    """A connection to the provider. Use `command` until it is open, then `transact`, one mail at a time.

    `usable`: it may carry another mail. Where the server takes commands in groups, `next_mail` is asked for the mail
    that is begun behind a final dot.
    """

    def __init__(
        self,
        settings: SmtpSettings,
        on_idle_lost: Callable[[SmtpConnection], None],
        next_mail: Callable[[SmtpConnection], Transaction | None],
    ) -> None:
        self._settings = settings
        self._on_idle_lost = on_idle_lost
        self._next_mail = next_mail
        self._loop = asyncio.get_running_loop()
        self._parser = ReplyParser()
        self._transport: asyncio.Transport | None = None
        self._transaction: Transaction | None = None
        self._following: Transaction | None = None
        self._command: asyncio.Future[RawReply] | None = None
        self._early: list[RawReply] = []
        self._held: list[RawReply] | None = None
        self._reset_first = False
        self._writing_paused = False
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.closed = self._loop.create_future()
        self.extensions = Extensions()
        self.messages = 0
        self.idle = False
        self.usable = True
        self.quitting = False

    # -- opening ------------------------------------------------------------------------------------------------

    @property
    def transport(self) -> asyncio.Transport:
        """The live transport; only after `connection_made`."""
        assert self._transport is not None
        return self._transport

    @property
    def is_open(self) -> bool:
        """True from `connection_made` until the connection is closed or being closed."""
        return self._transport is not None and not self._transport.is_closing()

    def replace_transport(self, transport: asyncio.Transport) -> None:
        """Go on over TLS. What the server said in clear before is forgotten (RFC 3207 4.2)."""
        self._transport = transport
        self.extensions = Extensions()

    @property
    def answered_too_much(self) -> bool:
        """True when the server has said more than it was asked: before STARTTLS that may be injected text."""
        return bool(self._early) or self._parser.pending or self._parser.broken

    async def command(self, line: bytes) -> RawReply:
        """Send one command (empty: wait for the greeting) and return its reply.

        Raises ConnectionUnusableError when the connection is lost or talks nonsense. The caller limits the time.
        """
        if line:
            self.transport.write(line)
        if self._early:
            return self._early.pop(0)
        if not self.usable:
            raise ConnectionUnusableError("connection lost")
        self._command = self._loop.create_future()
        try:
            return await self._command
        finally:
            self._command = None

    # -- carrying mail --------------------------------------------------------------------------------------------

    def transact(self, transaction: Transaction) -> None:
        """Start one transaction; its future ends in an Outcome (or in what `at_final_dot` raised)."""
        if transaction.late():
            transaction.done.set_result(DEADLINE_PASSED)
            return
        self._lead(transaction)
        lines = self._envelope(transaction)
        self.transport.write(b"".join(lines) if self.extensions.pipelining else lines[0])

    def _lead(self, transaction: Transaction) -> None:
        self._transaction = transaction
        transaction.leading = True
        self._expect_within(self._settings.command_timeout_seconds)

    def _envelope(self, transaction: Transaction) -> list[bytes]:
        mail, steps = transaction.mail, transaction.steps
        if self._reset_first:
            steps.append(_RSET_STEP)
            self._reset_first = False
        steps.append((Step.MAIL, mail_command(mail, self.extensions)))
        steps.append((Step.RCPT, b"RCPT TO:<%b>\r\n" % mail.rcpt_to))
        steps.append(_DATA_STEP)
        return [line for _, line in steps]

    def data_received(self, data: bytes) -> None:
        """Replies arrive."""
        for raw in self._parser.feed(data):
            self._take_reply(raw)
        if self._parser.broken and self.usable:
            self._lose("reply not understood")

    def _take_reply(self, raw: RawReply) -> None:
        transaction = self._transaction
        if not self.usable:
            return
        if self._held is not None:
            self._held.append(raw)
        elif transaction is not None:
            self._take_answer(transaction, raw)
        elif self._command is not None and not self._command.done():
            self._command.set_result(raw)
        elif self.idle or self.messages:
            self._lose("unexpected reply")
        else:
            self._early.append(raw)

    def _take_answer(self, transaction: Transaction, raw: RawReply) -> None:
        step = transaction.step
        if step is Step.FINAL_DOT:
            self._take_final(raw)
        elif step is Step.CONTENT:
            self._end(negative(step, raw), reusable=False)
        elif raw[0] == 421 or (step is Step.RSET and raw[0] // 100 != 2):
            transaction.stale = transaction.stage == 0 and self.messages > 0
            self._end(negative(*(transaction.failure or (step, raw))), reusable=False)
        else:
            self._take_envelope(transaction, step, raw)

    def _take_envelope(self, transaction: Transaction, step: Step, raw: RawReply) -> None:
        kind = raw[0] // 100
        agreed = kind == _ENVELOPE_CLASS[step]
        if not agreed and kind not in {4, 5} and transaction.failure is None:
            self._end(negative(step, raw), reusable=False)
            return
        if not agreed and transaction.failure is None:
            transaction.failure = (step, raw)
        transaction.stage += 1
        if transaction.failure is not None:
            self._take_after_failure(transaction, transaction.failure, step, raw)
        elif transaction.stage == len(transaction.steps):
            self._write_content(transaction)
        elif not self.extensions.pipelining:
            self._expect_within(self._settings.command_timeout_seconds)
            self.transport.write(transaction.steps[transaction.stage][1])

    def _take_after_failure(
        self,
        transaction: Transaction,
        failure: tuple[Step, RawReply],
        step: Step,
        raw: RawReply,
    ) -> None:
        if self.extensions.pipelining and transaction.stage < len(transaction.steps):
            return
        awaits_content = step is Step.DATA and raw[0] // 100 == 3
        self._reset_first = True
        refused_at, reply = failure
        transaction.unjudged = transaction.behind and (refused_at is Step.MAIL or reply[0] == BAD_SEQUENCE)
        outcome = None if transaction.unjudged else negative(*failure)
        self._end(outcome, reusable=not awaits_content)

    # -- content and the point of no return -----------------------------------------------------------------------

    def _write_content(self, transaction: Transaction) -> None:
        if transaction.late():
            self._end(DEADLINE_PASSED, reusable=False)
            return
        content = dot_stuffed(transaction.mail.content)
        if len(content) <= LARGE_CONTENT_OCTETS:
            self._write_final(transaction, content + b".\r\n")
            return
        transaction.steps.append(_CONTENT_STEP)
        self._expect_within(self._settings.final_reply_timeout_seconds)
        self.transport.write(content)
        if not self._writing_paused:
            self._write_final(transaction, b".\r\n")

    def _write_final(self, transaction: Transaction, block: bytes) -> None:
        if transaction.at_final_dot is not None:
            try:
                transaction.at_final_dot()
            except Exception as error:  # noqa: BLE001 - handed to the sender, who gave the callback
                self._transaction = None
                self.abort()
                if not transaction.done.done():
                    transaction.done.set_exception(error)
                return
        transaction.steps.append(_FINAL_STEP)
        transaction.stage = len(transaction.steps) - 1
        self._expect_within(self._settings.final_reply_timeout_seconds)
        if self.extensions.pipelining and (following := self._next_mail(self)) is not None:
            self._following = following
            following.behind = True
            block = b"".join([block, *self._envelope(following)])
        self.transport.write(block)

    def _take_final(self, raw: RawReply) -> None:
        kind = raw[0] // 100
        if kind == 2:
            reason = f"accepted at final dot: {codes(raw)}"
            self._end(Outcome(AttemptResult.ACCEPTED, reason, as_reply(raw)), reusable=True)
        elif kind == 3:
            reason = f"answer to final dot not understood: {codes(raw)}"
            self._end(Outcome(AttemptResult.DOUBT, reason, as_reply(raw)), reusable=False)
        else:
            self._end(negative(Step.FINAL_DOT, raw), reusable=raw[0] != 421)

    def pause_writing(self) -> None:
        """The transport holds more than it likes."""
        self._writing_paused = True

    def resume_writing(self) -> None:
        """Large content has left: now the dot."""
        self._writing_paused = False
        transaction = self._transaction
        if transaction is None or not self.usable or transaction.stage >= len(transaction.steps):
            return
        if transaction.step is not Step.CONTENT:
            return
        if transaction.late():
            self._end(DEADLINE_PASSED, reusable=False)
        else:
            self._write_final(transaction, b".\r\n")

    # -- ends -----------------------------------------------------------------------------------------------------

    def _end(self, outcome: Outcome | None, *, reusable: bool) -> None:
        transaction, self._transaction = self._transaction, None
        assert transaction is not None, "what ends was under way"
        transaction.kept = reusable
        self._due = None
        self.messages += 1
        following = self._following
        if not reusable or (following is not None and following.done.done()):
            self.abort()
        elif following is not None:
            self._following = None
            transaction.handed_on = True
            self._lead(following)
        if not transaction.done.done():
            transaction.done.set_result(outcome)
        if transaction.handed_on:
            # The sender notes its outcome first: no two mails of a connection are beyond their final dots at once.
            self._held = []
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        held, self._held = self._held, None
        for raw in held or ():
            self._take_reply(raw)

    def _lose(self, how: str) -> None:
        """The connection is of no more use; whatever waits for it learns why."""
        transaction = self._transaction
        if transaction is not None:
            self._end(lost(transaction, how), reusable=False)
            return
        if self._command is not None and not self._command.done():
            self._command.set_exception(ConnectionUnusableError(how))
        was_idle = self.idle
        self.abort()
        if was_idle:
            self._on_idle_lost(self)

    def turn_away(self) -> None:
        """Let go of the mail whose turn has not come: nobody waits for the answers to its envelope any more."""
        if self._following is not None and not self._following.done.done():
            self._following.done.set_result(None)

    def abort(self) -> None:
        """Close at once; whatever is still unwritten is dropped, so that no final dot follows."""
        self.usable = self.idle = False
        self._due = None
        self.turn_away()
        if self._transport is not None:
            self._transport.abort()
        elif not self.closed.done():
            self.closed.set_result(None)

    def cut(self) -> None:
        """Close at once and let whoever waits know how far it had come."""
        if self.usable:
            self._lose("cut off")
        else:
            self.abort()

    def quit(self) -> None:
        """Say QUIT and close when the server answers, or soon."""
        self.usable = self.idle = False
        if self._transport is not None and not self._transport.is_closing():
            self.quitting = True
            self._transport.write(b"QUIT\r\n")
            self._expect_within(min(QUIT_SECONDS, self._settings.command_timeout_seconds))

    # -- transport events -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP (and TLS, where it comes first) stands."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it ended changes nothing
        """Whatever waits learns of it."""
        transaction = self._transaction
        if transaction is not None and transaction.stage == 0 and self.messages > 0:
            transaction.stale = True
        if self.usable:
            self._lose("connection lost")
        self._due = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.closed.done():
            self.closed.set_result(None)

    # -- time -------------------------------------------------------------------------------------------------------

    def park(self) -> None:
        """Keep the connection for another mail, up to the idle time."""
        self.idle = True
        self._expect_within(self._settings.idle_seconds)

    def _expect_within(self, seconds: float) -> None:
        self._due = monotonic() + seconds
        if self._timer is None or self._due < self._timer_at:
            self._arm(self._due)

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(at - monotonic(), 0.001), self._on_timer)

    def _on_timer(self) -> None:
        """One lazy timer a connection: it fires at the earliest time ever due and moves itself on."""
        self._timer = None
        if self._due is None:
            return
        if monotonic() < self._due:
            self._arm(self._due)
        elif self.idle:
            self._on_idle_lost(self)
            self.quit()
        elif self._transaction is not None and self._transaction.behind and self._transaction.stage == 0:
            self._transaction.unjudged = True
            self._end(None, reusable=False)
        elif self.usable:
            self._lose("no reply in time")
        else:
            self.abort()
