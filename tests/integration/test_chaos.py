"""The whole road while its parts are killed, stopped, doubled and frozen: nothing is lost, nothing is sent twice.

Seeds come from WAYSTATION_CHAOS_SEEDS (`make test` takes one, `make chaos` three others); a seed decides the order of the
kills and their moments, and is printed. All tests of this file share one stack that no other file touches.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
from chaos_road import DOUBTS_PER_KILL_MAX, RECOVERY_SECONDS_MAX, Road, teller
from confluent_kafka.admin import AclBindingFilter, AclOperation, AclPermissionType, ResourcePatternType, ResourceType

from common.kafka.topics import load_registry
from waystation.rehearsal import Rehearsal
from waystation.stack import SERVICES, Stack, checkout_folder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]

SEEDS = [int(seed) for seed in os.environ.get("WAYSTATION_CHAOS_SEEDS", "1").split()]
MESSAGES = 3000
POSTGRES_STOPPED_SECONDS = 60.0
KAFKA_STOPPED_SECONDS = 20.0
VAULT_FROZEN_SECONDS = 10.0
READ_ONLY_SECONDS = 15.0
RIGHTS_AWAY_SECONDS = 10.0
TOOL_SECONDS = 60.0
SESSION_ENDS_SECONDS = 25.0
ALL_RIGHTS = AclBindingFilter(
    ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
)
UNCHANGED = {
    "ingestion": ("messages", "message_steps", "awaiting_receipt", "standings", "unauthorised"),
    "moderation": ("verdicts", "unauthorised"),
    "vault": ("disclosures", "instructions", "subjects", "data_keys", "unauthorised"),
    "routing": ("deliveries", "contents", "attempts", "standings", "unauthorised"),
    "enforcement": ("complaints", "standings", "standing_changes"),
}


@pytest.fixture(scope="module")
def only_road(tmp_path_factory, request):
    """The stack of this file with all services and the laboratory; retries come after a second, not half a minute."""
    home = tmp_path_factory.mktemp("chaos")
    rehearsal = Rehearsal(Stack.open(home / "stack"), home / "laboratory", write_first=True)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ROUTING_RETRY_SECONDS_FIRST", "1")
        try:
            rehearsal.stack.up()
            rehearsal.start_laboratory()
            yield Road(rehearsal.stack, rehearsal, teller(request.config))
        finally:
            rehearsal.stop_laboratory()
            rehearsal.stack.down(wipe=True)


@pytest.fixture
def road(only_road, request):
    """The road with all its parts running, also after a test that failed halfway; a failure prints the logs' ends."""
    only_road.stack.up()
    only_road.rehearsal.start_laboratory()
    failed_before, started = request.session.testsfailed, time.monotonic()
    only_road.say(f"\n{request.node.name}")
    yield only_road
    only_road.say(f"  {time.monotonic() - started:.0f} s")
    if request.session.testsfailed > failed_before:
        only_road.say(only_road.log_tails())


@pytest.mark.chaos
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_and_nothing_twice(road, seed):
    chance = random.Random(seed)
    victims = [*chance.sample(SERVICES, len(SERVICES)), "kafka", "postgres"]
    road.say(f"  seed {seed}: {', '.join(victims)}")
    account, load = road.load(f"chaos-{seed}", MESSAGES, faults=60)
    load.start(batch=2)
    try:
        road.wait_for_flow(road.rehearsal.recorded_count(), RECOVERY_SECONDS_MAX)
        for victim in victims:
            under_way = road.rehearsal.recorded_count() + chance.randint(1, 150)
            load.burst(250, batch=25)
            road.wait_for_flow(under_way, RECOVERY_SECONDS_MAX)
            since = time.monotonic()
            kill(road.stack, victim)
            time.sleep(chance.uniform(0.0, 1.0))
            start(road.stack, victim)
            recovered = road.recovery(victim, since)
            assert recovered.seconds < RECOVERY_SECONDS_MAX
        road.say(f"  {load.left} messages are left after the last kill")
        admitted, reckoning = road.settle(account, load)
    finally:
        load.stop()
    assert len(admitted) == MESSAGES
    road.require_doubts(reckoning, kills_of_routing=1)


