"""The parts of the local stack that need neither Kafka nor PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
from datetime import timedelta

import pytest

from common.times import now
from waystation.errors import CommandError
from waystation.keys import Keyring, checked_purpose
from waystation.stack import ports
from waystation.stack.credentials import ensure_keys, ensure_passwords
from waystation.stack.java import parse_major_version
from waystation.stack.kafka import Node, local_listeners, write_configuration
from waystation.stack.layout import PORT_NAMES, SERVICES, Layout, StackState, write_atomically
from waystation.stack.processes import Command, ProcessRecord, Registry, signal_and_wait, spawn, stop
from waystation.stack.services import service_environment
from waystation.stack.supervisor import last_line

STATE = StackState("cluster", {name: 20_000 + number for number, name in enumerate(PORT_NAMES)})


@pytest.fixture
def layout(tmp_path):
    """A stack's folders, made."""
    made = Layout(tmp_path)
    for folder in (made.logs, made.run, made.trusted, made.kafka, made.secrets):
        folder.mkdir()
    return made


@pytest.fixture
def squatter():
    """A listening socket's port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def sleeper(layout, name, program="import time; time.sleep(60)"):
    marker = f"waystation={layout.home}/{name}"
    command = Command([sys.executable, "-X", marker, "-c", program], marker, dict(os.environ), layout.home)
    return spawn(name, command, layout.log(name))


def test_a_taken_port_is_named_with_its_owner(squatter):
    with pytest.raises(CommandError, match=rf"port {squatter}, wanted for vault, is taken by pid {os.getpid()} "):
        ports.require_free({"vault": squatter})


def test_chosen_ports_are_free_and_distinct(squatter):
    chosen = ports.choose(PORT_NAMES, taken=[squatter])
    assert len(set(chosen.values())) == len(PORT_NAMES)
    ports.require_free(chosen)


def test_ports_are_given_by_name():
    assert ports.parse(["kafka=19092", "routing=auto"]) == {"kafka": 19092, "routing": 0}


@pytest.mark.parametrize("pair", ["kafka", "kafka=", "kafka=x", "kafka=0", "kafka=65536", "nobody=1", "=1"])
def test_a_port_that_makes_no_sense_is_refused(pair):
    with pytest.raises(CommandError):
        ports.parse([pair])


def test_one_port_for_two_listeners_is_refused():
    with pytest.raises(CommandError, match="two listeners"):
        ports.parse(["kafka=19092", "postgres=19092"])


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "25" 2025-09-16', 25),
        ('java version "1.8.0_402"', 8),
        ("The operation couldn't be completed.", 0),
    ],
)
def test_the_java_version_is_read_from_what_java_says(text, major):
    assert parse_major_version(text) == major


def test_a_process_is_known_again_from_its_record_and_ended(layout):
    registry = Registry(layout.run)
    registry.write(sleeper(layout, "one"))
    record = registry.running("one")
    assert record is not None
    stop(record, [(signal.SIGTERM, 10.0)])
    assert registry.running("one") is None


def test_a_process_that_ignores_the_signal_is_killed(layout):
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    record = sleeper(layout, "deaf", deaf)
    while "deaf" not in layout.log("deaf").read_text():
        pass
    assert not signal_and_wait(record, signal.SIGTERM, 0.2)
    stop(record, [(signal.SIGTERM, 0.1)])
    assert not record.is_running


def test_a_process_id_that_belongs_to_somebody_else_is_not_ours(layout):
    foreign = ProcessRecord("one", os.getpid(), 1.0, "waystation=x")
    assert not foreign.is_running
    assert signal_and_wait(foreign, signal.SIGKILL, 1.0)


def test_a_process_without_a_record_is_adopted_by_its_marker(layout):
    record = sleeper(layout, "lost")
    registry = Registry(layout.run)
    assert registry.adopt({record.marker: "lost"}) == ["lost"]
    assert registry.adopt({record.marker: "lost"}) == []
    assert registry.running("lost").pid == record.pid
    stop(record, [])


def test_a_damaged_record_counts_as_none(layout):
    (layout.run / "one.json").write_text("{half")
    assert Registry(layout.run).read("one") is None


def test_passwords_and_keys_are_made_once_and_private(layout):
    first = ensure_passwords(layout)
    ensure_keys(layout)
    keys = {path: path.read_bytes() for path in layout.secrets.rglob("*") if path.is_file()}
    assert ensure_passwords(layout) == first
    ensure_keys(layout)
    assert {path: path.read_bytes() for path in layout.secrets.rglob("*") if path.is_file()} == keys
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    published = {str(path.relative_to(layout.trusted)) for path in layout.trusted.rglob("*.pem")}
    assert published == {f"identity/{name}.pem" for name in (*SERVICES, "operator")} | {
        "instruction/ingestion.pem",
        "verdict/moderation.pem",
        "receipt/routing.pem",
        "vault/vault.pem",
        "policy/operator.pem",
    }


def test_a_password_is_not_shown_by_its_holder(layout):
    passwords = ensure_passwords(layout)
    assert passwords.kafka["vault"] not in repr(passwords)


def test_the_reason_of_a_failed_start_is_told_and_not_the_servers_line_about_it(tmp_path):
    log = tmp_path / "vault-1.log"
    assert last_line(log) == "nothing"
    reason, server = '{"logger":"vault.app","message":"no key"}', '{"logger":"uvicorn.error","message":"failed"}'
    log.write_text(f"{reason}\n{server}\n\n{server}\n")
    assert last_line(log) == reason
    log.write_text(f"{server}\n")
    assert last_line(log) == server


def test_the_key_of_the_vaults_statements_is_rotated_exported_and_retired(layout, tmp_path):
    ensure_keys(layout)
    keyring = Keyring(layout)
    old, new = keyring.rotate("vault", now())
    states = {one.key: one.state for one in keyring.export(tmp_path / "keys") if one.purpose == "vault"}
    assert states == {old: "verifies", new: "signs"}
    assert {path.stem for path in (tmp_path / "keys" / "vault").glob("*.pem")} == {old, new}
    retired = keyring.retire(old, now())
    assert retired.state == "retired"
    with pytest.raises(CommandError, match="what it signed later stays refused"):
        keyring.retire(old, now())
    earlier = retired.retired_at - timedelta(hours=1)
    assert keyring.retire(old, earlier).retired_at == earlier
    with pytest.raises(CommandError, match="nothing is signed"):
        checked_purpose("letters")


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_told_its_own_settings_and_nobody_elses(layout, service, monkeypatch):
    monkeypatch.setenv(f"{service.upper()}_CYCLE_SECONDS", "0.5")
    monkeypatch.setenv("OTHER_SECRET", "x")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    passwords = ensure_passwords(layout)
    told = service_environment(layout, STATE, passwords, service, 1)
    prefix = f"{service.upper()}_"
    assert told[f"{prefix}INSTANCE"] == f"{service}-1"
    assert told[f"{prefix}HTTP_PORT"] == str(STATE.ports[service])
    assert told[f"{prefix}CYCLE_SECONDS"] == "0.5"
    assert told["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318", "all services share it"
    assert ("AWS_DEFAULT_REGION" in told) == (service == "vault"), "the root key may be in AWS KMS"
    assert "OTHER_SECRET" not in told
    others = {value for name, value in {**passwords.kafka, **passwords.postgres}.items() if name != service}
    assert not [
        name for name, value in told.items() if any(secret in value for secret in others - {passwords.kafka[service]})
    ]
    assert (f"{prefix}SIGNING_KEY_FILE" in told) == (service != "enforcement")
    assert (f"{prefix}ROOT_KEY_FILE" in told) == (service == "vault")


def test_brokers_mechanisms_are_set_per_listener_never_globally(layout):
    """A global `sasl.enabled.mechanisms` keeps the controller listener from starting."""
    node = Node(local_listeners(STATE.ports, "127.0.0.1"), "/data")
    path = write_configuration(layout.kafka / "server.properties", node, ensure_passwords(layout).kafka)
    settings = dict(line.split("=", 1) for line in path.read_text().splitlines())
    assert "sasl.enabled.mechanisms" not in settings
    assert settings["listener.name.controller.sasl.enabled.mechanisms"] == "PLAIN"
    assert settings["auto.create.topics.enable"] == "false"
    assert settings["allow.everyone.if.no.acl.found"] == "false"
    assert not [name for name in settings if name.startswith("log.flush")], "Kafka's own defaults decide when to flush"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_stack_file_is_read_back_and_a_newer_format_refused(tmp_path):
    path = tmp_path / "stack.json"
    assert StackState.load(path) is None
    STATE.save(path)
    assert StackState.load(path) == STATE
    path.write_text(json.dumps({"format": 99}))
    with pytest.raises(CommandError, match="format 99"):
        StackState.load(path)
    path.write_text("{half")
    with pytest.raises(CommandError, match="damaged"):
        StackState.load(path)


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path):
    path = tmp_path / "secret"
    write_atomically(path, "one", 0o600)
    write_atomically(path, "two", 0o600)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("two", 0o600)
    assert list(tmp_path.iterdir()) == [path]
