"""What operators do to a road under load: keys that change, databases that are put back, versions side by side.

The commands are those of docs/runbook.md, read from there. All tests of this file share one stack.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from uuid import UUID

import pytest
from chaos_road import RECOVERY_SECONDS_MAX, Road
from on_the_road import Bus
from runbook import block, type_in

from common.security.signing import PURPOSES
from waystation.evidence import collect
from waystation.operator import ServiceClient
from waystation.rehearsal import Rehearsal, items
from waystation.stack import Stack, checkout_folder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]

RESTORED_DOUBTS_MAX = 314
FLOW_SECONDS_MAX = 60.0


@pytest.fixture(scope="module")
def only_road(tmp_path_factory):
    """The stack of this file with all services and the laboratory."""
    home = tmp_path_factory.mktemp("operations")
    rehearsal = Rehearsal(Stack.open(home / "stack"), home / "laboratory", write_first=True)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ROUTING_RETRY_SECONDS_FIRST", "1")
        try:
            rehearsal.stack.up()
            rehearsal.start_laboratory()
            yield Road(rehearsal.stack, rehearsal, print)
        finally:
            rehearsal.stop_laboratory()
            rehearsal.stack.down(wipe=True)


@pytest.fixture
def road(only_road):
    only_road.stack.up()
    return only_road


@pytest.fixture
def operator(road, tmp_path):
    """Types a block of the runbook; `~` is a folder of this test."""

    def types(section, after=""):
        return type_in(block(section, after), road.stack, tmp_path)

    return types


def flowing(road, load, mails=30):
    """Send a burst and wait until so many more mails have come through."""
    mails = min(mails, load.left)
    assert mails, "the load ended before the test"
    load.burst(mails * 2, batch=20)
    road.wait_for_flow(road.rehearsal.recorded_count() + mails - 1, FLOW_SECONDS_MAX)


# Keys


def test_keys_change_under_load_and_every_earlier_statement_verifies(road, operator):
    stack = road.stack
    account, load = road.load("rotation", 600)
    pids = road.pids()
    load.start(batch=1, every_seconds=1.0)
    try:
        flowing(road, load)
        first = keys_of_messages(stack)
        before = message_ids(road, account)[:20]
        for _ in range(3):
            rotated = waystation(stack, "keys", "rotate", "all")
            flowing(road, load)
        admitted, _ = road.settle(account, load)
    finally:
        load.stop()
    assert road.pids() == pids, "a service was restarted"
    assert unauthorised(stack) == Counter()
    used = keys_used(road, [one.message_id for one in admitted])
    assert {purpose: len(keys) for purpose, keys in used.items()} == {"instruction": 4, "verdict": 4, "receipt": 4}
    assert {one["new"] for one in rotated} <= set().union(*used.values())
    for message_id in (before[0], admitted[-1].message_id):
        assert waystation(stack, "verify", message_id)["proved"]
    for old in first:
        waystation(stack, "keys", "retire", old["key"])
    assert waystation(stack, "verify", before[0])["proved"], "a retired key proves what was said before its end"
    states = {one["key"]: one["state"] for one in keys_of_messages(stack)}
    assert Counter(states.values()) == {"retired": 3, "verifies": 6, "signs": 3}


def keys_of_messages(stack):
    return [one for one in waystation(stack, "keys", "list") if one["purpose"] in PURPOSES]


def test_a_proof_of_the_road_verifies_with_the_stack_down_and_not_with_other_keys(road, operator, tmp_path):
    stack = road.stack
    account = road.rehearsal.create_account("Proof")
    (sent,) = asyncio.run(road.rehearsal.send(account, items(["proof@kunden.example"])))
    road.wait_until_at_rest(account, [sent])
    proof = collect(stack, sent.message_id)
    assert [part["purpose"] for part in proof["parts"]] == ["instruction", "verdict", "receipt"]
    (tmp_path / "proof.json").write_text(json.dumps(proof))
    waystation(stack, "keys", "export", str(tmp_path / "published"))
    mail = next(one for one in road.rehearsal.recorded() if one.sha256 == sent.digest)
    assert mail.accepted
    stack.down()
    try:
        assert waystation(stack, "verify", str(tmp_path / "proof.json"))["proved"]
        assert waystation(stack, "verify", str(tmp_path / "proof.json"), "--keys", str(tmp_path / "published"))[
            "proved"
        ]
        others = ("--keys", str(checkout_folder() / "contracts" / "keys"))
        answer = waystation(stack, "verify", str(tmp_path / "proof.json"), *others, status=1)
        codes = [one["refused"]["code"] for one in answer["messages"][0]["statements"]]
        assert codes == ["unknown-key"] * 3
    finally:
        stack.up()


def keys_used(road, message_ids):
    """Which keys signed what the databases hold of these messages, and the receipts of the door."""
    ids = [UUID(one) for one in message_ids]
    sql = "SELECT signed_instruction::json -> 'proof' ->> 'key' AS key FROM messages WHERE id = ANY($1)"
    found = {"instruction": {row["key"] for row in road.rows("ingestion", sql, ids)}}
    sql = "SELECT proof ->> 'key' AS key FROM verdicts WHERE message_id = ANY($1)"
    found["verdict"] = {row["key"] for row in road.rows("moderation", sql, ids)}
    bus = Bus(road.stack)
    receipts = [json.loads(message.value())["receipt"] for message in bus.read("routing.receipts")]
    bus.close()
    ours = set(message_ids)
    found["receipt"] = {one["proof"]["key"] for one in receipts if one["statement"]["message_id"] in ours}
    return found


def message_ids(road, account):
    sql = "SELECT id::text AS id FROM messages WHERE account_id = $1 ORDER BY admitted_at, id"
    return [row["id"] for row in road.rows("ingestion", sql, UUID(account.account_id))]


def unauthorised(stack):
    with ServiceClient(stack) as operator:
        services = ("ingestion", "moderation", "routing", "vault")
        counts = {one: operator.get(one, "/v1/unauthorised")["count"] for one in services}
    return Counter({one: count for one, count in counts.items() if count})


# Databases that are put back


@pytest.mark.parametrize("service", ["moderation", "routing", "ingestion"])
def test_a_database_put_back_under_load_loses_nothing_and_sends_nothing_twice(road, operator, service):
    account, load = road.load(f"restored-{service}", 400)
    load.start(batch=1, every_seconds=1.0)
    try:
        flowing(road, load)
        operator("Backup")
        flowing(road, load, 60)
        lost = present(road, service)
        operator("Restore one database", f"**{service}**")
        assert lost <= present(road, service), "what happened since the backup is known again"
        flowing(road, load)
        admitted, reckoning = road.settle(account, load)
    finally:
        load.stop()
    assert not reckoning.doubtful, "the service was stopped in order: every outcome was told"
    assert unauthorised(road.stack) == Counter()
    again = asyncio.run(road.rehearsal.send(account, load_items(admitted, f"restored-{service}-")))
    assert {one.message_id for one in again} == {one.message_id for one in admitted}, "a repeated request is known"


def present(road, service):
    """What a service's rows know of messages, without what a restore may change (a batch's own time)."""
    sql = {
        "moderation": "SELECT message_id, statement::text AS content, proof::text AS proof FROM verdicts",
        "routing": "SELECT message_id FROM deliveries",
        "ingestion": "SELECT id, idempotency_key, fingerprint, instruction_digest, reference FROM messages",
    }[service]
    return {tuple(row) for row in road.rows(service, sql)}


def load_items(admitted, tag):
    """The items of a load again, in their own order."""
    addresses = {int(one.recipient.partition("@")[0].rpartition("-")[2]): one.recipient for one in admitted}
    made = items([addresses[number] for number in sorted(addresses)], text_bytes=800, tag=tag)
    assert len(made) == len(admitted)
    return made


def test_routing_killed_and_put_back_leaves_what_nobody_knows_in_doubt(road, operator):
    """Its database is gone with outcomes that it had not told: they are neither sent again nor called handed over."""
    account, load = road.load("killed-and-restored", 400)
    load.start(batch=1, every_seconds=1.0)
    try:
        flowing(road, load)
        operator("Backup")
        flowing(road, load, 100)
        road.stack.kill_service("routing")
        asyncio.run(lose(road.stack, "routing"))
        operator("Restore one database", "**routing**")
        admitted, reckoning = road.settle(account, load)
    finally:
        load.stop()
    assert len(reckoning.doubtful) <= RESTORED_DOUBTS_MAX
    road.say(f"  {len(reckoning.doubtful)} in doubt, {len(reckoning.doubtful_seen)} of them arrived")
    told = waystation(road.stack, "doubt", "list")
    assert {one["message_id"] for one in told} <= set(reckoning.doubtful)
    assert len(told) == min(len(reckoning.doubtful), 100), "the list shows a hundred"
    for message_id in reckoning.doubtful[:2]:
        arrived = message_id in reckoning.doubtful_seen
        waystation(road.stack, "doubt", "resolve", message_id, "--handed-over" if arrived else "--resend")
    road.wait_until_at_rest(account, admitted)
    assert not road.reckon(account, admitted).wrong


async def lose(stack, service):
    """The database is not there any more, and nobody can ask it what it held."""
    import asyncpg  # noqa: PLC0415

    connection = await asyncpg.connect(stack.dsn("postgres", "postgres"))
    try:
        await connection.execute(f"DROP DATABASE {service} WITH (FORCE)")
    finally:
        await connection.close()


def test_the_vault_put_back_spends_again_what_was_handed_over_and_loses_only_new_recipients(road, operator):
    account = road.rehearsal.create_account("Vault put back")
    known = [f"known{number}@kunden.example" for number in range(40)]
    send = lambda addresses, tag: asyncio.run(road.rehearsal.send(account, items(addresses, tag=tag)))  # noqa: E731
    sent = send(known, "a")
    road.wait_until_at_rest(account, sent)
    operator("Backup")
    sent += send(known, "b")
    road.wait_until_at_rest(account, sent)
    decide(road, account, "suspended")
    wait_for_standing(road, account, "suspended")
    new = send(["new@kunden.example"], "c")
    road.wait_until_at_rest(account, sent + new)
    withdraw_since_the_backup(road.stack, account)
    assert road.states(account)[new[0].message_id] == "held"
    operator("Restore one database", "**vault**")
    decide(road, account, "good")
    sent += send(known[3:], "d")
    road.wait_until_at_rest(account, sent + new)
    states = road.states(account)
    assert Counter(states[one.message_id] for one in sent) == {"handed_over": len(sent)}
    assert states[new[0].message_id] == "withheld"
    stopped = send([*known[:3], "nobody-yet@kunden.example"], "e")
    road.wait_until_at_rest(account, sent + new + stopped)
    states = road.states(account)
    assert {states[one.message_id] for one in stopped} == {"withheld"}
    spent = "SELECT count(*) FROM instructions WHERE spent_at IS NOT NULL AND message_id = ANY($1::text[])"
    assert road.one("vault", spent, [one.message_id for one in sent]) == len(sent)
    assert not road.reckon(account, sent + new + stopped).wrong


def withdraw_since_the_backup(stack, account):
    """Three of the known recipients and one address that nobody is known by: nothing is disclosed to them any more."""
    who = [{"account_id": account.account_id, "address": f"{name}@kunden.example"} for name in ("known0", "nobody-yet")]
    one, other = ({**who[0], "address": f"known{number}@kunden.example"} for number in (1, 2))
    calls = (
        ("suppress:batch", "legal-basis", [{**person, "tool": "email"} for person in who]),
        ("withdraw:batch", "legal-basis", [{"person": one, "purpose": "order-confirmation", "kind": "contract"}]),
        ("restrict:batch", "data-protection", [{"person": other, "restricted": True}]),
    )
    with ServiceClient(stack) as services:
        for path, purpose, asked in calls:
            answers = services.post("vault", f"/v1/{path}", {"purpose": purpose, "items": asked})["items"]
            assert not any("problem" in answer for answer in answers)


def known_to(services, service, path):
    try:
        return services.get(service, path)
    except Exception as error:
        if "404" in str(error):
            return None
        raise


def test_enforcement_put_back_knows_the_standings_that_it_had_told(road, operator):
    account = road.rehearsal.create_account("Enforcement put back")
    decide(road, account, "warned")
    operator("Backup")
    decide(road, account, "limited")
    decide(road, account, "suspended")
    wait_for_standing(road, account, "suspended")
    operator("Restore one database", "**enforcement**")
    assert decide(road, account, "good")["revision"] == 4, "the next revision follows the last that was told"
    wait_for_standing(road, account, "good")


def test_standings_are_told_again_after_kafka_lost_its_data(road, operator):
    account, other = (road.rehearsal.create_account(name) for name in ("Kafka lost", "Kafka lost, good"))
    decide(road, account, "suspended")
    wait_for_standing(road, account, "suspended")
    operator("Kafka's data is lost")
    for service in ("ingestion", "routing"):
        road.rows(
            service,
            "UPDATE standings SET standing = 'good', revision = 0 WHERE account_id::text = $1",
            account.account_id,
        )
    road.stack.stop_service("routing")
    road.stack.start_service("routing")
    wait_for_standing(road, account, "suspended")
    sent = asyncio.run(road.rehearsal.send(other, items(["after-kafka@kunden.example"])))
    road.wait_until_at_rest(other, sent)
    assert set(road.states(other).values()) == {"handed_over"}
    decide(road, account, "good")


def decide(road, account, standing):
    with ServiceClient(road.stack) as services:
        body = {"standing": standing, "reason": "a test of restored databases"}
        return services.post("enforcement", f"/v1/standings/{account.account_id}", body)


def wait_for_standing(road, account, standing):
    ends = time.monotonic() + RECOVERY_SECONDS_MAX
    while True:
        rows = road.rows("routing", "SELECT standing FROM standings WHERE account_id = $1", account.account_id)
        if [row["standing"] for row in rows] == [standing]:
            return
        assert time.monotonic() < ends, f"{standing} is not recorded: {rows}"
        time.sleep(0.2)


# Versions side by side


@pytest.fixture
def earlier(tmp_path):
    """The sources of moderation and what it imports as of the commit before this one."""
    git = shutil.which("git")
    listed = git and subprocess.run(
        [git, "rev-parse", "--verify", "-q", "HEAD~1"], cwd=checkout_folder(), capture_output=True, check=False
    )
    if not listed or listed.returncode:
        pytest.skip("there is no earlier commit here: a shallow clone, or no git")
    archive = subprocess.run(
        [git, "archive", "HEAD~1", "libs/common/src", "services/moderation/src", "deploy"],
        cwd=checkout_folder(), capture_output=True, check=True,
    )  # fmt: skip
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=archive.stdout, check=True)
    return tmp_path


def test_two_versions_of_moderation_share_a_group_under_load(road, earlier):
    stack = road.stack
    sources = (earlier / "services/moderation/src", earlier / "libs/common/src")
    environment = {
        "PYTHONPATH": ":".join(map(str, sources)),
        "MODERATION_POLICY_FILE": str(earlier / "deploy" / "policies" / "road.yaml"),
    }
    account, load = road.load("versions", 600, faults=5)
    load.start(batch=1, every_seconds=1.0)
    try:
        flowing(road, load)
        stack.start_service("moderation", 2, extra_env=environment)
        flowing(road, load, 100)
        screened = {name: lines_handled(stack, name) for name in ("moderation-1", "moderation-2")}
        admitted, reckoning = road.settle(account, load)
        assert imports(environment) == {str(source) for source in sources}
    finally:
        load.stop()
        stack.stop_service("moderation", 2)
    assert not reckoning.doubtful
    assert len(admitted) == 600
    assert all(screened.values()), f"a version did nothing: {screened}"
    assert unauthorised(stack) == Counter()


def imports(environment):
    """Where a process with this environment takes the code from."""
    code = "import common, moderation; print(common.__path__[0]); print(moderation.__path__[0])"
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return {path.rpartition("/")[0] for path in told.stdout.split()}


def lines_handled(stack, client):
    """How many partitions of the topic a copy of moderation has, as Kafka tells."""
    told = subprocess.run(
        [sys.executable, "-m", "waystation", "kafka", "consumer-groups", "--describe", "--group", "moderation.screening"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(shutil.os.path.expanduser("~")), "WAYSTATION_HOME": str(stack.layout.home)},
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    return sum(client in line for line in told.splitlines())


def waystation(stack, *arguments, status=0):
    """Run a command as an operator would; return its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "waystation", *arguments, "--home", str(stack.layout.home), "--json"],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == status, f"{arguments}: {done.stdout}{done.stderr}"
    return json.loads(done.stdout)
