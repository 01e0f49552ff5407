"""Nothing readable outside the vault: words planted in mails are in no Kafka file, no table, no WAL, no log.

The words go down every path of the road: sent, refused with an echo, tried again, in doubt, screened out, held, given
up to dead letters, turned away at each service's door. Words of a second kind are planted in plain sight, in Kafka, in
PostgreSQL and in a log, and the same search must find every one of them.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import secrets
import string
import threading
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta

import asyncpg
import httpx
import pytest
from canary_search import COMPRESSIONS, Search, decompressed, files, rows
from confluent_kafka import Producer
from confluent_kafka.admin import NewTopic
from on_the_road import REGISTRY, wait_for, wait_until_settled

from common.ids import new_id
from common.kafka.records import Record
from common.security.tokens import TokenIssuer
from common.times import now
from waystation.rehearsal import INBOX, eml_item, items
from waystation.stack import SERVICES
from waystation.stack.credentials import SUPERUSER

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        os.environ.get("WAYSTATION_STACK") == "docker",
        reason="looks into the files of Kafka and PostgreSQL in the folder",
    ),
]

EICAR = r"X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR" + "-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
HELD_TEXT = "Easy job. You receive payments into your personal bank account, keep 10% and forward the rest."
KINDS = ("none", "base64", "folded base64", "hex", "upper", "utf-16")


@dataclass(frozen=True)
class Canaries:
    """Words that occur nowhere else: for an address (ASCII), a name and a phrase (with letters beyond ASCII), a postal
    address, a phone and the variant of a language.
    """

    address: str
    name: str
    phrase: str
    street: str
    phone: str
    language: str

    @classmethod
    def new(cls, seed):
        """Return words that are the same for a seed: moderation holds one in twenty of such nonsense as spam."""
        chance = random.Random(seed)
        rare = ["".join(chance.choice(string.ascii_lowercase) for _ in range(10)) for _ in range(5)]
        phone = "49151" + "".join(chance.choice(string.digits) for _ in range(9))
        return cls(f"vqel{rare[0]}", f"Ällåw{rare[1]}", f"zähnü{rare[2]}", f"Kröt{rare[3]}", phone, f"vq{rare[4][:6]}")

    @property
    def words(self):
        return (self.address, self.name, self.phrase, self.street, self.phone, self.language)


@pytest.fixture(scope="module")
def planted():
    return Canaries.new(1)


@pytest.fixture(scope="module")
def shown():
    """The words of the control."""
    return Canaries.new(2)


def message(canaries, local, **content):
    """A message to a recipient whose address and name, and with content in which the words stand."""
    address = f"{local}+{canaries.address}@kunden.example"
    (item,) = items([address], tag=f"{canaries.address}-")
    item["recipient"]["name"] = f"Frau {canaries.name}"
    item["content"] = {
        "subject": f"{canaries.phrase} für {canaries.name} an {address}",
        "text": f"Guten Tag {canaries.name},\nwir sagen {canaries.phrase}.\nIhr Postfach: {address}\n",
        **content,
    }
    return item


def messages(canaries):
    """One message for each path, with the state it must come to rest in."""
    phrase, name, address = canaries.phrase, canaries.name, canaries.address
    text = f"{phrase} {name} {address}"
    attachment = {
        "filename": f"{name} {phrase}.txt",
        "content_type": "text/plain",
        "content": base64.b64encode(f"{text}\r\n".encode() * 50).decode(),
    }
    eml = (
        f"From: {INBOX}\r\nTo: eml+{address}@kunden.example\r\nSubject: {address}\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    ).encode() + base64.encodebytes(f"{text}\r\n".encode() * 20).replace(b"\n", b"\r\n")
    html = f"<p title='{address}'>Guten Tag <b>{name}</b>, {phrase}</p>"
    reply_to = {"address": f"reply.{address}@kunden.example", "name": name}
    url = f"https://blumen-winter.example/stop?who={address}"
    return [
        (message(canaries, "plain"), "handed_over"),
        (message(canaries, "html", html=html), "handed_over"),
        (message(canaries, "attached", attachments=[attachment]), "handed_over"),
        (message(canaries, "reply", reply_to=reply_to, unsubscribe_url=url), "handed_over"),
        (eml_item(eml, f"eml+{address}@kunden.example", f"{address} {new_id()}"), "handed_over"),
        (message(canaries, "refuse"), "refused"),
        (message(canaries, "refuse-content"), "refused"),
        (message(canaries, "later-2"), "handed_over"),
        (message(canaries, "greylist"), "handed_over"),
        (message(canaries, "cut"), "in_doubt"),
        (message(canaries, "garbage"), "in_doubt"),
        (message(canaries, "cut-early"), "in_doubt"),
        (message(canaries, "blocked", text=f"{text} {EICAR}"), "refused"),
        (message(canaries, "held", text=f"{text}\n{HELD_TEXT}"), "held"),
    ]


def short_lived(canaries):
    """A message that its provider never takes, and that expires."""
    return {**message(canaries, "421"), "not_after": (now() + timedelta(seconds=10)).isoformat()}


@pytest.fixture(scope="module")
def travelled(road, bus, planted):
    """Send the words down every path; return ids and recipients."""
    account = road.create_account(f"Canaries {now().timestamp()}")
    assert asyncio.run(make_people(road, planted)) == [True, True]
    assert asyncio.run(complain(road, planted)) == 202
    load = messages(planted)
    road.stack.stop_service("vault")
    starter = threading.Timer(2.0, road.stack.start_service, ["vault"])
    starter.start()
    sent = asyncio.run(road.send(account, [item for item, _ in load]))
    starter.join()
    load.append((short_lived(planted), "expired"))
    sent += asyncio.run(road.send(account, [load[-1][0]]))
    ids = {one.recipient: one.message_id for one in sent}
    resting = {ids[item["recipient"]["address"]]: state for item, state in load}
    assert wait_until_settled(road.stack, resting) == resting
    asyncio.run(seal_every_field(road, planted))
    turned_away = asyncio.run(knock_everywhere(road, planted, account))
    assert {what: status for what, status in turned_away.items() if not 400 <= status < 500} == {}
    give_up(bus, ids)
    bus.wait_until_caught_up()
    return ids


async def make_people(road, canaries):
    """An account whose administrator and user are named; say whether each became a person of the vault."""
    who = {"address": f"admin.{canaries.address}@kunden.example", "name": canaries.name}
    other = {"address": f"user.{canaries.address}@kunden.example", "name": canaries.phrase}
    body = {"name": f"People {new_id()}", "administrator": who, "users": [{"person": other}]}
    token = TokenIssuer.from_file("operator", road.stack.identity_key("operator")).headers("ingestion")
    async with httpx.AsyncClient(timeout=20, trust_env=False) as http:
        answer = await http.post(f"{road.stack.url('ingestion')}/v1/accounts", json=body, headers=token)
    return [bool(user["person_token"]) for user in answer.json()["users"]]


async def complain(road, canaries):
    """A complaint whose complainant is named; return the answer's status."""
    who = {"address": f"complains.{canaries.address}@kunden.example", "name": canaries.name}
    body = {"account_id": new_id(), "clause": "R3.a", "category": "phishing", "origin": "recipient", "complainant": who}
    async with httpx.AsyncClient(timeout=20, trust_env=False) as http:
        return (await http.post(f"{road.stack.url('enforcement')}/v1/complaints", json=body)).status_code


