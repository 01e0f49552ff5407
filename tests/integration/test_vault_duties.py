"""A processor's duties on a real PostgreSQL: export, rectification, retention, objections, records, an account's end."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from in_process import asking

from common.contracts.vault import DiscloseCall, DiscloseItem, OpenCall, OpenItem, SealCall, SealItem
from common.events.envelope import decode
from common.events.vault import ErasureRecorded
from common.http.vault import VaultClient
from common.postgres.migrations import migrate
from common.postgres.pool import connect_pool
from common.security.signing import Signer
from common.security.tokens import TokenIssuer, TokenVerifier
from common.testing.fakes import FakePublisher
from common.times import rfc3339
from ingestion.mail import recipient_address
from vault import store
from vault.api import vault_routes
from vault.domain import KINDS, Processor
from vault.duties.api import duties_routes
from vault.duties.records import Deployment
from vault.gate import Gate
from vault.keyring import Keyring
from vault.keys.blobs import BlobError, decrypt, named
from vault.keys.epochs import KeyFolder
from vault.keys.root import RootKey
from vault.openapi import described
from vault.rates import Rates
from vault.scope import EVERY_ACCOUNT, scoped
from vault.store import Spent
from waystation.stack import Stack

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

MIGRATIONS = Path(__file__).parents[2] / "services" / "vault" / "migrations"
KEYS = {name: Ed25519PrivateKey.generate() for name in ("ingestion", "moderation", "routing", "operator")}
ROOT = RootKey(os.urandom(32), "file root.key")
SIGNING = Ed25519PrivateKey.generate()
DEPLOYMENT = Deployment("Haus & Söhne <b>", "privacy@haus.example", "dpo@haus.example", ROOT.describe(), 24.0, False)
TODAY = datetime.now(UTC).date()
PROCESSORS = [
    Processor("smtp.default", "email", frozenset({"address"}), approved=True, country="DE", purpose="hand-over"),
    Processor("smtp.named", "email", frozenset({"address", "name"}), approved=True, country="DE", purpose="hand-over"),
    Processor(
        "smtp.new",
        "email",
        frozenset({"address"}),
        approved=True,
        country="US",
        purpose="hand-over",
        approved_from=TODAY + timedelta(days=30),
        transfer="standard contractual clauses",
        announced_on=TODAY,
    ),
]


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    stack = Stack.open(tmp_path_factory.mktemp("duties") / "stack")
    stack.up_postgres()
    try:
        asyncio.run(migrate(stack.dsn("vault", "vault_owner"), MIGRATIONS))
        yield SimpleNamespace(runtime=stack.dsn("vault"), keys=stack.layout.home / "vault-keys")
    finally:
        stack.down(wipe=True)


@pytest.fixture(scope="module")
async def pool(database):
    pool = await connect_pool(database.runtime)
    await store.replace_processors(pool, PROCESSORS)
    yield pool
    await pool.close()


class Vault:
    """One copy of the vault, asked over HTTP."""

    def __init__(self, pool, keyring) -> None:
        self.pool, self.keyring, self.kafka = pool, keyring, FakePublisher()
        verifier = TokenVerifier("vault", {name: key.public_key() for name, key in KEYS.items()})
        gate, app = Gate(verifier, pool, Rates()), described()
        app.include_router(vault_routes(gate, pool, keyring, self.kafka, self.kafka))
        signer = Signer("vault", SIGNING)
        app.include_router(duties_routes(gate, pool, keyring, self.kafka, signer=signer, deployment=DEPLOYMENT))
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://vault")

    def client(self, principal):
        return VaultClient("http://vault", TokenIssuer(principal, KEYS[principal]), ask=asking(self._http))

    async def seal(self, *items):
        return await self.client("ingestion").seal(SealCall("intake", list(items)))

    async def open(self, *items):
        return await self.client("moderation").open(OpenCall("screening", list(items)))

    async def disclose(self, *items, provider="smtp.default", fields=("address",)):
        return await self.client("routing").disclose(DiscloseCall("delivery", provider, list(fields), list(items)))

    async def post(self, path, principal="operator", **body):
        headers = TokenIssuer(principal, KEYS[principal]).headers("vault")
        return await self._http.post(f"/v1/{path}", json={"purpose": "data-protection", **body}, headers=headers)

    async def done(self, path, *items, **body):
        answer = await self.post(path, **body, **({"items": list(items)} if items else {}))
        assert answer.status_code == 200, answer.text
        return answer.json()["items"] if items else answer.json()

    async def get(self, path, principal="operator"):
        headers = TokenIssuer(principal, KEYS[principal]).headers("vault")
        return await self._http.get(f"/v1/{path}", headers=headers)

    async def export(self, **person):
        (found,) = (await self.done("export", person=person))["persons"]
        return found

    async def rows(self, sql, *values):
        async with scoped(self.pool, EVERY_ACCOUNT) as connection:
            return await connection.fetch(sql, *values)


@pytest.fixture
def new_copy(pool, database):
    async def start():
        keyring = Keyring(KeyFolder(database.keys, ROOT), 100)
        await keyring.start(pool)
        return Vault(pool, keyring)

    return start


@pytest.fixture
async def vault(new_copy):
    return await new_copy()


@pytest.fixture
def account():
    return f"account-{uuid.uuid4()}"


def item(account, address="Anna@example.org", *, kind="recipient", **fields):
    return SealItem(account, str(uuid.uuid4()), address, fields, os.urandom(32), kind)


def delivery(sealed, answer, **changes):
    values = {"instruction_digest": "d" * 64, "legal_basis": "consent:form-1", "epoch": 1, "attempt": 1, **changes}
    return DiscloseItem(sealed.account_id, sealed.message_id, answer.token, answer.capsule, **values)


def opening(sealed, answer):
    return OpenItem(sealed.account_id, sealed.message_id, answer.token, answer.capsule)


def told(answer):
    return answer["problem"]["type"].rpartition(":")[2] if "problem" in answer else answer.get("tokens", answer)


def kind(answer):
    return answer.problem and answer.problem["type"].rpartition(":")[2]


async def acknowledge(vault, sealed, attempt=1):
    async with scoped(vault.pool, [sealed.account_id]) as connection:
        when = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
        await store.spend(connection, [Spent(sealed.account_id, sealed.message_id, "handed_over", attempt, when)])


class Words(HTMLParser):
    """The words of a page, and whether anything of it would be fetched or run."""

    def __init__(self, text) -> None:
        super().__init__()
        self.words, self.tags, self.addresses = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href", "action", "style"}]

    def handle_data(self, data):
        self.words.append(data.strip())


# Export


async def test_who_received_what_about_me_when_and_on_which_basis(vault, account):
    first, second, again = item(account, name="Anna Berg"), item(account), item(account)
    answers = await vault.seal(first, second, again)
    person = {"account_id": account, "address": "anna@EXAMPLE.org"}
    basis = {"purpose": "newsletter", "kind": "consent", "given_at": "2026-01-31T09:30:00Z", "text_digest": "a" * 64}
    await vault.done(
        "record-basis:batch", {"person": person, **basis, "source": "form", "language": "de"}, purpose="legal-basis"
    )
    await vault.disclose(delivery(first, answers[0]))
    await acknowledge(vault, first)
    await vault.disclose(delivery(second, answers[1]), provider="smtp.named", fields=("address", "name"))
    found = await vault.export(**person)
    assert (found["state"], found["kind"]) == ("kept", "recipient")
    assert found["fields"] == {"address": "Anna@example.org", "name": "Anna Berg"}
    assert found["purposes"] == ["newsletter"]
    assert [(one["in_force"], one["text_digest"], one["source"]) for one in found["bases"]] == [
        (True, "a" * 64, "form")
    ]
    newest, oldest = found["disclosures"]
    assert (newest["provider"], newest["fields"], newest["hand_over"]) == (
        "smtp.named",
        ["address", "name"],
        "may-have-happened",
    )
    assert (oldest["message_id"], oldest["legal_basis"], oldest["why"]) == (
        first.message_id,
        "consent:form-1",
        "hand-over",
    )
    assert (oldest["hand_over"], oldest["acknowledged_at"]) == ("acknowledged", "2026-01-31T09:30:00.000Z")
    assert [(one["provider"], one["disclosures"], one["acknowledged"]) for one in found["recipients"]] == [
        ("smtp.default", 1, 1),
        ("smtp.named", 1, 0),
    ]
    assert [one["operation"] for one in found["handlings"]] == ["record-basis"]
    assert found["retention"]["erased_from"] == (TODAY + timedelta(days=731)).isoformat()
    (logged,) = await vault.rows(
        "SELECT caller, touched FROM access_log WHERE operation = 'export' AND touched @> $1", [answers[0].token]
    )
    assert tuple(logged) == ("operator", [answers[0].token])


async def test_an_export_goes_on_where_it_was_cut(vault, account, monkeypatch):
    sealed = [item(account) for _ in range(5)]
    answers = await vault.seal(*sealed)
    for one, answer in zip(sealed, answers, strict=True):
        await vault.disclose(delivery(one, answer))
    whole = (await vault.export(account_id=account, token=answers[0].token))["disclosures"]
    later = await vault.done(
        "export", person={"account_id": account, "token": answers[0].token}, before=whole[1]["entry"]
    )
    assert later["persons"][0]["disclosures"] == whole[2:]


async def test_who_read_a_message_is_told_to_the_person_and_who_could_not_open_it_is_not(vault, account):
    read, unread = item(account), item(account, "bert@example.org")
    answers = await vault.seal(read, unread)
    await vault.open(opening(read, answers[0]))
    closed = OpenItem(account, unread.message_id, answers[1].token, b"no capsule")
    review = OpenCall("review", [opening(read, answers[0]), closed], case_id="case-1")
    assert [kind(one) for one in await vault.client("moderation").open(review)] == [None, "bad-capsule"]
    await vault.client("ingestion").open(OpenCall("inbox", [opening(read, answers[0])], user_id="user-1"))
    person = {"account_id": account, "token": answers[0].token}
    page = Words((await vault.post("export/page", person=person)).text)
    assert {"moderation", "open", "review", "ingestion", "inbox"} <= set(page.words)
    told = [
        [(one["caller"], one["operation"], one["purpose"]) for one in found["handlings"]]
        for found in (await vault.export(**person), await vault.export(account_id=account, token=answers[1].token))
    ]
    assert told[0][:2] == [("moderation", "open", "review"), ("ingestion", "open", "inbox")]
    assert told[1] == []
    rows = await vault.rows("SELECT touched FROM access_log WHERE touched @> $1 ORDER BY id", [read.message_id])
    assert [row["touched"] for row in rows] == [
        [read.message_id, unread.message_id, answers[0].token],
        [read.message_id, answers[0].token],
    ]


async def test_an_erased_person_still_learns_who_received_something(vault, account):
    one = item(account)
    (answer,) = await vault.seal(one)
    await vault.disclose(delivery(one, answer))
    await vault.done("erase:batch", {"account_id": account, "token": answer.token}, reason="request-of-person")
    found = await vault.export(account_id=account, token=answer.token)
    assert (found["state"], found["fields"], found["kind"]) == ("erased", {}, None)
    assert [one["provider"] for one in found["recipients"]] == ["smtp.default"]
    assert found["erasure"]["reason"] == "request-of-person"
    assert [(one["provider"], one["kind"], one["done_at"]) for one in found["notices"]] == [
        ("smtp.default", "erasure", None)
    ]
    gone = await vault.post("export", person={"account_id": account, "address": one.address})
    assert gone.status_code == 404
    assert one.address not in gone.text


async def test_nobody_but_the_operator_exports_and_no_account_sees_anothers_person(vault, account):
    (answer,) = await vault.seal(item(account))
    assert (
        await vault.post("export", "ingestion", person={"account_id": account, "token": answer.token})
    ).status_code == 403
    stranger = await vault.post("export", person={"account_id": f"account-{uuid.uuid4()}", "token": answer.token})
    assert stranger.status_code == 404


async def test_a_row_that_was_changed_by_hand_is_named_in_the_export_and_does_not_stop_it(vault, account):
    (answer,) = await vault.seal(item(account, name="Anna"))
    await vault.rows("UPDATE subjects SET name = address WHERE token = $1", answer.token)
    found = await vault.export(account_id=account, token=answer.token)
    assert (found["fields"], found["unreadable"]) == ({"address": "Anna@example.org"}, ["name"])


async def test_the_page_of_a_person_escapes_what_people_wrote_and_fetches_nothing(vault, account):
    name = '<script>alert(1)</script> & "Anna"'
    one = item(account, name=name)
    (answer,) = await vault.seal(one)
    await vault.disclose(delivery(one, answer, legal_basis="contract:<img src=x>"))
    got = await vault.post("export/page", person={"account_id": account, "token": answer.token})
    assert got.headers["content-type"] == "text/html; charset=utf-8"
    page = Words(got.text)
    assert name in page.words
    assert "contract:<img src=x>" in page.words
    assert "may have happened" in page.words
    assert page.tags.isdisjoint({"script", "img", "link", "iframe", "form", "a"})
    assert page.addresses == []


# Rectification


async def test_a_person_is_found_by_address_as_whatever_the_vault_knows_it(vault, account):
    named = {kind: item(account, "jo@example.org", kind=kind, phone="+4930555321") for kind in KINDS}
    tokens = {kind: one.token for kind, one in zip(named, await vault.seal(*named.values()), strict=True)}
    who, all_of_them = {"account_id": account, "address": "JO@example.org"}, sorted(tokens.values())
    found = await vault.done(
        "find:batch", who, {**who, "kind": "user"}, {"account_id": account, "phone": "+4930555321"}
    )
    assert [sorted(told(each)) for each in found] == [all_of_them, [tokens["user"]], all_of_them]
    assert {one["kind"] for one in (await vault.done("export", person=who))["persons"]} == set(KINDS)
    (restricted,) = await vault.done("restrict:batch", {"person": who, "restricted": True})
    withdrawal = {"person": who, "purpose": "newsletter", "kind": "consent"}
    (withdrawn,) = await vault.done("withdraw:batch", withdrawal, purpose="legal-basis")
    assert sorted(told(restricted)) == sorted(told(withdrawn)) == all_of_them
    basis = {"purpose": "order", "kind": "contract", "given_at": "2026-01-31T09:30:00Z", "attested": True}
    (recorded,) = await vault.done("record-basis:batch", {"person": who, **basis}, purpose="legal-basis")
    assert told(recorded) == [tokens["recipient"]]
    changes = [{"person": person, "fields": {"name": "Jo"}} for person in (who, {**who, "kind": "complainant"})]
    rectified = await vault.done("rectify:batch", *changes)
    assert [told(each) for each in rectified] == ["several-persons", [tokens["complainant"]]]
    (only,) = await vault.done("erase:batch", {**who, "kind": "administrator"}, reason="request-of-person")
    assert told(only) == [tokens["administrator"]]
    (rest,) = await vault.done("erase:batch", who, reason="request-of-person")
    assert sorted(told(rest)) == sorted(set(all_of_them) - {tokens["administrator"]})


async def test_an_internationalised_address_names_the_person_that_the_door_stored(vault, account):
    named = recipient_address("anna@b\u00fccher.de")
    one = item(account, named)
    (answer,) = await vault.seal(one)
    written = {"account_id": account, "address": "Anna@B\u00fccher.de"}
    (found,) = await vault.done("find:batch", written)
    (opted_out,) = await vault.done("suppress:batch", {**written, "tool": "email"}, purpose="legal-basis")
    assert told(found) == told(opted_out) == [answer.token]
    (disclosed,) = await vault.disclose(delivery(one, answer))
    assert kind(disclosed) == "suppressed"
    assert [out["tool"] for out in (await vault.export(**written))["opt_outs"]] == ["email"]


async def test_a_rectified_person_is_found_by_the_new_address_only_and_disclosed_with_it(vault, account):
    one = item(account, name="Ana", phone="+4930555000")
    (answer,) = await vault.seal(one)
    await vault.disclose(delivery(one, answer))
    person = {"account_id": account, "address": one.address}
    (done,) = await vault.done(
        "rectify:batch",
        {"person": person, "fields": {"address": "Anna.Neu@example.org", "name": "Anna", "phone": None}},
    )
    assert done == {"tokens": [answer.token]}
    found = await vault.done(
        "find:batch",
        person,
        {"account_id": account, "address": "anna.neu@example.org"},
        {"account_id": account, "phone": "+4930555000"},
    )
    assert [told(each) for each in found] == ["unknown-recipient", [answer.token], "unknown-recipient"]
    (same,) = await vault.seal(item(account, "ANNA.NEU@example.org"))
    assert same.token == answer.token
    (disclosed,) = await vault.disclose(delivery(one, answer), provider="smtp.named", fields=("address", "name"))
    assert disclosed.fields == {"address": "ANNA.NEU@example.org", "name": "Anna"}
    assert [
        (row["kind"], row["provider"])
        for row in await vault.rows("SELECT kind, provider FROM notification_tasks WHERE token = $1", answer.token)
    ] == [("rectification", "smtp.default")]


@pytest.mark.parametrize("put_back", ["one field", "the fields", "the key"])
async def test_what_was_rectified_does_not_come_back_by_hand(vault, account, put_back, caplog):
    one = item(account, name="Ana", phone="+4930555000")
    (answer,) = await vault.seal(one)
    (fields,) = await vault.rows("SELECT * FROM subjects WHERE token = $1", answer.token)
    (key,) = await vault.rows("SELECT wrapped FROM data_keys WHERE token = $1", answer.token)
    person = {"account_id": account, "token": answer.token}
    await vault.done("rectify:batch", {"person": person, "fields": {"name": "Anna", "phone": None}})
    if put_back == "the key":
        await vault.rows("UPDATE data_keys SET wrapped = $2 WHERE token = $1", answer.token, key["wrapped"])
    elif put_back == "one field":
        await vault.rows("UPDATE subjects SET name = $2 WHERE token = $1", answer.token, fields["name"])
    else:
        places = ("address", "name", "phone")
        written = ", ".join(f"{place} = ${number}" for number, place in enumerate(places, 2))
        await vault.rows(
            f"UPDATE subjects SET {written} WHERE token = $1", answer.token, *(fields[place] for place in places)
        )
    asked = {"provider": "smtp.named", "fields": ("address", "name")}
    (disclosed,) = await vault.disclose(delivery(one, answer), **asked)
    assert kind(disclosed) == "integrity-failed"
    found = await vault.export(**person)
    assert {"Ana", "+4930555000"}.isdisjoint(found["fields"].values())
    assert "name" in found["unreadable"]
    assert f"a field of {answer.token} does not open" in caplog.text
    (opened,) = await vault.open(opening(one, answer))
    assert opened.message_key == one.message_key


async def test_rectification_answers_each_item_and_half_does_nothing(vault, account):
    anna, bert, carl = await vault.seal(
        item(account), item(account, "bert@example.org"), item(account, None, phone="+4930555001")
    )
    gone, other = await vault.seal(item(account, "gone@example.org"), item(f"{account}-2"))
    await vault.done("erase:batch", {"account_id": account, "token": gone.token}, reason="request-of-person")

    def wanted(token, account_id=account, **fields):
        return {"person": {"account_id": account_id, "token": token}, "fields": fields}

    answers = await vault.done(
        "rectify:batch",
        wanted(bert.token, address="anna@example.org"),
        wanted(anna.token, address="nobody at all"),
        wanted(anna.token, shoe_size="44"),
        wanted(gone.token, name="x"),
        wanted("rt_nobody", name="x"),
        wanted(other.token, name="x"),
        wanted(other.token, f"{account}-2", name="Other"),
        wanted(carl.token, phone=None),
        wanted(carl.token, phone="+4930555002"),
        wanted(anna.token, name="Anna"),
        wanted(anna.token, name="Twice"),
    )
    assert [told(one) for one in answers] == [
        *("address-taken", "invalid-address", "unknown-field", "erased", "unknown-recipient", "unknown-recipient"),
        *([other.token], "invalid-field", [carl.token], [anna.token], "invalid-field"),
    ]
    assert "nobody at all" not in json.dumps(answers)
    assert (await vault.export(account_id=account, token=anna.token))["fields"]["name"] == "Anna"
    (again,) = await vault.seal(item(account, None, phone="+4930555002"))
    assert again.token == carl.token, "the look-up of who is known by phone alone follows"


async def test_who_opted_out_stays_so_under_a_new_address_and_an_address_that_did_stays_that(vault, account):
    anna, bert = await vault.seal(item(account), item(account, "bert@example.org"))
    outs = [{"account_id": account, "tool": "email", "address": one} for one in ("anna@example.org", "out@example.org")]
    await vault.done("suppress:batch", *outs, purpose="legal-basis")
    await vault.done(
        "rectify:batch",
        {"person": {"account_id": account, "token": anna.token}, "fields": {"address": "new@example.org"}},
        {"person": {"account_id": account, "token": bert.token}, "fields": {"address": "Out@example.org"}},
    )
    for token in (anna.token, bert.token):
        (state,) = await vault.rows("SELECT flags FROM subjects WHERE token = $1", token)
        assert state["flags"] & 2
    assert [one["reason"] for one in (await vault.export(account_id=account, token=anna.token))["opt_outs"]] == [
        "rectified"
    ]


async def test_one_address_asked_for_by_two_at_once_goes_to_one(new_copy, vault, account):
    anna, bert = await vault.seal(item(account), item(account, "bert@example.org"))
    other = await new_copy()
    wish = {"address": "one@example.org"}
    answers = await asyncio.gather(
        vault.done("rectify:batch", {"person": {"account_id": account, "token": anna.token}, "fields": wish}),
        other.done("rectify:batch", {"person": {"account_id": account, "token": bert.token}, "fields": wish}),
    )
    assert sorted(str(told(one)) for (one,) in answers)[1] == "address-taken"


async def test_a_token_of_another_account_of_the_same_call_is_nobody(vault, account):
    (mine,) = await vault.seal(item(account))
    (theirs,) = await vault.seal(item(f"{account}-2"))
    wrong, right = {"account_id": account, "token": theirs.token}, {"account_id": account, "token": mine.token}
    other = {"account_id": f"{account}-2", "token": "rt_nobody"}
    for path, items, more in (
        ("restrict:batch", [{"person": one, "restricted": True} for one in (wrong, right, other)], {}),
        ("rectify:batch", [{"person": one, "fields": {"name": "x"}} for one in (wrong, right, other)], {}),
        ("erase:batch", [wrong, right, other], {"reason": "request-of-person"}),
    ):
        answers = await vault.done(path, *items, **more)
        assert [told(one) for one in answers] == ["unknown-recipient", [mine.token], "unknown-recipient"], path
    assert (await vault.export(account_id=f"{account}-2", token=theirs.token))["state"] == "kept"


# Objections and notices


@pytest.mark.parametrize("duty", ["rectify", "object"])
async def test_a_duty_that_changes_disclosures_waits_for_those_under_way(vault, account, monkeypatch, duty):
    one = item(account)
    (answer,) = await vault.seal(one)
    enter, entered, may_go_on = store.enter_disclosures, asyncio.Event(), asyncio.Event()

    async def slowly(*args):
        found = await enter(*args)
        entered.set()
        await may_go_on.wait()
        return found

    monkeypatch.setattr(store, "enter_disclosures", slowly)
    disclosing = asyncio.create_task(vault.disclose(delivery(one, answer)))
    await entered.wait()
    change = {
        "rectify": {"person": {"account_id": account, "token": answer.token}, "fields": {"address": "b@example.org"}},
        "object": {"account_id": account, "processor": "smtp.default", "reason": "no", "late": True},
    }[duty]
    changing = asyncio.create_task(vault.done(f"{duty}:batch", change))
    done_beside, _ = await asyncio.wait([changing], timeout=0.5)
    may_go_on.set()
    assert (await disclosing)[0].fields == {"address": one.address}
    (changed,) = await changing
    assert ("problem" in changed, done_beside) == (False, set())
    notices = await vault.rows("SELECT provider, kind FROM notification_tasks WHERE token = $1", answer.token)
    assert [tuple(row) for row in notices] == ([("smtp.default", "rectification")] if duty == "rectify" else [])


async def test_an_account_objects_within_the_notice_period_and_only_then(vault, account):
    one = item(account)
    (answer,) = await vault.seal(one)
    await vault.seal(item(f"{account}-2"))
    new = {"account_id": account, "processor": "smtp.new", "reason": "no transfer to the United States"}
    old = {"account_id": account, "processor": "smtp.default", "reason": "we left them"}
    assert [told(each) for each in await vault.done("object:batch", new, old, {**new, "processor": "nobody"})] == [
        {"objects": True, "approved_from": (TODAY + timedelta(days=30)).isoformat()},
        "notice-period-over",
        "no-such-processor",
    ]
    began = [
        *PROCESSORS[:2],
        Processor("smtp.new", "email", frozenset({"address"}), True, "US", "hand-over", date(2026, 1, 1)),
    ]
    await store.replace_processors(vault.pool, began)
    try:
        assert [kind(each) for each in await vault.disclose(delivery(one, answer), provider="smtp.new")] == ["objected"]
        other = item(f"{account}-2")
        (theirs,) = await vault.seal(other)
        assert (await vault.disclose(delivery(other, theirs), provider="smtp.new"))[0].fields
        await vault.done("object:batch", {**new, "lift": True})
        assert (await vault.disclose(delivery(one, answer), provider="smtp.new"))[0].fields
    finally:
        await store.replace_processors(vault.pool, PROCESSORS)
    assert told((await vault.done("object:batch", {**old, "late": True}))[0])["objects"]
    assert [kind(each) for each in await vault.disclose(delivery(one, answer))] == ["objected"]


async def test_a_notice_is_done_once_with_its_evidence(vault, account):
    one = item(account)
    (answer,) = await vault.seal(one)
    await vault.disclose(delivery(one, answer))
    await vault.done("restrict:batch", {"person": {"account_id": account, "token": answer.token}, "restricted": True})
    notices = (await vault.get("notices")).json()
    (mine,) = [each for each in notices["items"] if each["recipient_token"] == answer.token]
    assert (mine["kind"], mine["provider"]) == ("restriction", "smtp.default")
    done = {"id": mine["id"], "evidence": "ticket 1"}
    first, unknown = await vault.done("notices:done", done, {"id": 2**40, "evidence": "x"})
    assert told(unknown) == "no-such-notice"
    assert await vault.done("notices:done", {**done, "evidence": "ticket 2"}) == [first]
    assert (await vault.rows("SELECT evidence FROM notification_tasks WHERE id = $1", mine["id"]))[0][0] == "ticket 1"
    assert (await vault.get("notices")).json()["count"] == notices["count"] - 1


# Retention


async def age(vault, answer, days):
    await vault.rows("UPDATE subjects SET used_on = current_date - $2::int WHERE token = $1", answer.token, days)


async def test_retention_says_what_is_due_and_why_before_it_erases_it(vault, account):
    sealed = [
        item(account, "new@example.org"),
        item(account, "old@example.org"),
        item(account, "held@example.org"),
        item(account, "ended@example.org"),
        item(account, "used@example.org"),
        item(account, "in-force@example.org"),
        item(account, "user@example.org", kind="user"),
    ]
    new, old, held, ended, used, in_force, user = answers = await vault.seal(*sealed)
    rule = {"account_id": account, "kind": "recipient", "unused_days": 100, "basis_ended_days": 10}
    assert await vault.done("retention-rules:batch", rule) == [rule]
    for answer, days in ((old, 101), (held, 400), (ended, 30), (used, 5), (in_force, 30), (user, 101)):
        await age(vault, answer, days)
    await vault.done("restrict:batch", {"person": {"account_id": account, "token": held.token}, "restricted": True})
    past, given = rfc3339(datetime.now(UTC) - timedelta(days=20)), "2026-01-01T00:00:00Z"
    for answer, ends in ((ended, past), (used, past), (in_force, past), (in_force, None)):
        basis = {"person": {"account_id": account, "token": answer.token}, "purpose": "news", "kind": "contract"}
        given_until = {"given_at": given, **({} if ends is None else {"expires_at": ends})}
        await vault.done("record-basis:batch", {**basis, **given_until}, purpose="legal-basis")
    due = [
        {
            "account_id": account,
            "kind": "recipient",
            "rule": "basis-ended",
            "days": 10,
            "persons": 1,
            "kept_as_restricted": 0,
        },
        {
            "account_id": account,
            "kind": "recipient",
            "rule": "unused",
            "days": 100,
            "persons": 2,
            "kept_as_restricted": 1,
        },
    ]
    dry = await vault.done("retention-runs", account_id=account)
    assert dry == {"dry_run": True, "due": due, "erased": 0, "remaining": 2}
    assert {kind(one) for one in await vault.open(*map(opening, sealed, answers))} == {None}
    first = await vault.done("retention-runs", account_id=account, dry_run=False, limit=1)
    assert (first["erased"], first["remaining"]) == (1, 1)
    last = await vault.done("retention-runs", account_id=account, dry_run=False)
    assert (last["erased"], last["remaining"]) == (1, 0)
    opened = await vault.open(*map(opening, sealed, answers))
    assert [kind(one) for one in opened] == [None, "erased", None, "erased", None, None, None]
    events = [
        decode(ErasureRecorded, one.value, one.headers) for one in vault.kafka.records if one.topic == "vault.erasures"
    ]
    assert {(one.key, one.reason) for one in events} == {(old.token, "retention"), (ended.token, "retention")}
    shown = await vault.export(account_id=account, token=new.token)
    assert shown["retention"]["unused_days"] == 100
    await vault.done("retention-rules:batch", {**rule, "remove": True})
    assert (await vault.export(account_id=account, token=new.token))["retention"]["unused_days"] == 730


async def test_rules_for_no_kind_and_the_end_of_the_general_rule_are_refused(vault, account):
    wrong = {"account_id": account, "kind": "machine", "unused_days": 1}
    general = {"account_id": "*", "kind": "user", "unused_days": 1, "remove": True}
    assert [told(one) for one in await vault.done("retention-rules:batch", wrong, general)] == ["invalid-field"] * 2
    rules = {
        one["kind"]: one for one in (await vault.get("retention-rules")).json()["items"] if one["account_id"] == "*"
    }
    assert {kind: one["unused_days"] for kind, one in rules.items()} == {
        "recipient": 730,
        "user": 3650,
        "administrator": 3650,
        "complainant": 1095,
    }
    assert rules["recipient"]["basis_ended_days"] == 90


# Records


async def test_the_records_of_processing_follow_the_rows_and_the_register(vault, account):
    await vault.seal(item(account, name="Anna"), item(account, "bert@example.org", kind="user"))
    new = {"account_id": account, "processor": "smtp.new", "reason": "no"}
    await vault.done("object:batch", new)
    records = (await vault.get("records")).json()
    (mine,) = [one for one in records["controllers"] if one["account_id"] == account]
    assert [(one["kind"], one["persons"], one["fields"]) for one in mine["processing"]] == [
        ("recipient", 1, ["address", "name"]),
        ("user", 1, ["address"]),
    ]
    assert mine["objects_to"] == ["smtp.new"]
    assert records["transfers"] == ["smtp.new in US: standard contractual clauses"]
    walls = next(one for one in records["measures"] if "row-level" in one["measure"])
    assert walls["holds"], walls
    markdown = (await vault.get("records/markdown")).text
    assert f"| {account.replace('_', chr(92) + '_')} |" in markdown
    assert "Haus & Söhne \\<b\\>" in markdown
    page = Words((await vault.get("records/page")).text)
    assert "Haus & Söhne <b>" in page.words
    assert "anna@example.org" not in markdown + " ".join(page.words)


async def test_the_register_tells_the_dates_of_a_notice_period(vault):
    register = {one["name"]: one for one in (await vault.get("processors")).json()["processors"]}
    assert (register["smtp.new"]["state"], register["smtp.default"]["state"]) == ("in-notice", "approved")
    assert register["smtp.new"]["announced_on"] == TODAY.isoformat()
    page = Words((await vault.get("processors/page")).text)
    from_day = (TODAY + timedelta(days=30)).isoformat()
    assert f"announced: from {from_day}" in page.words
    assert page.addresses == []


# The end of an account


def burgle(database, account, stolen):
    """Open a name from rows stolen earlier with every key file that still exists; None when none opens."""
    folder = KeyFolder(database.keys, ROOT)
    for number in (0, *folder.epochs()):
        try:
            key = folder.load(number).unwrap(stolen["account_key"], named("account-key", account, str(stolen["epoch"])))
            place = named("data-key") + named(account) + named(stolen["token"])
            return decrypt(AESGCM(key), stolen["wrapped"], place)
        except BlobError:
            continue
    return None


async def test_an_ended_account_is_exported_first_and_nothing_of_it_opens_any_more(vault, new_copy, database, account):
    sealed = [item(account, f"p{number}@example.org", name=f"P {number}") for number in range(250)]
    other = item(f"{account}-2")
    (theirs,) = await vault.seal(other)
    answers = await vault.seal(*sealed)
    second = await new_copy()
    await second.open(opening(sealed[0], answers[0]))
    (stolen,) = await vault.rows(
        "SELECT k.token, k.epoch, k.wrapped, a.wrapped AS account_key FROM data_keys k"
        " JOIN account_keys a USING (account_id, epoch) WHERE token = $1",
        answers[0].token,
    )
    assert burgle(database, account, stolen)
    asked = await vault.done("account-ends", account_id=account)
    assert (asked["state"], asked["persons"]) == ("asked", 250)
    confirmed = {"account_id": account, "confirmation": asked["confirmation"]}
    early = await vault.post("account-ends:confirm", **confirmed)
    wrong = await vault.post("account-ends:confirm", account_id=account, confirmation="a guess")
    assert [told({"problem": one.json()}) for one in (early, wrong)] == ["not-exported", "not-confirmed"]

    exported = await vault.post("account-export", account_id=account)
    *lines, last = map(json.loads, exported.text.splitlines())
    assert last == {"account_id": account, "persons": 250, "whole": True}
    assert {one["fields"]["name"] for one in lines} == {f"P {number}" for number in range(250)}

    some = await vault.done("account-ends:confirm", **confirmed, limit=100)
    assert (some["state"], some["persons"], some["erased"]) == ("ending", 150, 100)
    done = await vault.done("account-ends:confirm", **confirmed)
    assert (done["state"], done["persons"], done["erased"]) == ("ended", 0, 250)
    assert await vault.done("account-ends:confirm", **confirmed) == done, "asking again changes nothing"

    assert burgle(database, account, stolen) is None, "the old epoch's key is gone: a stolen backup opens nothing"
    for table in ("accounts", "account_keys", "subjects", "data_keys"):
        assert await vault.rows(f"SELECT FROM {table} WHERE account_id = $1", account) == []
    for copy in (vault, second):
        assert [kind(one) for one in await copy.open(opening(sealed[0], answers[0]))] == ["erased"]
        assert [kind(one) for one in await copy.seal(item(account))] == ["account-ended"]
        assert (await copy.open(opening(other, theirs)))[0].message_key == other.message_key
    lifted = {"account_id": account, "tool": "email", "address": "a@example.org"}
    assert [told(one) for one in await vault.done("suppress:batch", lifted, purpose="legal-basis")] == ["account-ended"]
    signed = (await vault.get(f"account-ends/{account}")).json()
    assert (signed["statement"]["state"], signed["statement"]["persons_erased"]) == ("ended", 250)
    events = [
        decode(ErasureRecorded, one.value, one.headers) for one in vault.kafka.records if one.topic == "vault.erasures"
    ]
    assert {one.reason for one in events} == {"account-end"}
    assert len(events) == 250


async def test_an_account_that_was_sealed_for_during_its_end_keeps_nobody(vault, new_copy, account):
    """A second copy with the account's keys in memory seals until it notices."""
    await vault.seal(item(account))
    second = await new_copy()
    await second.seal(item(account))
    asked = await vault.done("account-ends", account_id=account)
    stop = asyncio.Event()

    async def go_on():
        while not stop.is_set():
            (answer,) = await second.seal(item(account, f"{uuid.uuid4()}@example.org"))
            if kind(answer) == "account-ended":
                return
            await asyncio.sleep(0.02)

    sealing = asyncio.create_task(go_on())
    done = await vault.done(
        "account-ends:confirm", account_id=account, confirmation=asked["confirmation"], without_export=True
    )
    try:
        await asyncio.wait_for(sealing, 20)
    finally:
        stop.set()
    assert done["state"] == "ended"
    assert await vault.rows("SELECT FROM subjects WHERE account_id = $1", account) == []


async def test_no_end_of_an_account_that_nobody_knows(vault):
    unknown = await vault.post("account-ends", account_id="nobody")
    assert (unknown.status_code, told({"problem": unknown.json()})) == (404, "no-such-account")
    assert (await vault.get("account-ends/nobody")).status_code == 404


@pytest.mark.parametrize("name", ["*", "a\x1f*", "\x00"])
async def test_no_duty_is_done_to_all_accounts_by_the_name_of_one(vault, name):
    for path in ("account-export", "account-ends"):
        assert (await vault.post(path, account_id=name)).status_code == 422
    assert (await vault.post("export", person={"account_id": name, "token": "rt_x"})).status_code == 422
