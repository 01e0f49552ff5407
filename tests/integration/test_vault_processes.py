"""Real processes of the vault, killed at the moments that matter, and two of them while an epoch ends.

The ledger never misses a disclosure that happened, and marks what may have.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import uuid
from urllib.parse import urlsplit

import asyncpg
import pytest
from holding_proxy import HoldingProxy
from on_the_road import wait_for, wait_until_settled

from common.contracts.vault import DiscloseCall, DiscloseItem, OpenCall, OpenItem, SealCall, SealItem
from common.http.vault import VaultClient, VaultUnavailableError
from common.ids import new_id
from common.security.tokens import TokenIssuer
from waystation.operator import ServiceClient
from waystation.rehearsal import items
from waystation.stack.credentials import SUPERUSER

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

SECOND = 2


@pytest.fixture
async def clients(road):
    """Whoever may call the vault, by principal and copy."""
    made = []

    def client(principal, instance=1):
        issuer = TokenIssuer.from_file(principal, road.stack.identity_key(principal))
        made.append(VaultClient(road.stack.url("vault", instance), issuer))
        return made[-1]

    yield client
    for one in made:
        await one.close()


@pytest.fixture
async def proxy(road):
    """A second copy of the vault, whose PostgreSQL is behind the proxy."""
    dsn = road.stack.dsn("vault")
    place = urlsplit(dsn)
    proxy = HoldingProxy(place.hostname, place.port)
    port = await proxy.start()
    through = {"VAULT_POSTGRES_DSN": dsn.replace(f"{place.hostname}:{place.port}", f"{place.hostname}:{port}")}
    try:
        await asyncio.to_thread(road.stack.start_service, "vault", SECOND, extra_env=through)
        yield proxy
    finally:
        await asyncio.to_thread(road.stack.stop_service, "vault", SECOND)
        await proxy.stop()


@pytest.fixture
async def second_copy(road):
    """A second copy of the vault beside the road's."""
    try:
        yield await asyncio.to_thread(road.stack.start_service, "vault", SECOND)
    finally:
        await asyncio.to_thread(road.stack.stop_service, "vault", SECOND)


def message(account_id, address="anna@kunden.example"):
    return SealItem(account_id, new_id(), address, {}, os.urandom(32))


@pytest.fixture
async def sealed(clients):
    """A message of a new person: what it was asked with, and its answer."""
    item = message(f"kills-{uuid.uuid4()}")
    (answer,) = await clients("ingestion").seal(SealCall("intake", [item]))
    return item, answer


def asked(*sealed):
    values = {"instruction_digest": "d" * 64, "legal_basis": "contract", "epoch": 1, "attempt": 1}
    told = [DiscloseItem(one.account_id, one.message_id, its.token, its.capsule, **values) for one, its in sealed]
    return DiscloseCall("delivery", "smtp.default", ["address"], told)


def opening(*sealed):
    return OpenCall(
        "screening", [OpenItem(one.account_id, one.message_id, its.token, its.capsule) for one, its in sealed]
    )


def ledger(stack, message_id):
    with ServiceClient(stack) as operator:
        return operator.get("vault", "/v1/disclosures", {"message_id": message_id})["items"]


async def killed_while_held(road, proxy, client, call):
    """Ask, wait until the wire holds, kill the copy; return what the caller got."""
    asking = asyncio.create_task(client.disclose(call))
    await asyncio.wait_for(proxy.reached.wait(), 20)
    assert not asking.done(), "an answer left before the commit was known"
    await asyncio.to_thread(road.stack.kill_service, "vault", SECOND)
    with pytest.raises(VaultUnavailableError):
        await asking


async def test_a_kill_between_commit_and_answer_leaves_an_entry_that_may_have_happened(road, proxy, clients, sealed):
    proxy.hold_answer(sealed[0].message_id)
    await killed_while_held(road, proxy, clients("routing", SECOND), asked(sealed))
    (entry,) = await asyncio.to_thread(ledger, road.stack, sealed[0].message_id)
    assert (entry["acknowledged_at"], entry["hand_over"]) == (None, "may-have-happened")
    (again,) = await clients("routing").disclose(asked(sealed))
    assert again.fields == {"address": "anna@kunden.example"}
    entries = await asyncio.to_thread(ledger, road.stack, sealed[0].message_id)
    assert [one["hand_over"] for one in entries] == ["may-have-happened"] * 2


