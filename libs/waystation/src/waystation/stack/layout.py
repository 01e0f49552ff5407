"""Where a stack keeps what: one folder, and `stack.json` in it."""

from __future__ import annotations

import base64
import json
import os
import secrets
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from waystation.errors import CommandError

HOST = "127.0.0.1"
SERVICES = ("enforcement", "vault", "ingestion", "moderation", "routing")
KAFKA = "kafka"
POSTGRES = "postgres"
INFRA_PORTS = ("kafka", "kafka-internal", "kafka-controller", "postgres")
SMTP_PORT = "smtp"
PORT_NAMES = (*INFRA_PORTS, *SERVICES, SMTP_PORT)
STACK_FORMAT = 1
KINDS = ("processes", "containers", "compose")
"""What runs a stack: processes alone; Kafka and PostgreSQL in containers; everything in containers."""


def checkout_folder() -> Path:
    """The checkout this package runs from.

    Raises:
        CommandError: the package is installed away from its checkout.
    """
    for folder in Path(__file__).resolve().parents:
        if (folder / "deploy" / "topics.yaml").is_file():
            return folder
    raise CommandError("this command was not started from a Waystation checkout", "clone the repository, run `make up`")


def default_home() -> Path:
    """WAYSTATION_HOME, or `.waystation` in the checkout."""
    named = os.environ.get("WAYSTATION_HOME")
    return Path(named) if named else checkout_folder() / ".waystation"


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders and files of one stack; creates nothing."""

    home: Path

    @property
    def state(self) -> Path:
        """Ports and identity of the stack."""
        return self.home / "stack.json"

    @property
    def lock(self) -> Path:
        """Held while `up` or `down` works."""
        return self.home / "lock"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.home / "logs"

    @property
    def run(self) -> Path:
        """One record per process that was started."""
        return self.home / "run"

    @property
    def journals(self) -> Path:
        """What copies of routing remember of their open calls when they are killed."""
        return self.home / "journals"

    @property
    def secrets(self) -> Path:
        """Passwords and private keys; nobody else may read it."""
        return self.home / "secrets"

    @property
    def trusted(self) -> Path:
        """Public keys, one folder per use."""
        return self.home / "trusted"

    @property
    def kafka(self) -> Path:
        """Kafka's configuration and data."""
        return self.home / "kafka"

    @property
    def postgres(self) -> Path:
        """PostgreSQL's data; under root it belongs to another account."""
        return self.home / "postgres"

    def log(self, name: str) -> Path:
        """The log file of one process, such as `kafka` or `routing-1`."""
        return self.logs / f"{name}.log"


@dataclass(frozen=True, slots=True)
class StackState:
    """The content of `stack.json`: stable over restarts."""

    cluster_id: str
    ports: dict[str, int] = field(default_factory=dict)
    smtp_url: str = ""
    kind: str = KINDS[0]

    @classmethod
    def new(cls, kind: str = KINDS[0]) -> Self:
        """A stack that has chosen nothing yet."""
        return cls(cluster_id=_kafka_uuid(), kind=kind)

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read `stack.json`; None when there is no stack yet.

        Raises:
            CommandError: the file is damaged or of a newer format.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise CommandError(f"{path} is damaged: {error}", "remove the stack: waystation down --wipe") from error
        if content.get("format") != STACK_FORMAT:
            raise CommandError(
                f"{path} has format {content.get('format')}, this version reads {STACK_FORMAT}",
                "use the version that wrote it, or remove the stack: waystation down --wipe",
            )
        kind = content.get("kind", KINDS[0])
        return cls(content["cluster_id"], dict(content["ports"]), content["smtp_url"], kind)

    def save(self, path: Path) -> None:
        """Write `stack.json`, whole or not at all."""
        content = {
            "format": STACK_FORMAT,
            "kind": self.kind,
            "host": HOST,
            "cluster_id": self.cluster_id,
            "ports": self.ports,
            "smtp_url": self.smtp_url,
        }
        write_atomically(path, json.dumps(content, indent=2) + "\n")

    def with_ports(self, ports: dict[str, int]) -> Self:
        """The same stack with more or other ports."""
        return replace(self, ports={**self.ports, **ports})


def process_name(service: str, instance: int = 1) -> str:
    """A copy of a service: `routing-1`. Also its static group member id."""
    return f"{service}-{instance}"


def port_name(service: str, instance: int = 1) -> str:
    """The name of its HTTP port in `stack.json`."""
    return service if instance == 1 else process_name(service, instance)


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that a reader, or a kill, sees the old text or the new, never half."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def _kafka_uuid() -> str:
    """A cluster id as Kafka writes it: 22 URL-safe base64 characters that do not start with a hyphen."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text
