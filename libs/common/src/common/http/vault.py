"""The client of the vault for the services that its caller table names."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec

from common.contracts.vault import (
    DiscloseAnswer,
    DiscloseAnswers,
    DiscloseCall,
    OpenAnswer,
    OpenAnswers,
    OpenCall,
    SealAnswer,
    SealAnswers,
    SealCall,
    UnsettledAnswers,
)
from common.kafka.consumer import RetryableError
from common.telemetry.measuring import Measures
from common.telemetry.metrics import HTTP_CLIENT_DURATION
from common.telemetry.tracing import CONTEXTS_HEADER, OFF, contexts_header, end_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from common.contracts.vault import Unsettled
    from common.security.tokens import TokenIssuer
    from common.telemetry.tracing import Tracer

AUDIENCE = "vault"
CONNECTIONS_MAX = 8
KEEP_ALIVE_SECONDS = 30.0
CONNECT_SECONDS = 2.0
SILENCE_SECONDS = 10.0
_LONG_SILENCE_SECONDS = 60.0
_FORBIDDEN = (401, 403)

Ask = Callable[[str, str, Mapping[str, str], bytes | None, float], Awaitable[tuple[int, bytes]]]
"""Sends method, address, headers and body; returns status and body, unless the server is silent for so many seconds."""
T = TypeVar("T", bound=msgspec.Struct)


class VaultUnavailableError(RetryableError):
    """The vault did not answer, or not for the whole batch; ask again later."""


class VaultRefusedError(Exception):
    """The vault does not accept this caller or purpose: a deployment fault, not one of a message."""


class Connections:
    """Connections to one server that are kept, at most eight; opened when they are needed."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, silence_seconds: float
    ) -> tuple[int, bytes]:
        """Return status and body, or raise aiohttp.ClientError or TimeoutError."""
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX, keepalive_timeout=KEEP_ALIVE_SECONDS)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        timeout = aiohttp.ClientTimeout(
            connect=SILENCE_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=silence_seconds
        )
        async with self._session.request(
            method, url, headers=headers, data=body, timeout=timeout, allow_redirects=False
        ) as response:
            return response.status, await response.read()

    async def close(self) -> None:
        """Close them."""
        if self._session is not None:
            await self._session.close()


class VaultClient:
    """Seal, open and disclose in batches over kept connections."""

    def __init__(
        self,
        url: str,
        issuer: TokenIssuer,
        *,
        tracer: Tracer = OFF,
        measures: Measures | None = None,
        ask: Ask | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._issuer = issuer
        self._tracer = tracer
        self._durations = (measures or Measures()).durations(HTTP_CLIENT_DURATION)
        self._connections = Connections()
        self._ask = ask or self._connections.ask

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.close()

    async def seal(self, call: SealCall) -> Sequence[SealAnswer]:
        """Find or create recipients and wrap message keys."""
        return (await self._post("/v1/seal:batch", call, SealAnswers)).items

    async def open(self, call: OpenCall) -> Sequence[OpenAnswer]:
        """Unwrap message keys for a purpose."""
        return (await self._post("/v1/open:batch", call, OpenAnswers)).items

    async def disclose(self, call: DiscloseCall) -> Sequence[DiscloseAnswer]:
        """Get what a provider needs; the vault's ledger has the row before this returns."""
        return (await self._post("/v1/disclose:batch", call, DiscloseAnswers)).items

    async def unsettled(self, since: datetime) -> Sequence[Unsettled]:
        """Return what was disclosed to this caller since then for messages that are not known to be handed over."""
        path = "/v1/disclosures/unsettled"
        url = f"{self._url}{path}?{urlencode({'since': since.isoformat()})}"
        try:
            answer = await self._ask("GET", url, self._issuer.headers(AUDIENCE), None, _LONG_SILENCE_SECONDS)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise VaultUnavailableError(f"{path}: {type(error).__name__}") from error
        return msgspec.json.decode(_content(path, answer), type=UnsettledAnswers).items

    async def _post(self, path: str, call: msgspec.Struct, answers: type[T]) -> T:
        headers = {"content-type": "application/json", **self._issuer.headers(AUDIENCE)}
        spans = self._tracer.call(f"POST {path}", {"http.request.method": "POST", "url.path": path})
        if spans:
            headers[CONTEXTS_HEADER] = contexts_header(spans)
        body = msgspec.json.encode(call)
        started, status = time.monotonic(), "cancelled"
        try:
            answer = await self._ask("POST", self._url + path, headers, body, SILENCE_SECONDS)
            status = str(answer[0])
        except (aiohttp.ClientError, TimeoutError) as error:
            status = type(error).__name__
            raise VaultUnavailableError(f"{path}: {type(error).__name__}") from error
        finally:
            self._durations.record(time.monotonic() - started, "POST", path, status)
            end_all(spans, None if status == "200" else status)
        return msgspec.json.decode(_content(path, answer), type=answers)


def _content(path: str, answer: tuple[int, bytes]) -> bytes:
    status, content = answer
    if status in _FORBIDDEN:
        raise VaultRefusedError(f"{path}: {status}; check the identity keys of this deployment")
    if status != HTTPStatus.OK:
        raise VaultUnavailableError(f"{path}: status {status}")
    return content
