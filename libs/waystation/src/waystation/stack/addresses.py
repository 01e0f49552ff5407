"""Where the parts of a stack are reached and with which credentials, whatever runs them: files of its folder."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

import httpx
from confluent_kafka.admin import AdminClient

from common.kafka.settings import KafkaAccess
from common.kafka.topics import load_registry
from common.postgres.migrations import MigrationError, migrate
from waystation import topics
from waystation.errors import CommandError
from waystation.stack import credentials, jars, java, kafka, postgres
from waystation.stack.layout import HOST, KAFKA, POSTGRES, SERVICES, Layout, StackState, checkout_folder, port_name

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

READYZ_TIMEOUT_SECONDS = 2.0

Answer = TypeVar("Answer")


class Report(jars.DownloadReport, Protocol):
    """Hears what the stack is doing, for a person who waits."""

    def step(self, text: str) -> None:
        """A step began or ended."""


class Silence:
    """A report that nobody reads."""

    def step(self, text: str) -> None:
        """Ignore a step."""

    def begin(self, total_bytes: int) -> None:
        """Ignore the begin of a download."""

    def advance(self, count_bytes: int) -> None:
        """Ignore its progress."""

    def end(self) -> None:
        """Ignore its end."""


class StackAddresses:
    """The addresses and credentials of one stack; reading them starts and creates nothing."""

    def __init__(self, layout: Layout, report: Report) -> None:
        self.layout = layout
        self.report = report

    @property
    def exists(self) -> bool:
        """Whether an `up` has ever begun here."""
        return self.layout.state.exists()

    @property
    def state(self) -> StackState:
        """Ports and identity.

        Raises:
            CommandError: there is no stack in the folder.
        """
        state = StackState.load(self.layout.state)
        if state is None:
            raise no_stack(self.layout)
        return state

    def port(self, name: str) -> int:
        """A port by name: `kafka`, `postgres`, a service, `routing-2`, `smtp`."""
        return self.state.ports[name]

    def url(self, service: str, instance: int = 1) -> str:
        """The base URL of a service's HTTP door."""
        return f"http://{HOST}:{self.port(port_name(service, instance))}"

    @property
    def kafka_bootstrap(self) -> str:
        """Kafka's address for clients."""
        return f"{HOST}:{self.port(KAFKA)}"

    def kafka_credentials(self, principal: str) -> KafkaAccess:
        """How one principal (a service, `operator`, `admin`) reaches Kafka."""
        if principal not in credentials.KAFKA_PRINCIPALS:
            known = ", ".join(credentials.KAFKA_PRINCIPALS)
            raise CommandError(f"there is no Kafka principal {principal!r}", f"choose from: {known}")
        return KafkaAccess(self.kafka_bootstrap, principal, self.passwords().kafka[principal])

    def kafka_admin(self, principal: str = credentials.ADMIN) -> AdminClient:
        """A new confluent-kafka administrator's client."""
        access = self.kafka_credentials(principal)
        return AdminClient(kafka.client_options(access.bootstrap, access.username, access.password))

    def dsn(self, database: str, role: str | None = None) -> str:
        """A connection string: the database's runtime role, or `<service>_owner`, or the superuser `postgres`."""
        name = role or database
        passwords = self.passwords().postgres
        if name not in passwords:
            raise CommandError(f"there is no role {name!r}", f"choose from: {', '.join(passwords)}")
        return postgres.dsn(f"{HOST}:{self.port(POSTGRES)}", database, name, passwords[name])

    def identity_key(self, principal: str) -> Path:
        """The private key file by which a service or `operator` proves itself over HTTP."""
        return credentials.identity_key(self.layout, principal)

    @property
    def trusted_keys(self) -> Path:
        """The folder of all public keys."""
        return self.layout.trusted

    def passwords(self) -> credentials.Passwords:
        """The passwords of Kafka's principals and PostgreSQL's roles.

        Raises:
            CommandError: there is no stack in the folder.
        """
        if not self.exists:
            raise no_stack(self.layout)
        return credentials.ensure_passwords(self.layout)

    def kafka_java(self) -> kafka.Java:
        """Java and Kafka's verified jars, for the broker and for its tools."""
        lock = jars.read_lock(checkout_folder() / "deploy" / "local" / "kafka.lock")
        files = jars.ensure_jars(lock, jars.cache_folder(jars.kafka_version(lock)), self.report)
        return kafka.Java(java.find_java(), files)

    def apply_topics(self) -> list[topics.Change]:
        """Bring topics and rights to what `deploy/topics.yaml` declares; returns what was changed."""
        registry = load_registry(checkout_folder() / "deploy" / "topics.yaml")
        changes = topics.apply(self.kafka_admin(), registry)
        if changes:
            self.report.step(f"topics and rights: {len(changes)} changes made")
        return changes

    def migrate(self) -> dict[str, list[str]]:
        """Apply every service's new migrations; returns their names by service."""
        applied = {}
        for service in SERVICES:
            applied[service] = migrate_service(service, self.dsn(service, f"{service}_owner"))
            if applied[service]:
                self.report.step(f"{service}: {', '.join(applied[service])}")
        return applied


def no_stack(layout: Layout) -> CommandError:
    """The error of a folder in which no `up` has begun."""
    return CommandError(f"there is no stack in {layout.home}", "start one: waystation up")


def migrate_service(service: str, owner_dsn: str) -> list[str]:
    """Apply a service's new migrations; returns their names."""
    try:
        return run(migrate(owner_dsn, checkout_folder() / "services" / service / "migrations"))
    except MigrationError as error:
        raise CommandError(f"services/{service}/migrations: {error}") from error


def is_ready(url: str) -> bool:
    """Whether a service answers 200 on /readyz now."""
    try:
        return httpx.get(f"{url}/readyz", timeout=READYZ_TIMEOUT_SECONDS, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def run(work: Coroutine[None, None, Answer]) -> Answer:
    """Run a coroutine to its end, also where an event loop runs in this thread already."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
