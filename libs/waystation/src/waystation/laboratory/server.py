"""The laboratory's server: listens, keeps the record, holds what its sessions share."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from waystation.laboratory.faults import FaultBook, read_faults
from waystation.laboratory.record import RecordedMail, RecordFile, recorded
from waystation.laboratory.session import Session

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

FAULTS_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class LaboratorySettings:
    """What the server offers. `tls` is used from the first byte, or after STARTTLS with `starttls`.

    `users` (name to password) makes AUTH necessary. `keep`: hold every mail in memory (`Laboratory.mails`).
    `size_octets_max` 0: no limit. `idle_seconds` None: never closes an idle connection. `write_first`: a mail is in the
    record before it is answered, so that even a kill of the laboratory loses nothing it has acknowledged.
    """

    host: str = "127.0.0.1"
    port: int = 0
    record: Path | None = None
    digest_only: bool = False
    keep: bool = True
    faults_file: Path | None = None
    pipelining: bool = True
    eight_bit: bool = True
    utf8: bool = True
    size_octets_max: int = 64 * 1024 * 1024
    tls: ssl.SSLContext | None = None
    starttls: bool = False
    users: Mapping[str, str] = field(default_factory=dict)
    auth_mechanisms: tuple[str, ...] = ("PLAIN", "LOGIN")
    idle_seconds: float | None = None
    name: str = "laboratory.invalid"
    write_first: bool = False


class Laboratory:
    """An SMTP server for the length of an `async with` block; `faults` may be set at any time, by full address."""

    def __init__(self, settings: LaboratorySettings | None = None) -> None:
        self.settings = settings or LaboratorySettings()
        self.mails: list[RecordedMail] = []
        self.sessions: set[Session] = set()
        self.connections_seen = 0
        self.mails_seen = 0
        self._book = FaultBook()
        self._ids = itertools.count(1)
        self._record: RecordFile | None = None
        self._server: asyncio.Server | None = None
        self._poll: asyncio.TimerHandle | None = None
        self._faults_read_at: float | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def faults(self) -> dict[str, str]:
        """Fault names by full address, such as `{"a@example.org": "later-2"}`."""
        return self._book.by_address

    @property
    def book(self) -> FaultBook:
        """What the sessions ask about recipients."""
        return self._book

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the record and listen."""
        settings = self.settings
        if settings.record is not None:
            self._record = RecordFile(settings.record)
        self._read_faults()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Session(self),
            settings.host,
            settings.port,
            ssl=None if settings.starttls else settings.tls,
            backlog=1024,
        )

    async def stop(self) -> None:
        """Close the port, cut all sessions, write what is held."""
        if self._poll is not None:
            self._poll.cancel()
        if self._server is not None:
            self._server.close()
        self.cut_sessions()
        gone = [session.closed for session in tuple(self.sessions)]
        if gone:
            await asyncio.wait(gone, timeout=2)
        if self._server is not None:
            await self._server.wait_closed()
        if self._record is not None:
            self._record.close()

    def cut_sessions(self) -> None:
        """Close every connection now, as a provider's restart would."""
        for session in tuple(self.sessions):
            session.cut()

    def take(self, envelope: tuple[str, str], content: bytes, answer: Callable[[str], str]) -> str:
        """Keep one mail that was read to its final dot; `answer` makes the reply from the mail's id."""
        self.mails_seen += 1
        text = answer(f"{next(self._ids):08x}")
        settings = self.settings
        mail = recorded(time.time(), envelope, content, text, keep=not settings.digest_only)
        if settings.keep:
            self.mails.append(mail)
        if self._record is not None:
            self._record.append(mail)
            if settings.write_first:
                self._record.flush()
        return text

    def _read_faults(self) -> None:
        """Read the faults file when it has changed, and look again soon. One half written is read next time."""
        path = self.settings.faults_file
        if path is None:
            return
        self._poll = asyncio.get_running_loop().call_later(FAULTS_POLL_SECONDS, self._read_faults)
        try:
            changed_at = path.stat().st_mtime_ns
            if changed_at == self._faults_read_at:
                return
            faults = read_faults(path)
        except (OSError, ValueError):
            return
        self._faults_read_at = changed_at
        self._book.by_address = faults