def test_second_copies_join_and_leave_under_load(road):
    account, load = road.load("copies", 1500, faults=10)
    load.start(batch=2)
    doubled = ("moderation", "routing")
    try:
        for leave in (road.stack.stop_service, road.stack.kill_service):
            for service in doubled:
                road.stack.start_service(service, 2)
            load.burst(200)
            road.wait_for_flow(road.rehearsal.recorded_count() + 100, RECOVERY_SECONDS_MAX)
            for service in doubled:
                under_way = road.rehearsal.recorded_count() + 20
                load.burst(150, batch=25)
                road.wait_for_flow(under_way, RECOVERY_SECONDS_MAX)
                leave(service, 2)
                since = time.monotonic()
                road.recovery(f"{service}-2 left by {leave.__name__}", since)
        road.stack.start_service("routing", 2)  # as a supervisor would: its journal tells what it had called
        _, reckoning = road.settle(account, load)
    finally:
        load.stop()
        for service in doubled:
            road.stack.stop_service(service, 2)
    road.require_doubts(reckoning, kills_of_routing=1)


def test_postgres_away_for_a_minute_loses_nothing(road):
    pids = road.pids()
    with road.under_way("postgres-away", 1200, faults=5) as (account, load):
        road.stack.stop_postgres()
        time.sleep(POSTGRES_STOPPED_SECONDS)
        assert road.dead_letters() == {}
        assert road.pids() == pids
        since = time.monotonic()
        road.stack.start_postgres()
        road.recovery("postgres", since)
        _, reckoning = road.settle(account, load)
    assert road.pids() == pids, "a service ended while PostgreSQL was away"
    road.require_doubts(reckoning, kills_of_routing=0)


def test_databases_that_take_no_writes_for_a_while_lose_nothing(road):
    pids = road.pids()
    with road.under_way("read-only", 1000, faults=5) as (account, load):
        read_only(road, "on")
        try:
            load.burst(100, batch=10)
            time.sleep(READ_ONLY_SECONDS)
            assert road.dead_letters() == {}
            assert road.pids() == pids
        finally:
            since = time.monotonic()
            read_only(road, "off")
        road.recovery("databases without writes", since)
        _, reckoning = road.settle(account, load)
    assert road.pids() == pids, "a service ended while nothing could be written"
    road.require_doubts(reckoning, kills_of_routing=0)


def test_kafka_away_for_a_while_loses_nothing(road):
    pids = road.pids()
    with road.under_way("kafka-away", 1000, faults=5) as (account, load):
        road.stack.stop_kafka()
        time.sleep(KAFKA_STOPPED_SECONDS)
        assert road.pids() == pids
        since = time.monotonic()
        road.stack.start_kafka()
        road.recovery("kafka", since)
        _, reckoning = road.settle(account, load)
    assert road.pids() == pids, "a service ended while Kafka was away"
    road.require_doubts(reckoning, kills_of_routing=0)


def test_rights_at_kafka_taken_away_for_a_while_lose_nothing(road):
    pids = road.pids()
    admin = road.stack.kafka_admin()
    with road.under_way("no-rights", 600, faults=5) as (account, load):
        rights = admin.describe_acls(ALL_RIGHTS).result()
        for taken in admin.delete_acls([ALL_RIGHTS]).values():
            assert len(taken.result()) == len(rights)
        try:
            time.sleep(RIGHTS_AWAY_SECONDS)
        finally:
            since = time.monotonic()
            for granted in admin.create_acls(rights).values():
                granted.result()
        road.recovery("rights at Kafka", since)
        _, reckoning = road.settle(account, load)
    assert road.pids() == pids, "a service ended while it had no rights"
    road.require_doubts(reckoning, kills_of_routing=0)


def test_a_frozen_vault_delays_and_loses_nothing(road):
    vault = psutil.Process(road.pids()["vault-1"])
    with road.under_way("vault-frozen", 800) as (account, load):
        vault.send_signal(signal.SIGSTOP)
        try:
            time.sleep(VAULT_FROZEN_SECONDS)
        finally:
            vault.send_signal(signal.SIGCONT)
        road.recovery("vault frozen", time.monotonic())
        _, reckoning = road.settle(account, load)
    road.require_doubts(reckoning, kills_of_routing=0)


