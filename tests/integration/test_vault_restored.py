"""The vault's database is put back to a dump: what stood against disclosures since then stands again."""

from __future__ import annotations

import asyncio
import os
import uuid

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from in_process import asking

from common.contracts.vault import DiscloseCall, DiscloseItem, SealCall, SealItem
from common.events.envelope import decode
from common.events.vault import WithdrawalRecorded
from common.http.vault import VaultClient
from common.postgres.pool import connect_pool
from common.security.tokens import TokenIssuer, TokenVerifier
from common.testing.fakes import FakePublisher
from vault import store
from vault.api import vault_routes
from vault.domain import Processor
from vault.gate import Gate
from vault.keyring import Keyring
from vault.keys.epochs import KeyFolder
from vault.keys.root import RootKey
from vault.openapi import described
from vault.rates import Rates
from vault.recovery import put_in_force
from vault.scope import EVERY_ACCOUNT, scoped
from waystation.backup import back_up, restore
from waystation.errors import CommandError
from waystation.stack import Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

KEYS = {name: Ed25519PrivateKey.generate() for name in ("ingestion", "routing", "operator")}
ROOT = RootKey(os.urandom(32))
PROVIDER = Processor("smtp.default", "email", frozenset({"address"}), approved=True, country="DE", purpose="hand-over")


class Vault:
    """A copy of the vault over the stack's database, asked over HTTP."""

    @classmethod
    async def start(cls, stack, folder):
        vault = cls()
        vault.pool, vault.kafka = await connect_pool(stack.dsn("vault"), connections_max=4), FakePublisher()
        await store.replace_processors(vault.pool, [PROVIDER])
        keyring = Keyring(KeyFolder(folder, ROOT), 100)
        await keyring.start(vault.pool)
        verifier = TokenVerifier("vault", {name: key.public_key() for name, key in KEYS.items()})
        app = described()
        app.include_router(
            vault_routes(Gate(verifier, vault.pool, Rates()), vault.pool, keyring, vault.kafka, vault.kafka)
        )
        vault.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://vault")
        return vault

    def client(self, principal):
        return VaultClient("http://vault", TokenIssuer(principal, KEYS[principal]), ask=asking(self.http))

    async def seal(self, *items):
        return await self.client("ingestion").seal(SealCall("intake", list(items)))

    async def withheld(self, item, answer, purpose="newsletter"):
        """Why the vault does not disclose a message that rests on a consent, or None."""
        values = {"instruction_digest": "d" * 64, "epoch": 1, "attempt": 1, "message_purpose": purpose}
        one = DiscloseItem(
            item.account_id, item.message_id, answer.token, answer.capsule, legal_basis="consent:form", **values
        )
        (found,) = await self.client("routing").disclose(DiscloseCall("delivery", PROVIDER.name, ["address"], [one]))
        return found.problem and found.problem["type"].rpartition(":")[2]

    async def ask(self, operation, *items):
        purpose = "data-protection" if operation == "restrict" else "legal-basis"
        headers = TokenIssuer("operator", KEYS["operator"]).headers("vault")
        body = {"purpose": purpose, "items": list(items)}
        answer = await self.http.post(f"/v1/{operation}:batch", json=body, headers=headers)
        assert "problem" not in answer.text

    def told(self):
        return [decode(WithdrawalRecorded, one.value, one.headers) for one in self.kafka.records]

    async def count(self, sql, *values):
        async with scoped(self.pool, EVERY_ACCOUNT) as connection:
            return await connection.fetchval(f"SELECT count(*) FROM {sql}", *values)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    stack = Stack.open(tmp_path_factory.mktemp("restored") / "stack")
    stack.up_postgres()
    try:
        stack.migrate()
        yield stack
    finally:
        stack.down(wipe=True)


async def test_what_was_withdrawn_since_the_backup_stands_after_the_restore(stack, tmp_path):
    account, vault = f"account-{uuid.uuid4()}", await Vault.start(stack, tmp_path / "keys")
    names = ("opted-out", "opted-in", "withdrawn", "given-anew", "restricted", "freed", "untouched")
    people = {name: SealItem(account, str(uuid.uuid4()), f"{name}@example.org", {}, os.urandom(32)) for name in names}
    answers = dict(zip(names, await vault.seal(*people.values()), strict=True))
    who = {name: {"account_id": account, "address": f"{name}@example.org"} for name in (*names, "not-yet-known")}
    news = {"purpose": "newsletter", "kind": "consent"}
    anew = {"person": who["given-anew"], **news, "given_at": "2026-01-31T09:30:00Z", "attested": True}
    await vault.ask("suppress", {**who["opted-in"], "tool": "email"})
    await vault.ask("restrict", {"person": who["freed"], "restricted": True})
    await vault.ask("withdraw", {"person": who["given-anew"], **news})
    await vault.ask("record-basis", anew)
    await asyncio.to_thread(back_up, stack, tmp_path / "backup", ["vault"])
    await vault.ask("suppress", {**who["opted-out"], "tool": "email", "reason": "asked-by-phone"})
    await vault.ask("suppress", {**who["not-yet-known"], "tool": "email"})
    await vault.ask("suppress", {**who["opted-in"], "tool": "email", "lift": True})
    await vault.ask("withdraw", {"person": who["withdrawn"], **news})
    await vault.ask("restrict", {"person": who["restricted"], "restricted": True})
    await vault.ask("restrict", {"person": who["freed"], "restricted": False})
    told = vault.told()
    assert not any("@" in str(event) for event in told)
    vault.pool.terminate()
    with pytest.raises(CommandError, match="withdrawals and opt-outs that are not in Kafka yet"):
        await asyncio.to_thread(restore, stack, "vault", tmp_path / "backup", discard=False)
    await asyncio.to_thread(restore, stack, "vault", tmp_path / "backup", discard=True)
    vault = await Vault.start(stack, tmp_path / "keys")
    try:
        await put_in_force(told[::-1], vault.pool)
        await put_in_force(told, vault.pool)
        unknown = SealItem(account, str(uuid.uuid4()), "not-yet-known@example.org", {}, os.urandom(32))
        (later,) = await vault.seal(unknown)
        found = {name: await vault.withheld(people[name], answers[name]) for name in names}
        assert found == {
            "opted-out": "suppressed",
            "opted-in": None,
            "withdrawn": "withdrawn",
            "given-anew": None,
            "restricted": "restricted",
            "freed": None,
            "untouched": None,
        }
        assert await vault.withheld(unknown, later) == "suppressed"
        assert await vault.count("bases WHERE token = $1", answers["withdrawn"].token) == 1
        assert await vault.count("bases WHERE token = $1", answers["given-anew"].token) == 2
        assert await vault.count("suppressions WHERE reason = 'asked-by-phone'") == 1
        before_this_version = [event.model_copy(update={"basis": None}) for event in told if event.kind == "basis"]
        await put_in_force([one.model_copy(update={"purpose": "survey"}) for one in before_this_version], vault.pool)
        assert await vault.withheld(people["withdrawn"], answers["withdrawn"], "survey") == "withdrawn"
    finally:
        vault.pool.terminate()
