"""How the five services are started: `python -m <service>`, everything they need in their environment."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from waystation.stack import credentials, postgres
from waystation.stack.layout import HOST, SMTP_PORT, Layout, StackState, checkout_folder, port_name, process_name
from waystation.stack.processes import Command

if TYPE_CHECKING:
    from collections.abc import Mapping

    from waystation.stack.credentials import Passwords

PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "PYTHONDEVMODE")
PASSED_ON_PREFIX = "OTEL_"
# The credentials of a root key in AWS KMS, which boto3 reads by itself.
PASSED_ON_TO = {"vault": ("AWS_",)}
STOP_SIGNALS = ((signal.SIGTERM, 30.0),)
VAULT_CALLERS = ("ingestion", "moderation", "routing", "enforcement")


def marker(layout: Layout, name: str) -> str:
    """The argument by which one process of this stack is known: an option that Python keeps but does not read."""
    return f"waystation={layout.home}/{name}"


def start_command(layout: Layout, service: str, instance: int, environment: Mapping[str, str]) -> Command:
    """How to start one copy of a service."""
    mark = marker(layout, process_name(service, instance))
    return Command(
        arguments=[sys.executable, "-X", mark, "-m", service],
        marker=mark,
        environment=environment,
        folder=checkout_folder(),
    )


def service_environment(
    layout: Layout, state: StackState, passwords: Passwords, service: str, instance: int = 1
) -> dict[str, str]:
    """The whole environment of one copy of a service.

    Settings carry the service's name as prefix. What the caller's own environment sets under that prefix and is not
    decided here (a log level, a policy file) is passed on, and so are OpenTelemetry's own variables, and to the vault
    those of AWS.
    """
    prefix = f"{service.upper()}_"
    prefixes = (prefix, PASSED_ON_PREFIX, *PASSED_ON_TO.get(service, ()))
    inherited = {name: os.environ[name] for name in os.environ if name in PASSED_ON or name.startswith(prefixes)}
    fixed = _common(layout, state, passwords, service, instance)
    offered = {name: value for name, value in _offered(state, service).items() if prefix + name not in inherited}
    settings = {prefix + name: value for name, value in {**offered, **fixed}.items()}
    return {**inherited, "PYTHONUNBUFFERED": "1", **settings}


def _common(layout: Layout, state: StackState, passwords: Passwords, service: str, instance: int) -> dict[str, str]:
    settings = {
        "KAFKA_BOOTSTRAP": f"{HOST}:{state.ports['kafka']}",
        "KAFKA_USERNAME": service,
        "KAFKA_PASSWORD": passwords.kafka[service],
        "POSTGRES_DSN": postgres.dsn(
            f"{HOST}:{state.ports['postgres']}", service, service, passwords.postgres[service]
        ),
        "HTTP_HOST": HOST,
        "HTTP_PORT": str(state.ports[port_name(service, instance)]),
        "INSTANCE": process_name(service, instance),
        "IDENTITY_KEY_FILE": str(credentials.identity_key(layout, service)),
        "TRUSTED_KEYS_DIR": str(layout.trusted),
    }
    if service in credentials.SIGNING_PURPOSES:
        settings["SIGNING_KEY_FILE"] = str(credentials.signing_key(layout, service))
    if service in VAULT_CALLERS:
        settings["VAULT_URL"] = f"http://{HOST}:{state.ports['vault']}"
    if service == "routing":
        settings["JOURNAL_FILE"] = str(layout.journals / f"{process_name(service, instance)}.journal")
    if service == "vault":
        settings["ROOT_KEY_FILE"] = str(credentials.root_key(layout))
        settings["KEYS_DIR"] = str(layout.secrets / "vault-keys")
    return settings


def _offered(state: StackState, service: str) -> dict[str, str]:
    """Settings that the caller's environment may replace."""
    deploy = checkout_folder() / "deploy"
    return {
        "vault": {"PROCESSORS_FILE": str(deploy / "processors.yaml")},
        "ingestion": {"RULES_FILE": str(deploy / "rules" / "1.yaml")},
        "moderation": {"POLICY_FILE": str(deploy / "policies" / "road.yaml")},
        "routing": {"SMTP_URL": state.smtp_url or f"smtp://{HOST}:{state.ports[SMTP_PORT]}"},
    }.get(service, {})