def test_a_killed_provider_leaves_each_open_call_its_reason(road):
    with road.under_way("provider-killed", 800, burst=400) as (account, load):
        since = time.monotonic()
        road.rehearsal.kill_laboratory()
        time.sleep(2.0)
        road.rehearsal.start_laboratory()
        road.recovery("laboratory", since)
        _, reckoning = road.settle(account, load)
    sql = """
        SELECT a.result, a.reason, count(*) FROM attempts a JOIN deliveries d USING (message_id)
        WHERE account_id = $1 AND result <> 'accepted' GROUP BY 1, 2
    """
    failed = [tuple(row) for row in road.rows("routing", sql, account.account_id)]
    road.say(f"  {failed}")
    assert failed, "no call met the dead provider"
    assert {result for result, _, _ in failed} <= {"unreached", "doubt"}
    assert all(reason for _, reason, _ in failed)
    assert len(reckoning.doubtful) <= DOUBTS_PER_KILL_MAX


def test_offsets_reset_to_the_beginning_change_nothing(road):
    account, load = road.load("before-the-reset", 300, faults=5)
    load.start()
    load.burst(300)
    try:
        road.settle(account, load)
    finally:
        load.stop()
    before, seen = fingerprints(road), road.rehearsal.recorded_count()
    for service in SERVICES:
        road.stack.stop_service(service)
    reset_all_groups(road.stack)
    assert lag(road.stack) > seen
    for service in SERVICES:
        road.stack.start_service(service, wait=False)
    for service in SERVICES:
        road.stack.wait_ready(service)
    ends = time.monotonic() + RECOVERY_SECONDS_MAX
    while left := lag(road.stack):
        assert time.monotonic() < ends, f"{left} records are not read again"
        time.sleep(0.5)
    time.sleep(2.0)  # two rounds of claims and sweeps
    assert road.rehearsal.recorded_count() == seen
    assert fingerprints(road) == before
    assert road.dead_letters() == {}


def read_only(road, switch):
    """What a cloud does to a database whose disk fills up, and a fail-over to the server that was the first."""
    road.rows("postgres", f"ALTER SYSTEM SET default_transaction_read_only = {switch}")
    road.rows("postgres", "SELECT pg_reload_conf()")


def kill(stack, victim):
    """SIGKILL a part of the stack."""
    if victim in SERVICES:
        stack.kill_service(victim)
    else:
        getattr(stack, f"kill_{victim}")()


def start(stack, victim):
    """Start it again, as a supervisor would; waits until it is ready."""
    if victim in SERVICES:
        stack.start_service(victim)
    else:
        getattr(stack, f"start_{victim}")()


def fingerprints(road):
    """(rows, checksum of all their columns) of each table that must not change."""
    found = {}
    for database, tables in UNCHANGED.items():
        for table in tables:
            sql = f"SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t"
            found[f"{database}.{table}"] = tuple(road.rows(database, sql)[0])
    return found


def groups():
    """Each consumer group that has read something on this road, with its topic; nobody changes a list here."""
    registry = load_registry(checkout_folder() / "deploy" / "topics.yaml")
    readers = [(reader.group_or_none, topic.name) for topic in registry.topics for reader in topic.readers]
    return {group: topic for group, topic in readers if group is not None and topic != "screening.lists"}


def tool(stack, *arguments):
    """`waystation kafka consumer-groups`, as an operator types it."""
    command = [sys.executable, "-m", "waystation", "kafka", "consumer-groups", *arguments]
    environment = {**os.environ, "WAYSTATION_HOME": str(stack.layout.home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TOOL_SECONDS, check=False)


def reset_all_groups(stack):
    """Reset as soon as the groups are empty: a static member's place is kept until its session ends."""
    ends = time.monotonic() + SESSION_ENDS_SECONDS
    while True:
        answer = tool(stack, "--all-groups", "--all-topics", "--reset-offsets", "--to-earliest", "--execute")
        said = answer.stdout + answer.stderr
        if answer.returncode == 0 and "inactive" not in said and all(group in said for group in groups()):
            return
        assert time.monotonic() < ends, said
        time.sleep(2.0)


def lag(stack):
    """How many records all groups together have not read."""
    answer = tool(stack, "--describe", "--all-groups", "--offsets")
    assert answer.returncode == 0, answer.stderr
    rows = [line.split() for line in answer.stdout.splitlines()]
    lags = [row[5] for row in rows if len(row) > 5 and row[0] in groups()]
    assert lags, answer.stdout + answer.stderr
    return sum(int(one) if one.isdecimal() else 1 for one in lags)