def give_up(bus, ids):
    """Break copies of the genuine records, so that both groups give them up."""
    before = {dlq.name: bus.ends(dlq.name)[0][1] for dlq in REGISTRY.dlqs}
    for topic, writer in (("intake.messages", "ingestion"), ("screening.verdicts", "moderation")):
        genuine = [one for one in bus.read(topic) if any(i.encode() in (one.value() or b"") for i in ids.values())]
        broken = [Record(topic, one.key(), one.value()[:-1], tuple(one.headers())) for one in genuine]
        bus.written(writer, broken)
        dlq = next(dlq.name for dlq in REGISTRY.dlqs if dlq.name.startswith(topic))
        end = before[dlq] + len(broken)
        wait_for(lambda dlq=dlq, end=end: bus.ends(dlq)[0][1] >= end, "broken records are given up")


async def seal_every_field(road, canaries):
    """Two persons of whom the vault keeps every field that it has: all duties are done to both, one is erased."""
    account, phone = f"canaries-{new_id()}", f"+{canaries.phone}"
    stays, goes = ({"account_id": account, "address": f"{who}+{canaries.address}@kunden.example"} for who in "ab")
    fields = {"name": canaries.name, "postal_address": f"{canaries.street} 1", "phone": phone}
    fields |= {"language": f"de-{canaries.language}", "time_zone": "Europe/Berlin"}
    sealing = [{**one, "message_id": new_id(), "fields": fields} for one in (stays, goes)]
    protection = {"purpose": "data-protection"}
    changed = {"name": canaries.phrase, "postal_address": f"{canaries.street} {canaries.name}"}
    basis = {"person": stays, "purpose": "news", "kind": "contract", "given_at": now().isoformat()}
    calls = (
        ("ingestion", "seal:batch", {"purpose": "intake", "items": sealing}),
        ("operator", "find:batch", {**protection, "items": [stays, {"account_id": account, "phone": phone}]}),
        ("operator", "record-basis:batch", {"purpose": "legal-basis", "items": [basis]}),
        ("operator", "rectify:batch", {**protection, "items": [{"person": stays, "fields": changed}]}),
        ("operator", "restrict:batch", {**protection, "items": [{"person": stays, "restricted": True}]}),
        (
            "operator",
            "suppress:batch",
            {"purpose": "legal-basis", "items": [{"account_id": account, "tool": "telephony", "phone": phone}]},
        ),
        ("operator", "export", {**protection, "person": stays}),
        ("operator", "export/page", {**protection, "person": goes}),
        ("operator", "account-export", {**protection, "account_id": account}),
        ("operator", "erase:batch", {**protection, "reason": "request-of-person", "items": [goes]}),
    )
    async with httpx.AsyncClient(base_url=road.stack.url("vault"), timeout=20, trust_env=False) as http:
        for caller, operation, body in calls:
            headers = TokenIssuer.from_file(caller, road.stack.identity_key(caller)).headers("vault")
            answer = await http.post(f"/v1/{operation}", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            assert '"problem"' not in answer.text, answer.text


async def knock_everywhere(road, canaries, account):
    """Give the words to every door in calls that must be refused."""
    words = " ".join(canaries.words)
    address = f"{canaries.address}@kunden.example"
    key = {"authorization": f"Bearer {account.api_key}"}
    good = message(canaries, "again")
    refused = {
        "no address": {**good, "recipient": {"address": words}},
        "an unknown field": {**good, canaries.address: words},
        "a header injected": {**good, "content": {"subject": f"a\r\nBcc: {address}", "text": words}},
        "no content": {**good, "content": {"subject": words}},
        "another type": {**good, "content": [words]},
        "an unknown inbox": {**good, "inbox": address},
        "a purpose that is a text": {**good, "purpose": words},
        "no eml": {**good, "content": {"eml": base64.b64encode(words.encode()).decode()}},
        "a long subject": {**good, "content": {"subject": words * 100, "text": words}},
        "another content under a used key": {**messages(canaries)[0][0], "content": {"subject": words, "text": words}},
    }
    calls = [("ingestion", "POST", "/v1/messages", {"json": body, "headers": key}) for body in refused.values()]
    calls += [
        ("ingestion", "POST", "/v1/messages", {"content": words.encode() + b"\xff", "headers": key}),
        ("ingestion", "POST", "/v1/messages:batch", {"json": {"items": words}, "headers": key}),
        ("ingestion", "POST", "/v1/messages", {"json": good, "headers": {"authorization": f"Bearer wk_{address}"}}),
        ("ingestion", "GET", f"/v1/messages/{address}", {"headers": key}),
        ("enforcement", "POST", "/v1/complaints", {"json": {"account_id": address, canaries.address: words}}),
        ("enforcement", "POST", "/v1/complaints", {"json": {"account_id": "a", "complainant": {"address": [words]}}}),
        ("enforcement", "POST", "/v1/complaints", {"content": words.encode()}),
        ("enforcement", "GET", f"/v1/{address}?who={address}", {}),
    ]
    operator = {s: TokenIssuer.from_file("operator", road.stack.identity_key("operator")).headers(s) for s in SERVICES}
    standing = {"standing": "warned", "reason": f"write to {address}", "clause": words}
    calls += [
        ("enforcement", "POST", f"/v1/standings/{new_id()}", {"json": standing, "headers": operator["enforcement"]}),
        ("routing", "GET", f"/v1/deliveries/{address}", {"headers": operator["routing"]}),
        ("moderation", "GET", f"/v1/verdicts/{address}", {"headers": operator["moderation"]}),
        ("routing", "POST", "/v1/ledger", {"json": {"account_id": words * 9}, "headers": operator["routing"]}),
        (
            "ingestion",
            "POST",
            "/v1/accounts",
            {"json": {"name": words, "who": words}, "headers": operator["ingestion"]},
        ),
    ]
    door = TokenIssuer.from_file("ingestion", road.stack.identity_key("ingestion")).headers("vault")
    sealing = {"account_id": "tests", "message_id": new_id(), "address": address, "message_key": "A" * 43 + "="}
    for body in (
        {"purpose": "intake", "items": [{**sealing, "fields": {"phone": words}}]},
        {"purpose": "intake", "items": [{**sealing, "account_id": f"\x00{address}", "fields": {"name": words}}]},
        {"purpose": words, "items": [sealing]},
        {"purpose": "intake", "items": [{**sealing, "message_key": words}]},
        {"purpose": "intake", "items": [{**sealing, "fields": {"language": words}}, sealing]},
        {"purpose": "intake", "items": [{**sealing, canaries.address: words}, sealing]},
    ):
        calls.append(("vault", "POST", "/v1/seal:batch", {"json": body, "headers": door}))
    async with httpx.AsyncClient(timeout=20, trust_env=False) as http:
        answers = {}
        for number, (service, method, path, request) in enumerate(calls):
            answer = await http.request(method, road.stack.url(service) + path, **request)
            status = (
                answer.json()["items"][0]["problem"]["status"] if path.endswith(":batch") and answer.is_success else 0
            )
            answers[number, service, path.partition("/v1/")[2][:12]] = status or answer.status_code
    return answers


async def show(stack, canaries, log):
    """Plant the words of the control where anybody can read them."""
    topic, text = f"tests.canaries-{secrets.token_hex(4)}", " ".join(canaries.words)
    admin = stack.kafka_admin()
    await asyncio.to_thread(next(iter(admin.create_topics([NewTopic(topic, 1, 1)]).values())).result, 15)
    access = stack.kafka_credentials("admin")
    for compression in COMPRESSIONS:
        producer = Producer(
            {
                "bootstrap.servers": access.bootstrap,
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "SCRAM-SHA-256",
                "sasl.username": access.username,
                "sasl.password": access.password,
                "compression.type": compression,
            }
        )
        producer.produce(topic, (text + " ").encode() * 30, headers=[("how", compression.encode())])
        assert producer.flush(15) == 0
    log.write_text(f"a line with {text}\n", encoding="utf-8")
    connection = await asyncpg.connect(stack.dsn("postgres", SUPERUSER))
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS canaries (how text, value text, bytes bytea)")
        raw = text.encode()
        folded = base64.encodebytes(raw * 3).decode().replace("\n", "\r\n")
        values = [text, base64.b64encode(b"x" + raw).decode(), folded, raw.hex(), text.upper(), text]
        data = [b"", b"", b"", b"", b"", text.encode("utf-16-le")]
        for kind, value, octets in zip(KINDS, values, data, strict=True):
            await connection.execute("INSERT INTO canaries VALUES ($1, $2, $3)", kind, value, octets)
        # So large and so repetitive that PostgreSQL stores it compressed: only the rows tell.
        await connection.execute("INSERT INTO canaries VALUES ('compressed', $1)", (text + " ") * 5000)
    finally:
        await connection.close()
    return topic


@pytest.fixture(scope="module")
def found(road, travelled, planted, shown):
    """Everything that the search finds, of both kinds of words; the number of bytes it went through."""
    stack, log = road.stack, road.stack.layout.logs / "tests-canaries.log"
    topic = asyncio.run(show(stack, shown, log))
    try:
        asyncio.run(checkpoint(stack))
        search = Search([*planted.words, *shown.words])
        finds = set()
        for place, data in files(stack.layout.home):
            finds |= search.look(place, data)
        for place, data in decompressed(stack.layout.home):
            finds |= search.look(place, data)
        databases = asyncio.run(databases_of(stack))
        assert set(SERVICES) <= set(databases)
        for place, data in asyncio.run(rows(lambda database: stack.dsn(database, SUPERUSER), databases)):
            finds |= search.look(place, data)
        yield finds, search.bytes_seen
    finally:
        log.unlink()
        asyncio.run(hide(stack))
        admin = stack.kafka_admin()
        admin.delete_topics([topic])[topic].result(15)


async def checkpoint(stack):
    """Bring PostgreSQL's buffers into its files."""
    connection = await asyncpg.connect(stack.dsn("postgres", SUPERUSER))
    try:
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def hide(stack):
    connection = await asyncpg.connect(stack.dsn("postgres", SUPERUSER))
    try:
        await connection.execute("DROP TABLE IF EXISTS canaries")
    finally:
        await connection.close()


async def databases_of(stack):
    connection = await asyncpg.connect(stack.dsn("postgres", SUPERUSER))
    try:
        return [row[0] for row in await connection.fetch("SELECT datname FROM pg_database WHERE datallowconn")]
    finally:
        await connection.close()


def test_the_words_went_down_the_road(road, travelled, planted):
    """What is looked for has been everywhere: at the provider, in its replies, in sealed replies, in the vault."""
    mails = [mail for mail in road.recorded() if planted.address in mail.rcpt_to]
    assert Counter(mail.accepted for mail in mails)[True] >= 7
    (plain,) = [mail for mail in mails if mail.rcpt_to.startswith("plain+")]
    content = plain.content.decode("ascii", "replace")
    assert planted.address in content
    assert any(
        form in content for form in (planted.phrase, base64.b64encode(planted.phrase.encode()).decode()[:8], "=C3=A4")
    )
    assert any(planted.address in mail.answer for mail in mails if mail.rcpt_to.startswith("refuse-content"))
    kept = asyncio.run(sealed_replies(road.stack, list(travelled.values())))
    assert kept >= 8, "replies are kept, sealed"


async def sealed_replies(stack, message_ids):
    connection = await asyncpg.connect(stack.dsn("routing"))
    try:
        query = "SELECT count(*) FROM attempts WHERE message_id = ANY($1::uuid[]) AND reply_sealed IS NOT NULL"
        return await connection.fetchval(query, message_ids)
    finally:
        await connection.close()


def test_no_planted_word_is_readable_anywhere(found, planted):
    finds, bytes_seen = found
    assert sorted(find for find in finds if find.word in planted.words) == []
    assert bytes_seen > 10_000_000


def test_the_search_finds_what_is_in_plain_sight(found, shown):
    finds = {find for find in found[0] if find.word in shown.words}
    for word in shown.words:
        own = {(find.disguise, find.place) for find in finds if find.word == word}
        places = {place for _, place in own}
        for compression in COMPRESSIONS[1:]:
            assert any("tests.canaries" in place and place.endswith(compression) for place in places), compression
        assert any("tests.canaries" in place and "batch" not in place for place in places), "an uncompressed batch"
        assert any(place.startswith("postgres/data/base/") for place in places), "a table's file"
        assert any("pg_wal" in place for place in places), "the write-ahead log"
        assert "database postgres, table canaries" in places
        assert "logs/tests-canaries.log" in places
        names = {disguise for disguise, place in own if "database" in place}
        assert {"utf-8", "base64 of utf-8", "hex of utf-8", "utf-16-le", "base64 of utf-8, unfolded"} <= names
