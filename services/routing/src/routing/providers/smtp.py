"""SMTP submission over pooled, kept, pipelined connections (RFC 5321, 6409, 2920). Why an own client: ADR 0003.

Every call ends in one Outcome. The point of no return is the first byte of the write that holds the final dot; content
over 64 KiB is written and drained before its dot, smaller content goes out together with it.

| what happened                                                                          | outcome   | connection |
|----------------------------------------------------------------------------------------|-----------|------------|
| address SMTP cannot carry; content with bare CR or LF, without CRLF at its end, or with a line over 998 octets; 8-bit content without 8BITMIME; UTF-8 address or header without SMTPUTF8; content over SIZE | refused | kept, nothing sent |
| deadline passed before the first byte                                                  | unreached | kept       |
| deadline passed before content or dot is written                                       | unreached | closed     |
| name not resolved, connect error, TLS failure, STARTTLS not offered                    | unreached | closed     |
| greeting, EHLO, STARTTLS or AUTH answered otherwise than hoped                         | unreached | closed     |
| kept connection found dead, or answering 421 or refusing RSET, before any other answer | one retry on a fresh connection, then as here | closed |
| 4xx at MAIL, RCPT, DATA                                                                | later     | kept       |
| 5xx at MAIL, RCPT, DATA                                                                | refused   | kept       |
| one of these, and yet 354 at DATA: nothing more is sent                                | as above  | closed     |
| 421 before the final reply, or as the final reply                                      | later     | closed     |
| 4xx / 5xx while content is being written                                               | later / refused | closed |
| other codes, garbage, lost, timed out before the dot                                   | unreached | closed     |
| 2xx to the final dot                                                                   | accepted  | kept       |
| 4xx to the final dot                                                                   | later     | kept       |
| 5xx to the final dot                                                                   | refused   | kept       |
| begun behind another mail, and the connection ends with that one                       | carried again, as from the start | - |
| begun behind another mail, and refused at MAIL or anywhere with 503                    | carried again, alone; for an hour no mail is begun behind another | kept |
| begun behind another mail, and its first command not answered in time                  | the same  | closed     |
| 3xx or garbage to the final dot; lost or timed out after it was written                | doubt     | closed     |

Where a refusal was already heard, losing the connection does not change it. `Outcome.reason` holds stage and codes
only; `Outcome.reply.text` may hold personal data. Nothing is logged here.
"""  # noqa: E501 - a table

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from routing.domain import AttemptResult, Outcome
from routing.providers.smtp_connection import ConnectionUnusableError, SmtpConnection
from routing.providers.smtp_mail import examine, misfit
from routing.providers.smtp_opening import open_connection
from routing.providers.smtp_settings import Security, SmtpSettings, parse_smtp_url
from routing.providers.smtp_transaction import DEADLINE_PASSED, Transaction, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Security", "SmtpHealth", "SmtpPool", "SmtpSettings", "parse_smtp_url"]

ALONE_SECONDS = 3600.0
"""For how long no mail is begun behind another after the server seemed to mind."""
_POOL_CLOSED = Outcome(AttemptResult.UNREACHED, "pool closed")

_Grant: TypeAlias = SmtpConnection | Outcome | None
"""What a waiting sender is given: a connection, a reason to give up, or (None) the right to open its own."""


class _Waiting(NamedTuple):
    """A sender that waits, with its mail: a connection may begin it before the sender wakes."""

    granted: asyncio.Future[_Grant]
    transaction: Transaction


@dataclass(frozen=True, slots=True)
class SmtpHealth:
    """A moment of the pool.

    `failures` counts connections that could not be opened or were lost. `last_error` holds stage and codes, never
    addresses; `last_error_at` is in monotonic seconds.
    """

    connections_open: int
    connections_idle: int
    senders_waiting: int
    failures: int
    last_error: str | None
    last_error_at: float | None