async def test_a_kill_before_the_commit_leaves_no_entry_and_no_answer(road, proxy, clients, sealed):
    proxy.hold_commit(sealed[0].message_id)
    await killed_while_held(road, proxy, clients("routing", SECOND), asked(sealed))
    assert await asyncio.to_thread(ledger, road.stack, sealed[0].message_id) == []
    superuser = await asyncpg.connect(road.stack.dsn("vault", SUPERUSER))
    try:
        known = await superuser.fetchval(
            "SELECT count(*) FROM instructions WHERE message_id = $1", sealed[0].message_id
        )
    finally:
        await superuser.close()
    assert known == 0


async def test_a_kill_between_answer_and_acknowledgement_misses_neither(road):
    """The provider takes its time, and acknowledges while no vault is there; the entry says so once one is."""
    account = await asyncio.to_thread(road.create_account, f"Kills {uuid.uuid4()}")
    (message,) = await road.send(account, list(items([f"slow-4+{uuid.uuid4().hex}@kunden.example"])))

    def entered():
        return ledger(road.stack, message.message_id)

    (before,) = await asyncio.to_thread(wait_for, entered, "routing has what it needs", 20)
    await asyncio.to_thread(road.stack.kill_service, "vault")
    try:
        assert (before["acknowledged_at"], before["hand_over"]) == (None, "may-have-happened")
        states = await asyncio.to_thread(wait_until_settled, road.stack, [message.message_id])
        assert states == {message.message_id: "handed_over"}
    finally:
        await asyncio.to_thread(road.stack.start_service, "vault")

    def acknowledged():
        return [one for one in entered() if one["hand_over"] == "acknowledged"]

    (after,) = await asyncio.to_thread(wait_for, acknowledged, "the receipt is read", 30)
    assert {**after, "acknowledged_at": None, "hand_over": "may-have-happened"} == before
    assert after["acknowledged_at"] is not None


async def test_two_copies_serve_through_the_end_of_an_epoch(road, second_copy, clients):
    """Under load on both, keys move to a new epoch and the old one is destroyed: no request fails, nothing is lost."""
    account, done, sealed = f"epochs-{uuid.uuid4()}", asyncio.Event(), []

    async def work(instance, worker):
        ingestion, moderation, routing = (clients(name, instance) for name in ("ingestion", "moderation", "routing"))
        for number in itertools.count():
            asking = [message(account, f"w{instance}.{worker}.{number}.{n}@kunden.example") for n in range(25)]
            pairs = list(zip(asking, await ingestion.seal(SealCall("intake", asking)), strict=True))
            assert [one.message_key for one in await moderation.open(opening(*pairs))] == keys(pairs)
            assert all(one.fields for one in await routing.disclose(asked(*pairs)))
            sealed.extend(pairs)
            if done.is_set():
                return

    loads = [asyncio.create_task(work(instance, worker)) for instance in (1, SECOND) for worker in range(3)]
    await asyncio.sleep(1.5)
    before = await asyncio.to_thread(end_epoch, road.stack)
    await asyncio.sleep(1.5)
    ended = await asyncio.to_thread(end_epoch, road.stack)
    await asyncio.sleep(0.5)
    done.set()
    await asyncio.gather(*loads)
    assert ended == before + 1
    assert [file.name for file in epoch_files(road.stack)] == [f"epoch-{ended:06}.key"]
    for instance, start in itertools.product((1, SECOND), range(0, len(sealed), 500)):
        part = sealed[start : start + 500]
        assert [one.message_key for one in await clients("moderation", instance).open(opening(*part))] == keys(part)


def keys(pairs):
    return [item.message_key for item, _ in pairs]


def end_epoch(stack):
    with ServiceClient(stack) as operator:
        return operator.post("vault", "/v1/epochs")["epoch"]


def epoch_files(stack):
    return list((stack.layout.secrets / "vault-keys").glob("epoch-*"))
