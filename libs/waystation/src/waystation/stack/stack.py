"""The local stack: Kafka, PostgreSQL and the five services as processes of one folder.

    stack = Stack.open(Path("/tmp/one"))
    stack.up()
    stack.kill_service("routing")
    stack.start_service("routing")
    stack.down(wipe=True)

Everything here blocks; from a coroutine, call it in a thread unless standing still is what you want.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import shutil
import signal
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import httpx
from confluent_kafka.admin import AdminClient

from common.kafka.settings import KafkaAccess
from common.kafka.topics import load_registry
from common.postgres.migrations import MigrationError, migrate
from waystation import topics
from waystation.errors import CommandError
from waystation.stack import credentials, jars, java, kafka, ports, postgres, processes, services
from waystation.stack.layout import (
    HOST,
    INFRA_PORTS,
    PORT_NAMES,
    SERVICES,
    Layout,
    StackState,
    checkout_folder,
    default_home,
)
from waystation.stack.processes import ProcessRecord, Registry

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping

KAFKA = "kafka"
POSTGRES = "postgres"
READY_TIMEOUT_SECONDS = 60.0
KAFKA_STOP_SIGNALS = ((signal.SIGTERM, 30.0),)
READYZ_TIMEOUT_SECONDS = 2.0
LAST_LINE_CHARACTERS = 300

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


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """One process of the stack: `running`, `starting` (lives, not ready), `died` (nobody stopped it) or `stopped`."""

    name: str
    state: str
    pid: int | None
    port: int | None
    url: str


class Stack:
    """One stack; opening it starts and creates nothing."""

    def __init__(self, layout: Layout, report: Report, given_ports: Mapping[str, int]) -> None:
        self.layout = layout
        self._report = report
        self._given_ports = dict(given_ports)
        self._registry = Registry(layout.run)
        self._locked = False

    @classmethod
    def open(
        cls, home: Path | None = None, *, ports: Mapping[str, int] | None = None, report: Report | None = None
    ) -> Stack:
        """A handle on the stack of a folder.

        Args:
            home: its folder; WAYSTATION_HOME or `.waystation` in the checkout when left out.
            ports: ports to take instead of free ones (0 means: choose anew); they stay with the stack.
            report: hears of progress.
        """
        layout = Layout((home or default_home()).expanduser().resolve())
        return cls(layout, report or Silence(), ports or {})

    # What it is

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
        return f"http://{HOST}:{self.port(services.port_name(service, instance))}"

    @property
    def kafka_bootstrap(self) -> str:
        """Kafka's address for clients."""
        return f"{HOST}:{self.port(KAFKA)}"

    def kafka_credentials(self, principal: str) -> KafkaAccess:
        """How one principal (a service, `operator`, `admin`) reaches Kafka."""
        passwords = self._passwords().kafka
        if principal not in credentials.KAFKA_PRINCIPALS:
            known = ", ".join(credentials.KAFKA_PRINCIPALS)
            raise CommandError(f"there is no Kafka principal {principal!r}", f"choose from: {known}")
        return KafkaAccess(self.kafka_bootstrap, principal, passwords[principal])

    def kafka_admin(self, principal: str = credentials.ADMIN) -> AdminClient:
        """A new confluent-kafka administrator's client."""
        access = self.kafka_credentials(principal)
        return AdminClient(kafka.client_options(access.bootstrap, access.username, access.password))

    def dsn(self, database: str, role: str | None = None) -> str:
        """A connection string: the database's runtime role, or `<service>_owner`, or the superuser `postgres`."""
        name = role or database
        passwords = self._passwords().postgres
        if name not in passwords:
            raise CommandError(f"there is no role {name!r}", f"choose from: {', '.join(passwords)}")
        return postgres.dsn(self.port(POSTGRES), database, name, passwords[name])

    def identity_key(self, principal: str) -> Path:
        """The private key file by which a service or `operator` proves itself over HTTP."""
        return credentials.identity_key(self.layout, principal)

    @property
    def trusted_keys(self) -> Path:
        """The folder of all public keys."""
        return self.layout.trusted

    def service_environment(self, service: str, instance: int = 1) -> dict[str, str]:
        """The whole environment with which a copy of a service is started."""
        self._ensure_service_port(service, instance)
        return services.service_environment(self.layout, self.state, self._passwords(), service, instance)

    def kafka_java(self) -> kafka.Java:
        """Java and Kafka's verified jars, for the broker and for its tools."""
        lock = jars.read_lock(checkout_folder() / "deploy" / "local" / "kafka.lock")
        files = jars.ensure_jars(lock, jars.cache_folder(jars.kafka_version(lock)), self._report)
        return kafka.Java(java.find_java(), files)

    def status(self) -> list[ComponentStatus]:
        """Every component with what it does now."""
        infra = [self._infra_status(KAFKA), self._infra_status(POSTGRES)]
        first = [(service, 1) for service in SERVICES]
        return infra + [self._service_status(*pair) for pair in sorted({*first, *self._started_services()}, key=_order)]

    # Up and down

    def up(self) -> bool:
        """Everything; true when something had to be started."""
        with self._lock():
            started = self.up_infra()
            missing = [name for name in SERVICES if self._registry.running(services.process_name(name)) is None]
            for service in missing:
                self.start_service(service, wait=False)
            for service in SERVICES:
                self.wait_ready(service)
                if service in missing:
                    self._report.step(f"{service} is ready at {self.url(service)}")
        return started or bool(missing)

    def up_infra(self) -> bool:
        """Kafka and PostgreSQL with topics, rights, databases and migrations; true when something had to be started."""
        with self._lock():
            self._prepare()
            with ThreadPoolExecutor(2) as pool:
                started = [job.result() for job in (pool.submit(self.start_kafka), pool.submit(self.start_postgres))]
            self.apply_topics()
            self.migrate()
        return any(started)

    def down(self, *, wipe: bool = False) -> list[str]:
        """Stop every process of the stack, services first; with `wipe` its data and keys go too.

        Returns:
            The names of the processes that were stopped.
        """
        if not self.layout.home.exists():
            return []
        with self._lock():
            self._recover()
            running = [name for name in self._registry.names() if self._registry.running(name)]
            served = [name for name in running if name not in (KAFKA, POSTGRES)]
            for name in (*served, *(name for name in (KAFKA, POSTGRES) if name in running)):
                self._report.step(f"stopping {name}")
            self._stop_all(served)
            self._stop_all([name for name in running if name not in served])
            if POSTGRES in running:
                postgres.clear_remains(self.layout)
            if wipe:
                self._wipe()
        return running

    def apply_topics(self) -> list[topics.Change]:
        """Bring topics and rights to what `deploy/topics.yaml` declares; returns what was changed."""
        registry = load_registry(checkout_folder() / "deploy" / "topics.yaml")
        changes = topics.apply(self.kafka_admin(), registry)
        if changes:
            self._report.step(f"topics and rights: {len(changes)} changes made")
        return changes

    def migrate(self) -> dict[str, list[str]]:
        """Apply every service's new migrations; returns their names by service."""
        applied = {}
        for service in SERVICES:
            folder = checkout_folder() / "services" / service / "migrations"
            try:
                applied[service] = _run(migrate(self.dsn(service, f"{service}_owner"), folder))
            except MigrationError as error:
                raise CommandError(f"services/{service}/migrations: {error}") from error
            if applied[service]:
                self._report.step(f"{service}: {', '.join(applied[service])}")
        return applied

    # Kafka

    def start_kafka(self) -> bool:
        """Start Kafka and wait until it answers; false when it ran already."""
        fresh = not self._runs(KAFKA)
        passwords = self._passwords().kafka
        if fresh:
            self._spawn_kafka(passwords)
        ready = kafka.wait_until_ready(
            self.kafka_bootstrap,
            passwords[credentials.ADMIN],
            READY_TIMEOUT_SECONDS,
            lambda: self._registry.running(KAFKA),
        )
        self._require_started(KAFKA, ready)
        return fresh

    def stop_kafka(self) -> None:
        """Stop Kafka in order."""
        self._stop(KAFKA)

    def kill_kafka(self) -> None:
        """SIGKILL Kafka, wait until it is gone."""
        self._kill(KAFKA, signal.SIGKILL)

    # PostgreSQL

    def start_postgres(self) -> bool:
        """Start PostgreSQL, wait until it answers, make missing databases and roles; false when it ran already."""
        fresh = not self._runs(POSTGRES)
        passwords = self._passwords().postgres
        if fresh:
            self._spawn_postgres(passwords)
        address = self.dsn("postgres", credentials.SUPERUSER)
        answered = processes.wait_until(
            lambda: self._registry.running(POSTGRES) is None or _run(postgres.is_ready(address)), READY_TIMEOUT_SECONDS
        )
        self._require_started(POSTGRES, answered and self._registry.running(POSTGRES) is not None)
        _run(postgres.provision(self.port(POSTGRES), passwords))
        return fresh

    def stop_postgres(self) -> None:
        """Stop PostgreSQL in order; open sessions are ended."""
        self._stop(POSTGRES)

    def kill_postgres(self) -> None:
        """SIGKILL the server process, wait until it and its children are gone."""
        self._kill(POSTGRES, signal.SIGKILL)
        postgres.clear_remains(self.layout)

    # Services

    def start_service(
        self, service: str, instance: int = 1, *, extra_env: Mapping[str, str] | None = None, wait: bool = True
    ) -> ProcessRecord:
        """Start one copy of a service, by default waiting until it is ready; one that runs is left alone."""
        name = services.process_name(service, instance)
        running = self._registry.running(name)
        if running is not None:
            return running
        environment = {**self.service_environment(service, instance), **(extra_env or {})}
        ports.require_free({services.port_name(service, instance): self.port(services.port_name(service, instance))})
        self._report.step(f"starting {name}")
        record = self._spawn(name, services.start_command(self.layout, service, instance, environment))
        if wait:
            self.wait_ready(service, instance)
        return record

    def stop_service(self, service: str, instance: int = 1) -> None:
        """SIGTERM one copy of a service, wait until it finished its work; SIGKILL after 30 s."""
        self._stop(services.process_name(service, instance))

    def kill_service(self, service: str, instance: int = 1, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one copy of a service, wait until it is gone."""
        self._kill(services.process_name(service, instance), number)

    def wait_ready(self, service: str, instance: int = 1, timeout_seconds: float = READY_TIMEOUT_SECONDS) -> None:
        """Wait until a copy of a service answers 200 on /readyz.

        Raises:
            CommandError: it ended, or was not ready in time.
        """
        name = services.process_name(service, instance)
        url = self.url(service, instance)
        ready = processes.wait_until(
            lambda: self._registry.running(name) is None or _is_ready(url), timeout_seconds, poll_seconds=0.1
        )
        self._require_started(name, ready and self._registry.running(name) is not None)

    # Inside

    def _prepare(self) -> None:
        layout = self.layout
        for folder in (layout.logs, layout.run, layout.journals, layout.trusted, layout.kafka):
            folder.mkdir(parents=True, exist_ok=True)
        self.layout.secrets.mkdir(mode=0o700, exist_ok=True)
        self._recover()
        self._choose_ports()
        self._passwords()
        credentials.ensure_keys(self.layout)

    def _choose_ports(self) -> None:
        state = StackState.load(self.layout.state) or StackState.new()
        wanted = {**state.ports, **self._given_ports}
        moved = sorted(name for name, port in wanted.items() if state.ports.get(name, port) != port)
        running = [name for name in moved if self._registry.running(name) or self._registry.running(f"{name}-1")]
        if running:
            raise CommandError(f"{', '.join(running)} runs on another port already", "stop it first: waystation down")
        kept = {name: port for name, port in wanted.items() if port}
        missing = [name for name in PORT_NAMES if name not in kept]
        complete = {**kept, **ports.choose(missing, kept.values())}
        if complete != state.ports or not self.layout.state.exists():
            replace(state, ports=complete).save(self.layout.state)

    def _ensure_service_port(self, service: str, instance: int) -> None:
        if service not in SERVICES:
            raise CommandError(f"there is no service {service!r}", f"choose from: {', '.join(SERVICES)}")
        name, state = services.port_name(service, instance), self.state
        if name not in state.ports:
            state.with_ports(ports.choose([name], state.ports.values())).save(self.layout.state)

    def _runs(self, name: str) -> bool:
        """Whether a process lives, also one whose record was lost."""
        if self._registry.running(name) is None:
            self._recover()
        return self._registry.running(name) is not None

    def _recover(self) -> None:
        """Take over what a killed command had started without noting it down."""
        markers = {kafka.marker(self.layout): KAFKA, str(postgres.data_folder(self.layout)): POSTGRES}
        for service in SERVICES:
            for instance in range(1, 10):
                name = services.process_name(service, instance)
                markers[services.marker(self.layout, name)] = name
        for name in self._registry.adopt(markers):
            self._report.step(f"{name} was left running by a command that was killed: taken over")

    def _spawn_kafka(self, passwords: Mapping[str, str]) -> None:
        java_with_jars = self.kafka_java()
        state = self.state
        ports.require_free({name: state.ports[name] for name in INFRA_PORTS if name.startswith(KAFKA)})
        self._report.step("starting Kafka")
        properties = kafka.write_configuration(self.layout, state, passwords)
        kafka.format_storage(self.layout, state, passwords, java_with_jars, properties)
        self._spawn(KAFKA, kafka.start_command(self.layout, java_with_jars, properties))

    def _spawn_postgres(self, passwords: Mapping[str, str]) -> None:
        postgres.clear_remains(self.layout)
        ports.require_free({POSTGRES: self.port(POSTGRES)})
        self._report.step("starting PostgreSQL")
        postgres.initialize(self.layout, passwords[credentials.SUPERUSER])
        self._spawn(POSTGRES, postgres.start_command(self.layout, self.port(POSTGRES)))

    def _passwords(self) -> credentials.Passwords:
        if not self.exists:
            raise no_stack(self.layout)
        return credentials.ensure_passwords(self.layout)

    def _spawn(self, name: str, command: processes.Command) -> ProcessRecord:
        record = processes.spawn(name, command, self.layout.log(name))
        self._registry.write(record)
        return record

    def _require_started(self, name: str, ready: bool) -> None:
        if ready:
            return
        happened = "is not ready" if self._registry.running(name) else "ended during its start"
        said = _last_line(self.layout.log(name))
        raise CommandError(
            f"{name} {happened}; it said last: {said}", f"see all: waystation logs {name} --home {self.layout.home}"
        )

    def _stop_all(self, names: list[str]) -> None:
        with ThreadPoolExecutor(max(len(names), 1)) as pool:
            for job in [pool.submit(self._stop, name) for name in names]:
                job.result()

    def _stop(self, name: str) -> None:
        signals = {KAFKA: KAFKA_STOP_SIGNALS, POSTGRES: postgres.STOP_SIGNALS}.get(name, services.STOP_SIGNALS)
        record = self._registry.read(name)
        if record is not None:
            processes.stop(record, signals)
            self._registry.forget(name)

    def _kill(self, name: str, number: signal.Signals) -> None:
        record = self._registry.running(name)
        if record is None:
            raise CommandError(f"{name} does not run", "waystation status shows what does")
        if not processes.signal_and_wait(record, number, READY_TIMEOUT_SECONDS):
            raise CommandError(f"{name} (pid {record.pid}) lives on after {number.name}")

    def _wipe(self) -> None:
        for path in (self.layout.kafka, self.layout.postgres, self.layout.secrets, self.layout.trusted):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self.layout.logs, self.layout.run, self.layout.journals):
            shutil.rmtree(path, ignore_errors=True)
        self.layout.state.unlink(missing_ok=True)
        self.layout.lock.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.layout.home.rmdir()

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One `up` or `down` at a time; the kernel frees the lock of a killed command."""
        if self._locked:
            yield
            return
        self.layout.home.mkdir(parents=True, exist_ok=True)
        with self.layout.lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CommandError(
                    f"another command starts or stops the stack in {self.layout.home}", "wait until it is done"
                ) from error
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    def _started_services(self) -> list[tuple[str, int]]:
        pairs = [name.rpartition("-") for name in self._registry.names()]
        return [(service, int(number)) for service, _, number in pairs if service in SERVICES and number.isdecimal()]

    def _infra_status(self, name: str) -> ComponentStatus:
        record = self._registry.read(name)
        alive = record is not None and record.is_running
        port = self.port(name) if self.exists else None
        state = "running" if alive else "died" if record else "stopped"
        return ComponentStatus(
            name, state, record.pid if record and alive else None, port, f"{HOST}:{port}" if port else ""
        )

    def _service_status(self, service: str, instance: int) -> ComponentStatus:
        name = services.process_name(service, instance)
        record = self._registry.read(name)
        port = self.state.ports.get(services.port_name(service, instance)) if self.exists else None
        url = f"http://{HOST}:{port}" if port else ""
        if record is None or not record.is_running:
            return ComponentStatus(name, "died" if record else "stopped", None, port, url)
        return ComponentStatus(name, "running" if _is_ready(url) else "starting", record.pid, port, url)


def no_stack(layout: Layout) -> CommandError:
    """The error of a folder in which no `up` has begun."""
    return CommandError(f"there is no stack in {layout.home}", "start one: waystation up")


def _order(pair: tuple[str, int]) -> tuple[int, int]:
    return SERVICES.index(pair[0]), pair[1]


def _last_line(log: Path) -> str:
    if not log.exists():
        return "nothing"
    with log.open(encoding="utf-8", errors="replace") as file:
        lines = deque((line.strip() for line in file if line.strip()), maxlen=1)
    return lines[0][:LAST_LINE_CHARACTERS] if lines else "nothing"


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=READYZ_TIMEOUT_SECONDS, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _run(work: Coroutine[None, None, Answer]) -> Answer:
    """Run a coroutine to its end, also where an event loop runs in this thread already."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
