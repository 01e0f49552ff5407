"""One SMTP session of the laboratory, as a state machine over a byte buffer (RFC 5321, 2920, 3207, 4954)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from typing import TYPE_CHECKING, cast

from waystation.laboratory.record import headers_end

if TYPE_CHECKING:
    from collections.abc import Callable

    from waystation.laboratory.faults import Fault
    from waystation.laboratory.server import Laboratory

COMMAND_OCTETS_MAX = 4096
SUBJECT_OCTETS_MAX = 200

_PATH = re.compile(r"(?:FROM|TO): ?<([^>]*)>(.*)", re.IGNORECASE)
_SIZE = re.compile(r"\bSIZE=(\d+)", re.IGNORECASE)
_SUBJECT = re.compile(rb"^subject:[ \t]*([^\r\n]*)", re.IGNORECASE | re.MULTILINE)
_END = b"\r\n.\r\n"


class Session(asyncio.Protocol):
    """Reads commands and content, writes replies; answers of one read leave in one write."""

    def __init__(self, laboratory: Laboratory) -> None:
        self._laboratory = laboratory
        self._settings = laboratory.settings
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._scanned = 0
        self._out: list[bytes] = []
        self._reading_content = False
        self._sender: str | None = None
        self._recipients: list[tuple[str, Fault | None]] = []
        self._fault_names: set[str] = set()
        self._encrypted = self._settings.tls is not None and not self._settings.starttls
        self._user: str | None = None
        self._dialogue: Callable[[str], None] | None = None
        self._delay: asyncio.TimerHandle | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._upgrade: asyncio.Task[None] | None = None
        self._cut = False
        self.closed: asyncio.Future[None] = self._loop.create_future()

    # -- transport ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = cast("asyncio.Transport", transport)
        self._laboratory.sessions.add(self)
        self._laboratory.connections_seen += 1
        self._transport.write(f"220 {self._settings.name} ESMTP\r\n".encode())
        self._watch_idle()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason does not matter
        """Forget the session."""
        for timer in (self._delay, self._idle):
            if timer is not None:
                timer.cancel()
        self._laboratory.sessions.discard(self)
        if not self.closed.done():
            self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Bytes of commands or content."""
        self._buffer += data
        if self._delay is None and self._upgrade is None:
            self._work()

    def cut(self) -> None:
        """Close without a word; what was answered before still leaves."""
        self._cut = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Reset the connection; answers on their way may be lost."""
        self._cut = True
        if self._transport is not None:
            self._transport.abort()

    def _work(self) -> None:
        while self._delay is None and not self._cut and self._step():
            pass
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
            self._out.clear()
        if self._cut and self._transport is not None:
            self._transport.close()
        self._watch_idle()

    def _step(self) -> bool:
        """Take one command or one content from the buffer; False when it holds neither whole."""
        return self._step_content() if self._reading_content else self._step_command()

    def _say(self, reply: str) -> None:
        self._out.append(f"{reply}\r\n".encode("utf-8", "replace"))

    def _watch_idle(self) -> None:
        seconds = self._settings.idle_seconds
        if seconds is None:
            return
        if self._idle is not None:
            self._idle.cancel()
        self._idle = self._loop.call_later(seconds, self.cut)

    def _later(self, seconds: float, then: Callable[[], None]) -> None:
        """Go on after a while; bytes that come meanwhile wait."""

        def resume() -> None:
            self._delay = None
            then()
            self._work()

        self._delay = self._loop.call_later(seconds, resume)

    # -- commands -----------------------------------------------------------------------------------------------

    def _step_command(self) -> bool:
        end = self._buffer.find(b"\n")
        if end < 0:
            if len(self._buffer) > COMMAND_OCTETS_MAX:
                self._say("500 5.5.2 line too long")
                self._cut = True
            return False
        line = self._buffer[:end].rstrip(b"\r").decode("utf-8", "replace")
        del self._buffer[: end + 1]
        if self._dialogue is not None:
            self._dialogue(line)
            return True
        verb, _, rest = line.partition(" ")
        command = _COMMANDS.get(verb.upper())
        if command is None:
            self._say("500 5.5.2 command not known")
        else:
            command(self, rest)
        return True

    def _ehlo(self, rest: str) -> None:
        if not rest:
            self._say("501 5.5.4 EHLO needs a name")
            return
        self._reset()
        settings = self._settings
        lines = [settings.name, f"SIZE {settings.size_octets_max}", "ENHANCEDSTATUSCODES"]
        lines += ["PIPELINING"] * settings.pipelining + ["8BITMIME"] * settings.eight_bit + ["SMTPUTF8"] * settings.utf8
        if settings.starttls and not self._encrypted:
            lines.append("STARTTLS")
        elif settings.users:
            lines.append(f"AUTH {' '.join(settings.auth_mechanisms)}")
        for line in lines[:-1]:
            self._say(f"250-{line}")
        self._say(f"250 {lines[-1]}")

    def _helo(self, rest: str) -> None:  # noqa: ARG002 - one signature for all commands
        self._reset()
        self._say(f"250 {self._settings.name}")

    def _mail(self, rest: str) -> None:
        found = _PATH.fullmatch(rest)
        size = _SIZE.search(found[2]) if found and found[2] else None
        if self._settings.users and self._user is None:
            self._say("530 5.7.0 authenticate first")
        elif self._sender is not None:
            self._say("503 5.5.1 nested MAIL")
        elif found is None:
            self._say("501 5.5.4 syntax: MAIL FROM:<address>")
        elif size and 0 < self._settings.size_octets_max < int(size[1]):
            self._say("552 5.3.4 message too big")
        else:
            self._sender = found[1]
            self._say("250 2.1.0 sender ok")

    def _rcpt(self, rest: str) -> None:
        found = _PATH.fullmatch(rest)
        if self._sender is None:
            self._say("503 5.5.1 MAIL first")
        elif found is None or not found[1]:
            self._say("501 5.5.4 syntax: RCPT TO:<address>")
        else:
            self._take_recipient(found[1], self._laboratory.book.find(found[1]))

    def _take_recipient(self, address: str, fault: Fault | None) -> None:
        name = fault.name if fault else None
        if name == "refuse":
            self._say(f"550 5.1.1 <{address}>: no such recipient here")
        elif name == "421":
            self._say(f"421 4.3.2 <{address}>: closing down")
            self._cut = True
        elif fault and name == "greylist" and self._laboratory.book.still_grey(address, fault, time.monotonic()):
            self._say(f"451 4.7.1 <{address}>: greylisted, try again")
        elif fault and name == "tarpit":
            self._later(fault.number, lambda: self._accept_recipient(address, fault))
        else:
            self._accept_recipient(address, fault)

    def _accept_recipient(self, address: str, fault: Fault | None) -> None:
        self._recipients.append((address, fault))
        if fault is not None:
            self._fault_names.add(fault.name)
        self._say(f"250 2.1.5 <{address}> ok")

    def _data(self, rest: str) -> None:  # noqa: ARG002 - one signature for all commands
        if not self._recipients:
            self._say("503 5.5.1 no valid recipients")
        elif self._has("cut-data"):
            self._cut = True
        else:
            self._say("354 end with a dot")
            self._reading_content = True
            self._scanned = 0

    def _rset(self, rest: str) -> None:  # noqa: ARG002 - one signature for all commands
        self._reset()
        self._say("250 2.0.0 reset")

    def _noop(self, rest: str) -> None:  # noqa: ARG002 - one signature for all commands
        self._say("250 2.0.0 ok")

    def _vrfy(self, rest: str) -> None:  # noqa: ARG002 - one signature for all commands
        self._say("252 2.1.5 try it")

    def _quit(self, rest: str) -> None:  # noqa: ARG002 - one signature for all commands
        self._say("221 2.0.0 bye")
        self._cut = True

    def _reset(self) -> None:
        self._sender = None
        self._recipients = []
        self._fault_names.clear()

    def _has(self, name: str) -> bool:
        return name in self._fault_names

    # -- content ------------------------------------------------------------------------------------------------

    def _step_content(self) -> bool:
        buffer = self._buffer
        if buffer and self._has("cut-early"):
            self._cut = True
            return False
        if buffer.startswith(b".\r\n"):
            end, length = 0, 3
        else:
            end, length = buffer.find(_END, max(0, self._scanned - 4)), 5
        if end < 0:
            self._scanned = len(buffer)
            return False
        content = bytes(buffer[: end + length - 3])
        del buffer[: end + length]
        self._reading_content = False
        self._take_content(_unstuffed(content))
        return True

    def _take_content(self, content: bytes) -> None:
        sender, recipients = self._sender or "", self._recipients
        self._reset()
        slowness = 0
        answer = ""
        for address, fault in recipients:
            name = fault.name if fault else None
            if name == "cut-lost":
                self._cut = True
                return
            make = self._answer(address, fault, content)
            answer = self._laboratory.take((sender, address), content, make)
            if fault and name == "slow":
                slowness = fault.number
        if answer == "cut":
            self._cut = True
        elif slowness:
            self._later(slowness, lambda: self._say(answer))
        else:
            self._say(answer)

    def _answer(self, address: str, fault: Fault | None, content: bytes) -> Callable[[str], str]:
        name = fault.name if fault else None
        if name in {"cut", "garbage"}:
            return lambda _: str(name)
        echo = f'<{address}> subject "{_subject(content)}"'
        if name == "refuse-content":
            return lambda _: f"554 5.7.1 not wanted for {echo}"
        if fault and name == "later" and self._laboratory.book.still_later(address, fault):
            return lambda _: f"451 4.3.0 not now for {echo}"
        return lambda mail_id: f"250 2.0.0 queued for {echo} as {mail_id}"

    # -- STARTTLS and AUTH ----------------------------------------------------------------------------------------

    def _starttls(self, rest: str) -> None:  # noqa: ARG002 - one signature for all commands
        if self._settings.tls is None or not self._settings.starttls or self._encrypted:
            self._say("502 5.5.1 STARTTLS not offered")
            return
        assert self._transport is not None
        self._transport.pause_reading()  # the client's hello is for TLS, not for this session
        self._buffer.clear()
        self._encrypted = True
        self._reset()
        self._say("220 2.0.0 go on")
        self._upgrade = self._loop.create_task(self._start_tls())

    async def _start_tls(self) -> None:
        assert self._transport is not None
        assert self._settings.tls is not None
        try:
            transport = await self._loop.start_tls(self._transport, self, self._settings.tls, server_side=True)
        except OSError:
            self.cut()
            return
        self._transport = transport
        self._upgrade = None
        self._work()

    def _auth(self, rest: str) -> None:
        mechanism, _, initial = rest.partition(" ")
        mechanism = mechanism.upper()
        if mechanism not in self._settings.auth_mechanisms or not self._settings.users:
            self._say("504 5.5.4 mechanism not offered")
        elif self._settings.starttls and not self._encrypted:
            self._say("538 5.7.11 STARTTLS first")
        elif mechanism == "PLAIN" and initial:
            self._check_plain(initial)
        elif mechanism == "PLAIN":
            self._ask("334 ", self._check_plain)
        else:
            self._ask("334 VXNlcm5hbWU6", self._take_username)

    def _ask(self, prompt: str, dialogue: Callable[[str], None]) -> None:
        self._say(prompt)
        self._dialogue = dialogue

    def _check_plain(self, text: str) -> None:
        _, _, pair = _decoded(text).partition("\0")
        self._check(*pair.partition("\0")[::2])

    def _take_username(self, text: str) -> None:
        name = _decoded(text)
        self._ask("334 UGFzc3dvcmQ6", lambda password: self._check(name, _decoded(password)))

    def _check(self, name: str, password: str) -> None:
        self._dialogue = None
        if password and self._settings.users.get(name) == password:
            self._user = name
            self._say("235 2.7.0 welcome")
        else:
            self._say("535 5.7.8 credentials not accepted")


_COMMANDS: dict[str, Callable[[Session, str], None]] = {
    "EHLO": Session._ehlo,  # noqa: SLF001 - the session's own table
    "HELO": Session._helo,  # noqa: SLF001
    "MAIL": Session._mail,  # noqa: SLF001
    "RCPT": Session._rcpt,  # noqa: SLF001
    "DATA": Session._data,  # noqa: SLF001
    "RSET": Session._rset,  # noqa: SLF001
    "NOOP": Session._noop,  # noqa: SLF001
    "VRFY": Session._vrfy,  # noqa: SLF001
    "QUIT": Session._quit,  # noqa: SLF001
    "STARTTLS": Session._starttls,  # noqa: SLF001
    "AUTH": Session._auth,  # noqa: SLF001
}


def _unstuffed(content: bytes) -> bytes:
    plain = content.replace(b"\r\n.", b"\r\n")
    return plain[1:] if plain.startswith(b".") else plain


def _subject(content: bytes) -> str:
    found = _SUBJECT.search(content, 0, headers_end(content))
    return found[1][:SUBJECT_OCTETS_MAX].decode("utf-8", "replace") if found else ""


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""
