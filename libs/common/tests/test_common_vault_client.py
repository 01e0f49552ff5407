"""The vault's client leaves nothing behind that only the collector of cycles would find."""

from __future__ import annotations

import gc
from weakref import WeakSet

import httpx
import pytest
from aiohttp import web

from common.contracts.vault import OpenCall
from common.http.vault import VaultClient


class NoIssuer:
    """Stands in for an identity that the server of this test does not look at."""

    def headers(self, audience):
        del audience
        return {}


@pytest.fixture
async def url():
    async def answer(_):
        return web.json_response({"items": []})

    app = web.Application()
    app.router.add_post("/v1/open:batch", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_bodies_of_a_call_are_freed_with_its_answer(url, monkeypatch):
    responses = WeakSet()
    send = httpx.AsyncClient.send

    async def noting(self, *arguments, **options):
        responses.add(response := await send(self, *arguments, **options))
        return response

    monkeypatch.setattr(httpx.AsyncClient, "send", noting)
    client = VaultClient(url, NoIssuer())
    gc.disable()
    try:
        assert await client.open(OpenCall(purpose="screening", items=[])) == []
        assert not responses, "a cycle keeps the response, and with it both bodies"
    finally:
        gc.enable()
        await client.close()
