"""Second opinions, both optional: clamd on attachments (INSTREAM in a session), rspamd on mails (HTTP /checkv2).

Neither can stop the road: who does not answer in time, or not as its protocol says, is left out and named in
`degraded`; after some failures in a row nobody is asked for a while.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import httpx
import orjson

from moderation.examination import NOTHING_KNOWN, Context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

FAILURES_MAX = 3
REST_SECONDS = 30.0
CHUNK_BYTES = 64 * 1024
ANSWER_BYTES_MAX = 4096
RSPAMD_AT_ONCE = 8
_ANSWER = re.compile(rb"(\d+): (.*)")

log = logging.getLogger(__name__)


class OpinionError(Exception):
    """A scanner answered something that its protocol does not know."""


class Submitted(NamedTuple):
    """A message as it is put before scanners: its octets, its files, and whether it is a mail (for rspamd)."""

    content: bytes
    files: tuple[bytes, ...]
    is_mail: bool


class Breaker:
    """Closed while all is well; after failures in a row it is open for a while, then lets one batch try."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name, self._clock = name, clock
        self._failures = 0
        self._open_until = 0.0

    @property
    def closed(self) -> bool:
        """Whether to ask."""
        return self._clock() >= self._open_until

    def succeeded(self) -> None:
        """Note an answer."""
        if self._failures >= FAILURES_MAX:
            log.info("%s answers again", self._name)
        self._failures = 0

    def failed(self, error: BaseException) -> None:
        """Note that there was none."""
        self._failures += 1
        if self._failures >= FAILURES_MAX:
            self._open_until = self._clock() + REST_SECONDS
        if self._failures == FAILURES_MAX:
            log.warning("%s is not asked for %.0f s: %s", self._name, REST_SECONDS, type(error).__name__)


