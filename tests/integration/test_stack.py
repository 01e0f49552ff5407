"""The local stack against itself: kills, taken ports, two side by side, rights. Each test takes its own folder."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys

import asyncpg
import psutil
import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from on_the_road import stack_of_its_own

from common.postgres.migrations import MigrationError, migrate
from waystation.errors import CommandError
from waystation.stack import SERVICES, Stack, checkout_folder, processes
from waystation.stack.kafka import client_options

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
of_processes = pytest.mark.skipif(
    os.environ.get("WAYSTATION_STACK") == "docker", reason="about Kafka and PostgreSQL as processes of this machine"
)


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """One running infrastructure for the tests of this file; each leaves it running."""
    with stack_of_its_own(tmp_path_factory.mktemp("stack")) as running:
        yield running


def processes_of(home):
    live = [p for p in psutil.process_iter(["cmdline", "status"]) if p.info["status"] != psutil.STATUS_ZOMBIE]
    return [process.pid for process in live if any(str(home) in part for part in process.info["cmdline"] or [])]


def command(stack, *arguments, **settings):
    return subprocess.run(
        [sys.executable, "-m", "waystation", *arguments],
        env={**os.environ, "WAYSTATION_HOME": str(stack.layout.home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **settings,
    )


def produce(stack, principal, topic):
    access = stack.kafka_credentials(principal)
    producer = Producer(
        {**client_options(access.bootstrap, access.username, access.password), "message.timeout.ms": 8000}
    )
    outcome = []
    producer.produce(topic, b"value", on_delivery=lambda error, _: outcome.append(error))
    producer.flush(15)
    return outcome[0]


def test_up_says_so_when_everything_runs_already(stack):
    assert stack.up_infra() is False
    answer = command(stack, "up", "--infra")
    assert answer.returncode == 0, answer.stderr
    assert "up already" in answer.stdout


def test_a_second_plan_after_up_finds_no_difference(stack):
    answer = command(stack, "topics", "plan")
    assert (answer.returncode, answer.stdout.strip()) == (0, "no difference")


def test_a_plan_shows_a_foreign_topic_a_changed_setting_and_a_foreign_right(stack):
    admin = stack.kafka_admin()
    admin.create_topics([NewTopic("stray.topic", 1, 1)])["stray.topic"].result()
    tool = ["kafka", "--as", "admin"]
    changed = command(
        stack, *tool, "configs", "--alter", "--topic", "routing.receipts", "--add-config", "retention.ms=1000"
    )
    assert changed.returncode == 0, changed.stdout + changed.stderr
    granted = command(
        stack,
        *tool,
        "acls",
        "--add",
        "--allow-principal",
        "User:vault",
        "--operation",
        "Write",
        "--topic",
        "intake.messages",
    )
    assert granted.returncode == 0, granted.stdout + granted.stderr
    plan = command(stack, "topics", "plan", "--json")
    kinds = sorted((change["kind"], change["name"]) for change in json.loads(plan.stdout))
    assert plan.returncode == 2
    assert kinds == [("by hand", "stray.topic"), ("remove right", "vault"), ("set config", "routing.receipts")]
    assert command(stack, "topics", "apply").returncode == 0
    admin.delete_topics(["stray.topic"])["stray.topic"].result()
    assert processes.wait_until(lambda: command(stack, "topics", "plan").returncode == 0, 10)


def test_a_plan_shows_and_removes_rights_that_forbid_hold_for_a_prefix_or_from_one_host(stack):
    strays = [
        AclBinding(
            ResourceType.TOPIC,
            "intake.messages",
            ResourcePatternType.LITERAL,
            "User:ingestion",
            "*",
            AclOperation.WRITE,
            AclPermissionType.DENY,
        ),
        AclBinding(
            ResourceType.TOPIC,
            "screening.",
            ResourcePatternType.PREFIXED,
            "User:vault",
            "192.0.2.7",
            AclOperation.WRITE,
            AclPermissionType.ALLOW,
        ),
        AclBinding(
            ResourceType.TRANSACTIONAL_ID,
            "any",
            ResourcePatternType.LITERAL,
            "User:moderation",
            "*",
            AclOperation.ALL,
            AclPermissionType.ALLOW,
        ),
    ]
    admin = stack.kafka_admin()
    for created in admin.create_acls(strays).values():
        created.result()
    assert processes.wait_until(lambda: produce(stack, "ingestion", "intake.messages") is not None, 20)
    plan = command(stack, "topics", "plan", "--json")
    assert {(change["kind"], change["name"], change["detail"]) for change in json.loads(plan.stdout)} == {
        ("remove right", "ingestion", "DENY WRITE topic intake.messages"),
        ("remove right", "vault", "WRITE topic prefixed screening. from 192.0.2.7"),
        ("remove right", "moderation", "ALL transactional_id any"),
    }
    applied = command(stack, "topics", "apply")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    assert command(stack, "topics", "plan").returncode == 0
    assert produce(stack, "ingestion", "intake.messages") is None


def test_kafka_killed_comes_back_with_its_topics(stack):
    before = set(stack.kafka_admin().list_topics(timeout=10).topics)
    stack.kill_kafka()
    assert next(part for part in stack.status() if part.name == "kafka").state == "died"
    assert stack.start_kafka() is True
    assert set(stack.kafka_admin().list_topics(timeout=10).topics) >= before


async def test_postgres_killed_comes_back_with_its_rows(stack):
    owner = await asyncpg.connect(stack.dsn("vault", "vault_owner"))
    await owner.execute("CREATE TABLE survivor (id int PRIMARY KEY); INSERT INTO survivor VALUES (7)")
    stack.kill_postgres()
    assert stack.start_postgres() is True
    again = await asyncpg.connect(stack.dsn("vault", "vault_owner"))
    assert await again.fetchval("SELECT id FROM survivor") == 7
    await again.execute("DROP TABLE survivor")
    await again.close()
    owner.terminate()


@of_processes
def test_a_process_whose_record_was_lost_is_taken_over_and_not_started_twice(stack):
    record = json.loads((stack.layout.run / "kafka.json").read_text())
    (stack.layout.run / "kafka.json").unlink()
    (stack.layout.run / "postgres.json").write_text("{half")
    assert stack.up_infra() is False
    assert json.loads((stack.layout.run / "kafka.json").read_text())["pid"] == record["pid"]


def test_a_record_of_a_foreign_process_is_not_believed(stack):
    path = stack.layout.run / "routing-1.json"
    path.write_text(json.dumps({"name": "routing-1", "pid": os.getpid(), "created": 1.0, "marker": "waystation=x"}))
    stack.stop_service("routing")
    assert psutil.pid_exists(os.getpid())
    assert not path.exists()


def test_two_stacks_run_side_by_side_and_down_leaves_nothing(stack, tmp_path):
    other = Stack.open(tmp_path / "other")
    try:
        other.up_infra()
        assert not set(stack.state.ports.values()) & set(other.state.ports.values())
        assert produce(other, "ingestion", "intake.messages") is None
        assert sorted(other.down()) == ["kafka", "postgres"]
        assert processes_of(other.layout.home) == []
        assert other.up_infra() is True
        watermarks = command(other, "kafka", "get-offsets", "--topic", "intake.messages")
        assert sum(int(line.rpartition(":")[2]) for line in watermarks.stdout.split()) == 1, "data survives down and up"
    finally:
        other.down(wipe=True)
    assert not other.layout.home.exists()


def test_a_taken_port_is_named_with_its_owner(tmp_path):
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        with pytest.raises(
            CommandError, match=rf"port {port}, wanted for kafka, is taken by pid {os.getpid()} \(.*python"
        ):
            Stack.open(tmp_path / "home", ports={"kafka": port}).up_infra()
    Stack.open(tmp_path / "home").down(wipe=True)


def test_an_error_has_no_traceback_and_says_what_to_do_next(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-m", "waystation", "topics", "plan", "--home", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 1
    assert "Traceback" not in answer.stderr
    assert "waystation up" in answer.stderr


@of_processes
def test_secrets_are_readable_by_their_owner_only(stack):
    assert stat.S_IMODE(stack.layout.secrets.stat().st_mode) == 0o700
    private = [path for path in stack.layout.secrets.rglob("*") if path.is_file()]
    private += [stack.layout.kafka / "server.properties"]
    assert len(private) >= 11
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in private} == {path.name: 0o600 for path in private}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_runtime_role_can_touch_nothing_but_the_rows_of_its_own_database(stack, service):
    connection = await asyncpg.connect(stack.dsn(service))
    for statement in (
        "CREATE TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "CREATE TEMP TABLE mine (id int)",
        "CREATE ROLE mine",
        "SELECT * FROM schema_migrations",
        "UPDATE schema_migrations SET sha256 = ''",
        "COPY pg_class TO PROGRAM 'true'",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()
    for database in {*SERVICES, "postgres", "template1"} - {service}:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(stack.dsn(database, service))


async def test_a_wrong_password_is_refused(stack):
    right = stack.dsn("vault")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(re.sub(r":[^:@]+@", ":wrong@", right))


@pytest.mark.parametrize(
    ("principal", "topic", "refused"),
    [
        ("ingestion", "intake.messages", False),
        ("vault", "intake.messages", True),
        ("moderation", "intake.messages", True),
        ("moderation", "intake.messages.moderation.screening.dlq", False),
        ("operator", "intake.messages", False),
        ("operator", "enforcement.standings", True),
        ("operator", "intake.messages.moderation.screening.dlq", True),
    ],
)
def test_a_principal_writes_where_the_registry_lets_it(stack, principal, topic, refused):
    error = produce(stack, principal, topic)
    assert (error is not None and "AUTHORIZATION" in error.name()) if refused else error is None


def test_an_unknown_password_is_refused_by_kafka(stack):
    access = stack.kafka_credentials("vault")
    with pytest.raises(KafkaException):
        Producer(client_options(access.bootstrap, "vault", "wrong")).list_topics(timeout=3)


async def test_migrations_are_applied_once_and_a_changed_one_is_named(stack, tmp_path):
    owner = stack.dsn("enforcement", "enforcement_owner")
    (tmp_path / "9001_first.sql").write_text("CREATE TABLE tried (id int)")
    connection = await asyncpg.connect(owner)
    for real in (checkout_folder() / "services" / "enforcement" / "migrations").glob("*.sql"):
        (tmp_path / real.name).write_text(real.read_text())
    assert await migrate(owner, tmp_path) == ["9001_first.sql"]
    assert await migrate(owner, tmp_path) == []
    (tmp_path / "9002_broken.sql").write_text("CREATE TABLE half (id int); SELECT nonsense")
    with pytest.raises(MigrationError, match=r"9002_broken\.sql:1 failed"):
        await migrate(owner, tmp_path)
    assert await connection.fetchval("SELECT to_regclass('half')") is None
    (tmp_path / "9002_broken.sql").unlink()
    (tmp_path / "9001_first.sql").write_text("CREATE TABLE tried (id bigint)")
    with pytest.raises(MigrationError, match=r"9001_first\.sql was changed"):
        await migrate(owner, tmp_path)
    await connection.execute("DROP TABLE tried; DELETE FROM schema_migrations WHERE name LIKE '90%'")
    await connection.close()


def test_the_operator_client_file_names_a_mechanism_that_old_kcat_speaks(stack, tmp_path):
    file = tmp_path / "kcat.conf"
    assert command(stack, "kafka", "config", "operator", "--write", str(file)).returncode == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    settings = dict(line.split("=", 1) for line in file.read_text().splitlines())
    assert settings["sasl.mechanism"] == "PLAIN"
    assert Producer({**settings, "log_level": 0}).list_topics(timeout=10).brokers


@of_processes
def test_an_up_that_was_killed_in_the_middle_is_completed_by_the_next(tmp_path):
    home = tmp_path / "home"
    environment = {**os.environ, "WAYSTATION_HOME": str(home)}
    first = subprocess.Popen(
        [sys.executable, "-m", "waystation", "up", "--infra"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert processes.wait_until((home / "run" / "postgres.json").exists, 60)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    stack = Stack.open(home)
    try:
        stack.up_infra()
        assert all(part.state == "running" for part in stack.status() if part.name in {"kafka", "postgres"})
        assert len(stack.kafka_admin().list_topics(timeout=10).brokers) == 1
    finally:
        stack.down(wipe=True)
    assert processes_of(home) == []
