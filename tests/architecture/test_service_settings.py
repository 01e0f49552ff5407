"""Missing or wrong configuration stops a service at once, in one line that names the service and each variable."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from common.config import EXIT_MISCONFIGURED, ServiceSettings, read_settings, variable

CHECKOUT = Path(__file__).parents[2]
SERVICES = sorted(path.name for path in (CHECKOUT / "services").iterdir() if path.is_dir())
every_service = pytest.mark.parametrize("service", SERVICES)


def settings_of(service):
    """The settings class of a service."""
    module = importlib.import_module(f"{service}.config")
    (kind,) = [
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, ServiceSettings) and one is not ServiceSettings
    ]
    return kind


def complete(service, folder):
    """An environment with which the settings of a service can be read."""
    file, kind = folder / "file", settings_of(service)
    file.write_text("content")
    values = {
        "instance": f"{service}-1",
        "http_port": "8000",
        "kafka_bootstrap": "kafka:9092",
        "kafka_username": service,
        "kafka_password": "s3cret-of-kafka",
        "postgres_dsn": f"postgresql://{service}:s3cret-of-postgres@postgres:5432/{service}",
        "trusted_keys_dir": str(folder),
        "vault_url": "http://vault:8000",
        "smtp_url": "smtp://laboratory:2525",
    }
    needed = [name for name, field in kind.model_fields.items() if field.is_required()]
    return {variable(kind, name): values.get(name, str(file)) for name in needed}


def said_by(service, environment):
    """Start a service with this environment and nothing else; return its exit status and last log line."""
    done = subprocess.run(
        [sys.executable, "-m", service],
        env={"PATH": os.environ["PATH"], **environment},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stderr.splitlines()[-1])


@pytest.fixture
def refused(monkeypatch, tmp_path, capsys):
    """Read settings from an environment; return the message with which they are refused."""

    def read(service, environment, folder=tmp_path / "none"):
        for name in [name for name in os.environ if name.startswith(service.upper())]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            read_settings(service, settings_of(service), folder)
        assert ended.value.code == EXIT_MISCONFIGURED
        line = json.loads(capsys.readouterr().err.splitlines()[-1])
        assert (line["level"], line["service"]) == ("critical", service)
        return line["message"]

    return read


@every_service
def test_a_service_without_configuration_ends_at_once_and_names_every_variable_it_needs(service):
    status, line = said_by(service, {})
    assert status == EXIT_MISCONFIGURED
    assert line["message"].startswith(f"{service} cannot start: ")
    kind = settings_of(service)
    missing = [variable(kind, name) for name, field in kind.model_fields.items() if field.is_required()]
    assert missing
    assert [name for name in missing if f"{name} is not set" not in line["message"]] == []


@every_service
def test_each_missing_variable_is_named_alone(service, refused, tmp_path):
    environment = complete(service, tmp_path)
    for name in environment:
        message = refused(service, {one: value for one, value in environment.items() if one != name})
        assert message.startswith(f"{service} cannot start: {name} is not set (")


@every_service
@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("HTTP_PORT", "eighty", "valid integer"),
        ("KAFKA_BOOTSTRAP", "elsewhere", "is not a list of servers"),
        ("POSTGRES_DSN", "mysql://vault:s3cret@here/x", "is not a connection string"),
        ("IDENTITY_KEY_FILE", "/nowhere/at-all.pem", "does not point to a file"),
        ("TRUSTED_KEYS_DIR", "/nowhere/at-all", "does not point to a directory"),
    ],
)
def test_a_wrong_variable_is_named_and_its_value_is_not_repeated(service, name, wrong, said, refused, tmp_path):
    message = refused(service, {**complete(service, tmp_path), f"{service.upper()}_{name}": wrong})
    assert f"{service.upper()}_{name}" in message
    assert said in message
    assert wrong not in message


@pytest.mark.parametrize(
    ("service", "name", "wrong"),
    [
        ("ingestion", "INGESTION_VAULT_URL", "vault:8000"),
        ("ingestion", "INGESTION_RULES_FILE", "/nowhere.yaml"),
        ("moderation", "MODERATION_POLICY_FILE", "/nowhere.yaml"),
        ("routing", "ROUTING_SMTP_URL", "smtp://me:s3cret@provider.example"),
        ("routing", "ROUTING_ATTEMPTS_OPEN_MAX", "1025"),
        ("routing", "ROUTING_JOURNAL_FILE", "/nowhere/at-all"),
        ("routing", "ROUTING_SIGNING_KEY_FILE", "/"),
        ("enforcement", "ENFORCEMENT_VAULT_URL", "vault:8000"),
        ("vault", "VAULT_ROOT_KEY_FILE", ""),
        ("vault", "VAULT_PROCESSORS_FILE", "/nowhere.yaml"),
    ],
)
def test_a_wrong_variable_of_one_service_is_named(service, name, wrong, refused, tmp_path):
    message = refused(service, {**complete(service, tmp_path), name: wrong})
    assert message.startswith(f"{service} cannot start: {name}")
    assert "s3cret" not in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_named(refused, tmp_path):
    hidden = tmp_path / "hidden.pem"
    hidden.touch(mode=0o000)
    message = refused("vault", {**complete("vault", tmp_path), "VAULT_ROOT_KEY_FILE": str(hidden)})
    assert "VAULT_ROOT_KEY_FILE: this process may not read it" in message


def test_a_misspelt_variable_is_named_with_the_one_that_was_meant(refused, tmp_path):
    message = refused("routing", {**complete("routing", tmp_path), "ROUTING_LEASE_SECOND": "4"})
    assert "ROUTING_LEASE_SECOND is no setting, ROUTING_LEASE_SECONDS is" in message


def test_a_wrong_variable_of_telemetry_is_named_beside_those_of_the_service(refused, tmp_path):
    wrong = {"OTEL_TRACES_SAMPLER_ARG": "7", "OTEL_EXPORTER_OTLP_ENDPOINT": "nowhere", "ROUTING_LEASE_SECONDS": "1"}
    message = refused("routing", {**complete("routing", tmp_path), **wrong})
    for name in wrong:
        assert f"{name}: " in message
    assert "nowhere" not in message


def test_variables_of_other_programs_under_the_same_prefix_are_nobodys_business(monkeypatch, tmp_path):
    foreign = {"VAULT_ADDR": "https://x", "VAULT_TOKEN": "x", "VAULT_PORT": "tcp://10.0.0.1:8000", "VAULT_HOST": "x"}
    for name, value in {**complete("vault", tmp_path), **foreign}.items():
        monkeypatch.setenv(name, value)
    assert read_settings("vault", settings_of("vault"), tmp_path / "none").http_port == 8000


def test_a_secret_may_stand_in_a_file_and_the_environment_wins(monkeypatch, tmp_path):
    environment = complete("vault", tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("VAULT_KAFKA_PASSWORD")
    (tmp_path / "VAULT_KAFKA_PASSWORD").write_text("from-a-file\n")
    (tmp_path / "vault_postgres_dsn").write_text("postgresql://other/")
    settings = read_settings("vault", settings_of("vault"), tmp_path)
    assert settings.kafka_password == SecretStr("from-a-file")
    assert settings.postgres_dsn.get_secret_value() == environment["VAULT_POSTGRES_DSN"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"VAULT_PRODUCTION": "true"}, "VAULT_FILE_ROOT_IN_PRODUCTION=accepted"),
        ({}, "VAULT_ROOT_KEY_FILE names no file"),
        ({"VAULT_ROOT": "hsm:1"}, "no installed package brings it"),
    ],
    ids=["production", "no-file", "no-plug-in"],
)
def test_a_vault_whose_root_cannot_be_used_ends_with_one_line_that_says_why(tmp_path, settings, told):
    status, line = said_by("vault", {**complete("vault", tmp_path), **settings})
    assert (status, line["level"], line["service"]) == (EXIT_MISCONFIGURED, "critical", "vault")
    assert told in line["message"]