class Clamd:
    """clamd over its unix socket: one session per batch, as many streams as there are files."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def ask(self, files: Sequence[bytes], answers: dict[int, bool | None]) -> None:
        """Note by number, from 1, whether ClamAV names a signature in a file; None where it could not look (too large).

        What it answered stays in `answers` when the rest does not come.

        Raises:
            OSError, OpinionError, EOFError: no answer, or none that is one.
        """
        reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=ANSWER_BYTES_MAX)
        try:
            await asyncio.gather(_stream(writer, files), _read_answers(reader, len(files), answers))
        finally:
            writer.close()


async def _stream(writer: asyncio.StreamWriter, files: Sequence[bytes]) -> None:
    """Write a session: its files in chunks, each behind its length (4 bytes, network order), ended by nought."""
    writer.write(b"zIDSESSION\x00")
    for content in files:
        writer.write(b"zINSTREAM\x00")
        for start in range(0, len(content), CHUNK_BYTES):
            chunk = content[start : start + CHUNK_BYTES]
            writer.write(len(chunk).to_bytes(4, "big") + chunk)
            await writer.drain()
        writer.write(bytes(4))
    writer.write(b"zEND\x00")
    await writer.drain()


async def _read_answers(reader: asyncio.StreamReader, count: int, answers: dict[int, bool | None]) -> None:
    """Read `ID: stream: OK`, `ID: stream: NAME FOUND` or `ID: ... ERROR`, in any order, each ended by a zero byte."""
    while len(answers) < count:
        try:
            told = _ANSWER.fullmatch((await reader.readuntil(b"\x00"))[:-1])
        except asyncio.LimitOverrunError as error:
            raise OpinionError("clamd: an answer without an end") from error
        if told is None or not 1 <= (number := int(told[1])) <= count:
            raise OpinionError("clamd: an answer to nothing that was asked")
        if told[2].endswith(b" FOUND"):
            answers[number] = True
        elif told[2].endswith(b"OK"):
            answers[number] = False
        elif told[2].endswith(b" ERROR"):
            answers[number] = None
        else:
            raise OpinionError("clamd: an answer that is neither OK, FOUND nor ERROR")


class Rspamd:
    """rspamd's normal worker: a mail a request, a few at once over kept connections."""

    def __init__(self, url: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        limits = httpx.Limits(max_connections=RSPAMD_AT_ONCE, max_keepalive_connections=RSPAMD_AT_ONCE)
        self._http = httpx.AsyncClient(base_url=url, limits=limits, timeout=10.0, trust_env=False, transport=transport)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def score(self, mail: bytes) -> float:
        """Return rspamd's score of a mail over the score that it requires for spam.

        Raises:
            httpx.HTTPError, OpinionError: no answer, or none that is one.
        """
        answer = await self._http.post("/checkv2", content=mail)
        if answer.status_code != httpx.codes.OK:
            raise OpinionError(f"rspamd: status {answer.status_code}")
        try:
            told = orjson.loads(answer.content)
            required = float(told["required_score"])
            return round(float(told["score"]) / required, 4) if required > 0 else 0.0
        except (ValueError, KeyError, TypeError) as error:
            raise OpinionError("rspamd: an answer without score and required_score") from error


@dataclass(slots=True)
class Opinions:
    """What scanners say of a batch, within a time."""

    clamd: Clamd | None = None
    rspamd: Rspamd | None = None
    seconds_max: float = 2.0
    clock: Callable[[], float] = time.monotonic
    _clamd_breaker: Breaker = field(init=False)
    _rspamd_breaker: Breaker = field(init=False)

    def __post_init__(self) -> None:
        self._clamd_breaker = Breaker("clamd", self.clock)
        self._rspamd_breaker = Breaker("rspamd", self.clock)

    @property
    def asked(self) -> bool:
        """Whether there is anybody to ask."""
        return self.clamd is not None or self.rspamd is not None

    async def close(self) -> None:
        """Close kept connections."""
        if self.rspamd is not None:
            await self.rspamd.close()

    async def of(self, messages: Sequence[Submitted]) -> list[Context]:
        """Return what is known of each message beside its content. Never raises and never takes longer than asked."""
        if not self.asked:
            return [NOTHING_KNOWN] * len(messages)
        infected, scores = await asyncio.gather(self._infected(messages), self._scores(messages))
        return [_context(number, infected, scores) for number in range(len(messages))]

    async def _infected(self, messages: Sequence[Submitted]) -> Mapping[int, bool | None]:
        """Return for messages with files whether one is infected; None where ClamAV did not say."""
        files = [(number, content) for number, message in enumerate(messages) for content in message.files]
        if self.clamd is None or not files:
            return {}
        answers: dict[int, bool | None] = {}
        if self._clamd_breaker.closed:
            try:
                async with asyncio.timeout(self.seconds_max):
                    await self.clamd.ask([content for _, content in files], answers)
                self._clamd_breaker.succeeded()
            except (OSError, EOFError, OpinionError, TimeoutError) as error:
                self._clamd_breaker.failed(error)
        found: dict[int, bool | None] = {}
        for place, (number, _) in enumerate(files, 1):
            one = answers.get(place)
            before = found.get(number, False)
            found[number] = True if before or one else None if before is None or one is None else False
        return found

    async def _scores(self, messages: Sequence[Submitted]) -> Mapping[int, float | None]:
        """Return the scores of mails; None where rspamd did not say."""
        if self.rspamd is None:
            return {}
        scores: dict[int, float | None] = {number: None for number, one in enumerate(messages) if one.is_mail}
        if not scores or not self._rspamd_breaker.closed:
            return scores
        waiting = iter(list(scores))
        failures: list[BaseException] = []

        async def ask(rspamd: Rspamd) -> None:
            for number in waiting:
                try:
                    scores[number] = await rspamd.score(messages[number].content)
                except (httpx.HTTPError, OpinionError) as error:
                    failures.append(error)
                    return

        try:
            async with asyncio.timeout(self.seconds_max):
                await asyncio.gather(*(ask(self.rspamd) for _ in range(min(RSPAMD_AT_ONCE, len(scores)))))
        except TimeoutError as error:
            failures.append(error)
        if failures:
            self._rspamd_breaker.failed(failures[0])
        else:
            self._rspamd_breaker.succeeded()
        return scores


def _context(number: int, infected: Mapping[int, bool | None], scores: Mapping[int, float | None]) -> Context:
    silent = [
        name for name, told in (("clamd", infected), ("rspamd", scores)) if number in told and told[number] is None
    ]
    return Context(clamd_infected=infected.get(number, None), rspamd_score=scores.get(number), degraded=tuple(silent))


def joined(known: Context, told: Context) -> Context:
    """Return what was known of a message with what scanners told of it."""
    return known._replace(
        clamd_infected=told.clamd_infected,
        rspamd_score=told.rspamd_score,
        degraded=(*known.degraded, *told.degraded),
    )
