"""Who holds a service's Kafka credentials can write what that service may write, and still hands nothing over.

Each principal in turn writes forged records to every topic it may write to. What counts is signed, and the signing keys
are not in Kafka: nothing forged is handed over, each record is counted as unauthorised with its reason by the service
that met it, no genuine message changes, and the conservation equation holds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from on_the_road import PATIENCE_SECONDS, REGISTRY, run_command, wait_for, wait_until_settled

from common.events import MessageAdmitted, ReceiptIssued, VerdictReached, encode
from common.kafka.records import Record
from common.kafka.topics import dlq_name
from common.security.signing import Signed, Signer
from common.testing.admitted import admitted_message, new_door_keys
from common.times import now, rfc3339
from waystation.ledger import read_ledger
from waystation.operator import ServiceClient
from waystation.rehearsal import items
from waystation.stack.credentials import signing_key

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

INTAKE, VERDICTS, RECEIPTS, STANDINGS = (
    "intake.messages",
    "screening.verdicts",
    "routing.receipts",
    "enforcement.standings",
)
BLOCKED_TEXT = "Order fake passports today, undetectable quality, shipped worldwide."
SETTLED = {"one": "handed_over", "two": "handed_over", "blocked": "refused", "doubt": "in_doubt"}
NOT_PUBLISHED = "{0}: signed with a key that was never published"
NOT_FITTING = "{0}: the signature does not fit the statement"
ANOTHER_CONTENT = "instruction: the sealed content is not the one that was instructed"


class Forged(NamedTuple):
    """A record and the reason for which it must be refused."""

    record: Record
    reason: str


@dataclass
class Genuine:
    """Messages that went down the road, by name: their ids, and their records on each topic."""

    account: str
    ids: dict
    admitted: dict
    verdicts: dict
    receipts: dict


def record_of(message):
    return Record(message.topic(), message.key(), message.value(), tuple(message.headers()))


@pytest.fixture(scope="module")
def genuine(road, bus):
    """Two messages handed over, one blocked by screening, one in doubt."""
    account = road.create_account(f"Forgery {now().timestamp()}")
    recipients = {
        "one": "one@kunden.example",
        "two": "two@kunden.example",
        "blocked": "blocked@kunden.example",
        "doubt": "cut@kunden.example",
    }
    load = dict(zip(recipients, items(recipients.values()), strict=True))
    load["blocked"]["content"]["text"] = BLOCKED_TEXT
    sent = asyncio.run(road.send(account, list(load.values())))
    ids = {name: next(m.message_id for m in sent if m.recipient == to) for name, to in recipients.items()}
    states = wait_until_settled(road.stack, ids.values())
    assert {name: states[message_id] for name, message_id in ids.items()} == SETTLED
    bus.wait_until_caught_up()

    def first_records(topic):
        """The event's id begins with the message's; of a message that rests at once there is one receipt."""
        by_id = {}
        for record in bus.read(topic):
            event_id = (dict(record.headers() or ()).get("ce_id") or b"").decode("utf-8", "replace")
            by_id.setdefault(event_id.partition(".")[0], record)
        return {name: by_id[message_id] for name, message_id in ids.items()}

    return Genuine(account.account_id, ids, *(first_records(topic) for topic in (INTAKE, VERDICTS, RECEIPTS)))


def changed(signed, **fields):
    """The statement with other fields, under the proof of the genuine one."""
    return Signed(statement={**signed.statement, **fields}, proof=signed.proof)


def proved(signed, **fields):
    """The statement under another proof."""
    return Signed(statement=signed.statement, proof=signed.proof.model_copy(update=fields))


def forged_messages(genuine, stack):
    """Admitted messages that no door admitted, each with the reason that must be noted."""
    one = MessageAdmitted.model_validate_json(genuine.admitted["one"].value())
    two = MessageAdmitted.model_validate_json(genuine.admitted["two"].value())
    never = admitted_message(new_door_keys(), account_id=genuine.account).event
    moderation = Signer.from_file("verdict", signing_key(stack.layout, "moderation"))
    instruction, sealed = one.instruction, one.sealed

    def forge(reason, instruction=instruction, sealed=sealed):
        return MessageAdmitted(instruction=instruction, sealed=sealed), reason

    by_another = Signer("instruction", Ed25519PrivateKey.generate()).sign([instruction.statement])[0]
    not_fitting, never_published = NOT_FITTING.format("instruction"), NOT_PUBLISHED.format("instruction")
    return [
        (never, never_published),
        forge(never_published, by_another),
        forge(never_published, moderation.sign([instruction.statement])[0]),
        forge(not_fitting, proved(instruction, signature="")),
        forge("instruction: the inclusion path is too long", proved(never.instruction, path="A" * 43 + "=")),
        forge("the proof is not base64url", proved(instruction, path="not base64!")),
        forge("instruction: the inclusion path does not fit the tree", proved(instruction, size=0, index=0)),
        forge(not_fitting, changed(instruction, recipient_token=two.instruction.statement["recipient_token"])),
        forge(not_fitting, changed(instruction, content_digest=two.instruction.statement["content_digest"])),
        forge(not_fitting, changed(instruction, duplicates_allowed=True)),
        forge(ANOTHER_CONTENT, sealed=two.sealed),
        forge(ANOTHER_CONTENT, sealed=sealed.model_copy(update={"capsule": two.sealed.capsule})),
        forge(ANOTHER_CONTENT, sealed=sealed.model_copy(update={"envelope": two.sealed.envelope})),
    ]


def forge_intake(genuine, stack):
    return [Forged(encode(event), reason) for event, reason in forged_messages(genuine, stack)]


def forge_verdicts(genuine, stack):
    """Verdicts that moderation never reached: an *allow* for what was blocked, and genuine ones on forged messages."""
    blocked = VerdictReached.model_validate_json(genuine.verdicts["blocked"].value())
    one = VerdictReached.model_validate_json(genuine.verdicts["one"].value())
    allow = {**blocked.verdict.statement, "action": "allow", "clauses": [], "rules": [], "evidence": []}
    door = Signer.from_file("instruction", signing_key(stack.layout, "ingestion"))
    unpublished, unfitting = NOT_PUBLISHED.format("verdict"), NOT_FITTING.format("verdict")
    verdicts = [
        (Signer("verdict", Ed25519PrivateKey.generate()).sign([allow])[0], unpublished),
        (door.sign([allow])[0], unpublished),
        (one.verdict, "verdict: it judges another instruction"),
        (proved(Signed(statement=allow, proof=blocked.verdict.proof), signature=""), unfitting),
        (changed(blocked.verdict, action="allow"), unfitting),
        (Signed(statement=allow, proof=one.verdict.proof), unfitting),
        (proved(blocked.verdict, path="%"), "the proof is not base64url"),
    ]
    forged = [(VerdictReached(verdict=verdict, message=blocked.message), reason) for verdict, reason in verdicts]
    forged += [
        (VerdictReached(verdict=one.verdict, message=message), why) for message, why in forged_messages(genuine, stack)
    ]
    return [Forged(encode(event), reason) for event, reason in forged]


def forge_receipts(genuine, stack):
    """Receipts that routing never issued, for a message in doubt and for one that was refused."""
    doubt = ReceiptIssued.model_validate_json(genuine.receipts["doubt"].value()).receipt
    one = ReceiptIssued.model_validate_json(genuine.receipts["one"].value()).receipt
    over = {**doubt.statement, "state": "handed_over", "sequence": doubt.statement["sequence"] + 1}
    moderation = Signer.from_file("verdict", signing_key(stack.layout, "moderation"))
    unpublished, unfitting = NOT_PUBLISHED.format("receipt"), NOT_FITTING.format("receipt")
    receipts = [
        (Signer("receipt", Ed25519PrivateKey.generate()).sign([over])[0], unpublished),
        (moderation.sign([over])[0], unpublished),
        (changed(doubt, state="handed_over"), unfitting),
        (changed(one, message_id=doubt.statement["message_id"]), unfitting),
        (proved(Signed(statement=over, proof=doubt.proof), signature=""), unfitting),
        (proved(doubt, path="%"), "the proof is not base64url"),
    ]
    return [Forged(encode(ReceiptIssued(receipt=receipt)), reason) for receipt, reason in receipts]


FORGERS = {INTAKE: forge_intake, VERDICTS: forge_verdicts, RECEIPTS: forge_receipts}
MEET = {INTAKE: ("moderation",), VERDICTS: ("routing",), RECEIPTS: ("ingestion", "vault")}
"""Which services read the topic, and so meet a forged record."""


def snapshot(road, genuine):
    """Everything that a forged record must leave as it is."""
    with ServiceClient(road.stack) as operator:
        return {
            "seen by the provider": Counter((mail.rcpt_to, mail.sha256) for mail in road.recorded()),
            "traces": {m: operator.get("ingestion", f"/v1/messages/{m}")["steps"] for m in genuine.ids.values()},
            "deliveries": {m: operator.get("routing", f"/v1/deliveries/{m}") for m in genuine.ids.values()},
            "verdicts": {m: operator.get("moderation", f"/v1/verdicts/{m}") for m in genuine.ids.values()},
            "disclosures": {
                m: operator.get("vault", "/v1/disclosures", {"message_id": m})["items"] for m in genuine.ids.values()
            },
            "states": operator.post("routing", "/v1/ledger", {"account_id": genuine.account})["accounts"],
            "deliveries in all": road.states().total(),
            "spent": asyncio.run(spent(road.stack, list(genuine.ids.values()))),
        }


async def spent(stack, message_ids):
    connection = await asyncpg.connect(stack.dsn("vault"))
    try:
        await connection.execute("SET vault.accounts = '*'")  # what row-level security shows nobody who has not asked
        query = "SELECT message_id, spent_at FROM instructions WHERE message_id = ANY($1::text[]) ORDER BY message_id"
        return [tuple(row) for row in await connection.fetch(query, message_ids)]
    finally:
        await connection.close()


def unauthorised(stack, service):
    """What a service noted, by place."""
    with ServiceClient(stack) as operator:
        rows = operator.get(service, "/v1/unauthorised", {"limit": 1000})["items"]
    return {(row["topic"], row["record_partition"], row["record_offset"]): row["reason"] for row in rows}


def counts(stack):
    with ServiceClient(stack) as operator:
        return dict(read_ledger(operator).unauthorised)


def dead_letters(bus):
    return {topic.name: bus.ends(topic.name) for topic in REGISTRY.dlqs}


def wait_until_noted(bus, stack, service, places):
    bus.wait_until_caught_up()
    return wait_for(
        lambda: (noted := unauthorised(stack, service)).keys() >= set(places) and noted, f"{service} counts all"
    )


@pytest.mark.parametrize("principal", ["ingestion", "moderation", "routing", "vault", "enforcement", "operator"])
def test_what_a_principal_forges_is_counted_and_never_handed_over(principal, road, bus, genuine):
    stack = road.stack
    before, counted_before, letters = snapshot(road, genuine), counts(stack), dead_letters(bus)
    for topic, forge in FORGERS.items():
        forged = forge(genuine, stack)
        if not may_write(principal, topic):
            refusals = bus.write(principal, [forged[0].record])
            assert [error.name() for error in refusals] == ["TOPIC_AUTHORIZATION_FAILED"]
            continue
        places = bus.written(principal, [one.record for one in forged])
        expected = dict(zip(places, [one.reason for one in forged], strict=True))
        for service in MEET[topic]:
            noted = wait_until_noted(bus, stack, service, places)
            assert {place: noted[place] for place in places} == expected
            counted_before[service] += len(forged)
    assert counts(stack) == counted_before
    assert dead_letters(bus) == letters, "what lacks authority is counted, not dead-lettered"
    assert snapshot(road, genuine) == before
    assert_the_equation_holds(road)


def may_write(principal, topic):
    return any(acl[:3] == (principal, "TOPIC", topic) and acl.operation == "WRITE" for acl in REGISTRY.acls())


def assert_the_equation_holds(road):
    with ServiceClient(road.stack) as operator:
        ledger = read_ledger(operator)
    assert ledger.balanced, ledger.wrong


def test_genuine_records_written_again_change_nothing(road, bus, genuine):
    before, counted = snapshot(road, genuine), counts(road.stack)
    for found in (genuine.admitted, genuine.verdicts, genuine.receipts):
        bus.written("operator", [record_of(message) for message in found.values()] * 3)
    bus.wait_until_caught_up()
    assert snapshot(road, genuine) == before
    assert counts(road.stack) == counted
    assert_the_equation_holds(road)


def test_a_genuine_record_under_another_key_and_other_headers_changes_nothing(road, bus, genuine):
    """Kafka key and CloudEvents headers are not signed, so nothing is believed of them."""
    before = snapshot(road, genuine)
    own = {"ce_id": b"another", "ce_subject": b"rt_another", "ce_source": b"elsewhere", "ce_time": b"never"}
    for found in (genuine.admitted["one"], genuine.verdicts["blocked"], genuine.receipts["doubt"]):
        headers = {**dict(found.headers()), **own}
        bus.written("operator", [Record(found.topic(), b"rt_another", found.value(), tuple(headers.items()))])
    bus.wait_until_caught_up()
    assert snapshot(road, genuine) == before


def test_a_forged_dead_letter_that_an_operator_replays_is_refused_like_any_other(road, bus, genuine):
    """Moderation may write its own dead letters; what it puts there has no more authority for that."""
    stack = road.stack
    (forged, reason), topic = forge_intake(genuine, stack)[0], dlq_name(INTAKE, "moderation.screening")
    why = {"dlq_reason": "x", "dlq_topic": INTAKE, "dlq_partition": "2", "dlq_group": "moderation.screening"}
    headers = (*forged.headers, *((name, text.encode()) for name, text in why.items()))
    (place,) = bus.written("moderation", [forged._replace(topic=topic, headers=headers)])
    before = snapshot(road, genuine)
    end = bus.ends(INTAKE)[2][1]
    answer = run_command(stack, "dlq", "replay", topic, "--offset", str(place.offset))
    assert answer == {"replayed": 1, "refused": []}
    noted = wait_until_noted(bus, stack, "moderation", [(INTAKE, 2, end)])
    assert noted[INTAKE, 2, end] == reason
    assert snapshot(road, genuine) == before


@pytest.mark.parametrize("principal", ["ingestion", "moderation", "routing", "vault", "operator"])
def test_only_enforcement_can_say_that_an_account_is_in_good_standing(principal, bus, road, genuine):
    body = orjson.dumps({"account_id": genuine.account, "standing": "blocked", "revision": 99})
    (error,) = bus.write(principal, [Record(STANDINGS, genuine.account.encode(), body, ())])
    assert error.name() == "TOPIC_AUTHORIZATION_FAILED"


def test_an_old_standing_written_again_does_not_lift_the_present_one(road, bus):
    """With enforcement's own credentials: an older revision, a broken record and an empty one change nothing."""
    stack, account = road.stack, road.create_account(f"Standing {now().timestamp()}")
    with ServiceClient(stack) as operator:
        for standing in ("warned", "suspended"):
            path = f"/v1/standings/{account.account_id}"
            operator.post("enforcement", path, {"standing": standing, "reason": "a test of old standings"})
        wait_for(lambda: recorded_standing(operator, account) == "suspended", "routing hears of it")
        told = wait_for(
            lambda: [one for one in bus.read(STANDINGS) if one.key() == account.account_id.encode()], "it is told"
        )
        old = orjson.loads(told[-1].value())
        again = [
            {**old, "revision": 1, "standing": "good", "since": rfc3339(now())},
            {**old, "revision": old["revision"], "standing": "good"},
            {"account_id": account.account_id, "standing": "good"},
        ]
        key, headers = account.account_id.encode(), tuple(told[-1].headers())
        bodies = [*(orjson.dumps(one) for one in again), b"no json", None]
        bus.written("enforcement", [Record(STANDINGS, key, body, headers) for body in bodies])
        asyncio.run(road.send(account, items(["held@kunden.example"])))
        wait_for(lambda: account_states(operator, account) == {"held": 1}, "the message is held", PATIENCE_SECONDS)
        assert recorded_standing(operator, account) == "suspended"
        assert not [mail for mail in road.recorded() if mail.rcpt_to == "held@kunden.example"]
        operator.post("enforcement", path, {"standing": "good", "reason": "the test is over"})
        wait_for(lambda: account_states(operator, account) == {"handed_over": 1}, "a true change lets it go")


def recorded_standing(operator, account):
    states = operator.get("ingestion", "/v1/accounts")["items"]
    return next(one["standing"] for one in states if one["id"] == account.account_id)


def account_states(operator, account):
    counted = operator.post("routing", "/v1/ledger", {"account_id": account.account_id})["accounts"]
    return counted.get(account.account_id, {})


def test_genuine_messages_pass_as_before(road, bus, genuine):
    account = road.create_account(f"After forgery {now().timestamp()}")
    sent = asyncio.run(road.send(account, items([f"after{number}@kunden.example" for number in range(12)])))
    states = wait_until_settled(road.stack, [one.message_id for one in sent])
    assert set(states.values()) == {"handed_over"}
    seen = Counter(mail.sha256 for mail in road.recorded())
    assert [seen[one.digest] for one in sent] == [1] * 12
    bus.wait_until_caught_up()
    assert_the_equation_holds(road)
