"""The client of the vault for the services that its caller table names."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import httpx
import msgspec
from httpx_aiohttp import HttpxAiohttpClient

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
_TIMEOUT = httpx.Timeout(10.0, connect=2.0)
_LIMITS = httpx.Limits(max_connections=8, max_keepalive_connections=8, keepalive_expiry=30.0)
_FORBIDDEN = (401, 403)

T = TypeVar("T", bound=msgspec.Struct)


class VaultUnavailableError(RetryableError):
    """The vault did not answer, or not for the whole batch; ask again later."""


class VaultRefusedError(Exception):
    """The vault does not accept this caller or purpose: a deployment fault, not one of a message."""


class VaultClient:
    """Seal, open and disclose in batches over kept connections."""

    def __init__(
        self, url: str, issuer: TokenIssuer, *, tracer: Tracer = OFF, measures: Measures | None = None
    ) -> None:
        self._issuer = issuer
        self._tracer = tracer
        self._durations = (measures or Measures()).durations(HTTP_CLIENT_DURATION)
        self._http = HttpxAiohttpClient(base_url=url, timeout=_TIMEOUT, limits=_LIMITS, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

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
        try:
            response = await self._http.get(
                path, params={"since": since.isoformat()}, headers=self._issuer.headers(AUDIENCE), timeout=60.0
            )
        except httpx.TransportError as error:
            raise VaultUnavailableError(f"{path}: {type(error).__name__}") from error
        return msgspec.json.decode(_content(path, response), type=UnsettledAnswers).items

    async def _post(self, path: str, call: msgspec.Struct, answers: type[T]) -> T:
        headers = {"content-type": "application/json", **self._issuer.headers(AUDIENCE)}
        spans = self._tracer.call(f"POST {path}", {"http.request.method": "POST", "url.path": path})
        if spans:
            headers[CONTEXTS_HEADER] = contexts_header(spans)
        started, status = time.monotonic(), "cancelled"
        try:
            response = await self._http.post(path, content=msgspec.json.encode(call), headers=headers)
            status = str(response.status_code)
        except httpx.TransportError as error:
            status = type(error).__name__
            raise VaultUnavailableError(f"{path}: {type(error).__name__}") from error
        finally:
            self._durations.record(time.monotonic() - started, "POST", path, status)
            end_all(spans, None if status == "200" else status)
        return msgspec.json.decode(_content(path, response), type=answers)


def _content(path: str, response: httpx.Response) -> bytes:
    """Return the body of an answer that is one.

    httpx's stream and its response refer to each other: together they would keep both bodies, megabytes, until the
    collector of cycles comes, which counts objects and not bytes.
    """
    del response.stream
    if response.status_code in _FORBIDDEN:
        raise VaultRefusedError(f"{path}: {response.status_code}; check the identity keys of this deployment")
    if response.status_code != httpx.codes.OK:
        raise VaultUnavailableError(f"{path}: status {response.status_code}")
    return response.content
