"""The vault's client: what its answers mean, and that it leaves nothing for the collector of cycles."""

from __future__ import annotations

import asyncio
import gc
from datetime import UTC, datetime
from weakref import WeakSet

import aiohttp
import pytest
from aiohttp import web

from common.contracts.vault import OpenCall
from common.http import vault
from common.http.vault import VaultClient, VaultRefusedError, VaultUnavailableError
from common.telemetry.measuring import Measures

CALL = OpenCall(purpose="screening", items=[])
SINCE = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


class Issuer:
    """Stands in for an identity."""

    def headers(self, audience):
        return {"authorization": f"Bearer for {audience}"}


class Server:
    """A vault that answers as it is told."""

    def __init__(self):
        self.requests = []
        self.status = 200
        self.pause_seconds = 0.0
        self.cut = False
        self.url = ""

    async def answer(self, request):
        self.requests.append((request, await request.read()))
        await asyncio.sleep(self.pause_seconds)
        if self.cut:
            request.transport.close()
        return web.json_response({"items": []}, status=self.status)


@pytest.fixture
async def server():
    server = Server()
    app = web.Application()
    app.router.add_post("/v1/open:batch", server.answer)
    app.router.add_get("/v1/disclosures/unsettled", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
async def client(server):
    client = VaultClient(server.url, Issuer())
    yield client
    await client.close()


async def test_a_call_carries_identity_and_body_over_a_kept_connection(server, client):
    assert await client.open(CALL) == []
    assert await client.open(CALL) == []
    (first, body), (second, _) = server.requests
    assert first.headers["authorization"] == "Bearer for vault"
    assert first.headers["content-type"] == "application/json"
    assert body == b'{"purpose":"screening","items":[]}'
    assert first.transport is second.transport


async def test_a_moment_is_asked_for_as_it_is(server, client):
    assert await client.unsettled(SINCE) == []
    assert datetime.fromisoformat(server.requests[0][0].query["since"]) == SINCE


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_is_a_fault_of_the_deployment(server, client, status):
    server.status = status
    with pytest.raises(VaultRefusedError, match=f"/v1/open:batch: {status}"):
        await client.open(CALL)


@pytest.mark.parametrize("status", [302, 404, 500, 503])
async def test_any_other_answer_means_to_ask_again_later(server, client, status):
    server.status = status
    with pytest.raises(VaultUnavailableError, match=f"/v1/open:batch: status {status}"):
        await client.open(CALL)


async def test_a_connection_that_is_cut_means_to_ask_again_later_and_is_not_used_again(server, client):
    server.cut = True
    for ask in (client.open(CALL), client.unsettled(SINCE)):
        with pytest.raises(VaultUnavailableError, match="ServerDisconnectedError"):
            await ask
    server.cut = False
    assert await client.open(CALL) == []


async def test_a_vault_that_is_silent_or_away_means_to_ask_again_later(server, client, monkeypatch):
    monkeypatch.setattr(vault, "SILENCE_SECONDS", 0.1)
    server.pause_seconds = 1.0
    with pytest.raises(VaultUnavailableError, match="SocketTimeoutError"):
        await client.open(CALL)
    away = VaultClient("http://127.0.0.1:1", Issuer())
    with pytest.raises(VaultUnavailableError, match="ClientConnectorError"):
        await away.open(CALL)
    await away.close()


async def test_calls_are_measured_by_what_became_of_them(server):
    measures = Measures()
    client = VaultClient(server.url, Issuer(), measures=measures)
    await client.open(CALL)
    server.cut = True
    with pytest.raises(VaultUnavailableError):
        await client.open(CALL)
    await client.close()
    text = repr(measures.snapshot())
    assert "ServerDisconnectedError" in text
    assert "'200'" in text


async def test_bodies_of_a_call_are_freed_with_its_answer(client, monkeypatch):
    responses, seen = WeakSet(), 0
    start = aiohttp.ClientResponse.start

    async def noting(self, connection):
        nonlocal seen
        responses.add(self)
        seen += 1
        return await start(self, connection)

    monkeypatch.setattr(aiohttp.ClientResponse, "start", noting)
    gc.disable()
    try:
        assert await client.open(CALL) == []
        await asyncio.sleep(0)
        assert seen == 1
        assert not responses, "a cycle keeps the response, and with it both bodies"
    finally:
        gc.enable()