class SmtpPool:
    """Sends mail over at most `settings.connections` connections; the one used last is used first.

    Raises OSError when built with a CA file that cannot be read.
    """

    def __init__(self, settings: SmtpSettings) -> None:
        self._settings = settings
        self._tls = settings.tls_context()
        self._idle: list[SmtpConnection] = []
        self._waiting: deque[_Waiting] = deque()
        self._known: set[SmtpConnection] = set()
        self._slots = 0
        self._alone_until = 0.0
        self._closed = False
        self._failures = 0
        self._last_error: str | None = None
        self._last_error_at: float | None = None

    @property
    def connections_max(self) -> int:
        """How many connections there may be at a time."""
        return self._settings.connections

    async def send(
        self,
        *,
        mail_from: str,
        rcpt_to: str,
        content: bytes,
        deadline: Callable[[], float] | None,
        at_final_dot: Callable[[], None] | None = None,
    ) -> Outcome:
        """Hand over one mail, byte for byte; see the table of outcomes above. Empty `mail_from`: the null sender.

        `deadline` returns `time.monotonic()` seconds and is asked before each write: a lease that is renewed meanwhile
        leaves a slow server its time. `at_final_dot` is called right before the write that holds the final dot: where
        it was not called, nothing can have been accepted. Whoever cancels a send later must take it to be in doubt.
        """
        mail = examine(mail_from, rcpt_to, content, self._settings)
        if isinstance(mail, Outcome):
            return mail
        outcome: Outcome | None = None
        alone = False
        while outcome is None:
            transaction = Transaction(mail, deadline, at_final_dot, alone=alone)
            grant = await self._acquire(transaction)
            if isinstance(grant, Outcome):
                return grant
            opened = await self._open(deadline) if grant is None else grant
            if isinstance(opened, Outcome):
                return opened
            connection, outcome = opened, await self._carry(opened, transaction)
            if outcome is None:
                self._note_unjudged(connection, transaction)
                alone = True
        if transaction.stale:
            fresh = await self._open(deadline)
            if isinstance(fresh, Outcome):
                return fresh
            connection, transaction = fresh, Transaction(mail, deadline, at_final_dot)
            outcome = await self._carry(connection, transaction)
            assert outcome is not None, "nothing was before it"
        self._release(connection, transaction)
        return outcome

    def health(self) -> SmtpHealth:
        """How the pool stands now."""
        return SmtpHealth(
            connections_open=sum(connection.usable and connection.is_open for connection in self._known),
            connections_idle=len(self._idle),
            senders_waiting=sum(not one.granted.done() for one in self._waiting),
            failures=self._failures,
            last_error=self._last_error,
            last_error_at=self._last_error_at,
        )

    async def close(self, grace_seconds: float = 5.0) -> None:
        """Turn away waiting senders, let running ones end within the grace, then cut (their outcomes say how far)."""
        self._closed = True
        while self._waiting:
            granted = self._waiting.popleft().granted
            if not granted.done():
                granted.set_result(_POOL_CLOSED)
        for connection in self._known:
            connection.turn_away()
        for connection in self._idle:
            self._slots -= 1
            connection.quit()
        self._idle.clear()
        await self._all_closed(grace_seconds)
        for connection in tuple(self._known):
            connection.cut()
        await self._all_closed(grace_seconds)

    async def _all_closed(self, seconds: float) -> None:
        if self._known:
            await asyncio.wait([connection.closed for connection in self._known], timeout=seconds)

    # -- connections ------------------------------------------------------------------------------------------------

    async def _acquire(self, transaction: Transaction) -> _Grant:
        if self._closed:
            return _POOL_CLOSED
        if self._idle:
            connection = self._idle.pop()
            connection.idle = False
            return connection
        if self._slots < self._settings.connections:
            self._slots += 1
            return None
        return await self._wait(transaction)

    async def _wait(self, transaction: Transaction) -> _Grant:
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[_Grant] = loop.create_future()
        watch = Watch(transaction.deadline, partial(_give_up, granted)) if transaction.deadline is not None else None
        self._waiting.append(_Waiting(granted, transaction))
        try:
            return await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._give_back(granted.result(), transaction)
            raise
        finally:
            if watch is not None:
                watch.cancel()

    def _give_back(self, grant: _Grant, transaction: Transaction) -> None:
        if grant is None:
            self._free_slot()
        elif isinstance(grant, SmtpConnection):
            if transaction.begun:
                self._withdraw(grant, transaction)
            else:
                self._release(grant, transaction)

    def _next_mail(self, connection: SmtpConnection) -> Transaction | None:
        """Return the mail that waits longest, to be begun behind the final dot of the connection's present one."""
        while self._waiting and self._waiting[0].granted.done():
            self._waiting.popleft()
        room = connection.messages + 2 <= self._settings.messages_per_connection_max
        if not self._waiting or self._closed or not room or monotonic() < self._alone_until:
            return None
        granted, transaction = self._waiting[0]
        if transaction.alone or transaction.late() or misfit(transaction.mail, connection.extensions) is not None:
            return None
        self._waiting.popleft()
        granted.set_result(connection)
        return transaction

    async def _open(self, deadline: Callable[[], float] | None) -> SmtpConnection | Outcome:
        """Open a connection in the slot the caller holds; the slot is freed when that fails."""
        if deadline is not None and monotonic() >= deadline():
            self._free_slot()
            return DEADLINE_PASSED
        limit = asyncio.timeout(self._settings.connect_timeout_seconds)
        watch = Watch(deadline, partial(_end, limit)) if deadline is not None else None
        connection = SmtpConnection(self._settings, self._forget_idle, self._next_mail)
        self._known.add(connection)
        connection.closed.add_done_callback(lambda _: self._known.discard(connection))
        try:
            await open_connection(connection, self._settings, self._tls, limit)
        except ConnectionUnusableError as error:
            self._note_failure(str(error))
            self._free_slot()
            return Outcome(AttemptResult.UNREACHED, str(error))
        except BaseException:
            self._free_slot()
            raise
        finally:
            if watch is not None:
                watch.cancel()
        return connection

    async def _carry(self, connection: SmtpConnection, transaction: Transaction) -> Outcome | None:
        if not transaction.begun:
            refusal = misfit(transaction.mail, connection.extensions)
            if refusal is not None:
                return refusal
            connection.transact(transaction)
        try:
            outcome = await transaction.done
        except BaseException:
            self._withdraw(connection, transaction)
            raise
        if outcome is not None and not transaction.kept:
            self._note_failure(outcome.reason)
        return outcome

    def _note_unjudged(self, connection: SmtpConnection, transaction: Transaction) -> None:
        """A mail begun behind another has to be carried again; a server that takes none there gets none for a while."""
        if transaction.unjudged:
            self._alone_until = monotonic() + ALONE_SECONDS
        if transaction.leading:
            self._release(connection, transaction)

    def _withdraw(self, connection: SmtpConnection, transaction: Transaction) -> None:
        """Its sender has left: nothing more of the mail is written, and the connection serves whom it can."""
        done = transaction.done
        if not transaction.leading:
            done.cancel()  # when its turn comes, the connection ends
        elif transaction.handed_on or (done.done() and not done.cancelled()):
            self._release(connection, transaction)
        else:
            connection.abort()
            self._free_slot()

    def _release(self, connection: SmtpConnection, transaction: Transaction) -> None:
        if transaction.handed_on:
            return
        if not connection.usable:
            self._free_slot()
        elif self._closed or connection.messages >= self._settings.messages_per_connection_max:
            connection.quit()
            self._free_slot()
        elif not self._grant(connection):
            connection.park()
            self._idle.append(connection)

    def _free_slot(self) -> None:
        """The slot goes to who waits longest, else back to the pool."""
        if self._closed or not self._grant(None):
            self._slots -= 1

    def _grant(self, grant: SmtpConnection | None) -> bool:
        while self._waiting:
            granted = self._waiting.popleft().granted
            if not granted.done():
                granted.set_result(grant)
                return True
        return False

    def _forget_idle(self, connection: SmtpConnection) -> None:
        """An idle connection ended by itself or by its idle time: its slot is free (nobody waits while one is idle)."""
        self._idle.remove(connection)
        self._slots -= 1

    def _note_failure(self, reason: str) -> None:
        self._failures += 1
        self._last_error = reason
        self._last_error_at = monotonic()


def _end(limit: asyncio.Timeout) -> None:
    if not limit.expired():
        limit.reschedule(asyncio.get_running_loop().time())


def _give_up(granted: asyncio.Future[_Grant]) -> None:
    if not granted.done():
        granted.set_result(DEADLINE_PASSED)
