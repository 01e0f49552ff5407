"""The local stack: Kafka, PostgreSQL and the five services as processes of one folder.

    stack = Stack.open(Path("/tmp/one"))
    stack.up()
    stack.kill_service("routing")
    stack.start_service("routing")
    stack.down(wipe=True)

Kafka and PostgreSQL of a new folder are containers where WAYSTATION_STACK=docker says so; the services never are here.
Everything here blocks; from a coroutine, call it in a thread unless standing still is what you want.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from waystation.errors import CommandError
from waystation.stack import credentials, kafka, ports, postgres, processes, services
from waystation.stack.addresses import Report, Silence, StackAddresses, is_ready, run
from waystation.stack.infrastructure import LocalInfrastructure
from waystation.stack.layout import (
    HOST,
    KAFKA,
    PORT_NAMES,
    POSTGRES,
    SERVICES,
    Layout,
    StackState,
    default_home,
    port_name,
    process_name,
)
from waystation.stack.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from waystation.stack.infrastructure import Infrastructure
    from waystation.stack.processes import ProcessRecord

READY_TIMEOUT_SECONDS = 60.0
INFRASTRUCTURE = (KAFKA, POSTGRES)
CHOICES = {"": "processes", "local": "processes", "docker": "containers"}
"""WAYSTATION_STACK, and the kind of stack that a new folder gets."""


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """One part of the stack: `running`, `starting` (lives, not ready), `died` (nobody stopped it) or `stopped`."""

    name: str
    state: str
    pid: int | None
    port: int | None
    url: str


class Stack(StackAddresses):
    """One stack; opening it starts and creates nothing."""

    def __init__(self, layout: Layout, report: Report, given_ports: Mapping[str, int]) -> None:
        super().__init__(layout, report)
        self._given_ports = dict(given_ports)
        self._supervisor = Supervisor(layout, report)
        self._kind = _kind(layout)
        self._infrastructure = self._choose_infrastructure()
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

    def service_environment(self, service: str, instance: int = 1) -> dict[str, str]:
        """The whole environment with which a copy of a service is started."""
        self._ensure_service_port(service, instance)
        return services.service_environment(self.layout, self.state, self.passwords(), service, instance)

    def status(self) -> list[ComponentStatus]:
        """Every component with what it does now."""
        infra = [self._infra_status(name) for name in INFRASTRUCTURE]
        first = [(service, 1) for service in SERVICES]
        return infra + [self._service_status(*pair) for pair in sorted({*first, *self._started_services()}, key=_order)]

    # Up and down

    def up(self, extra_env: Mapping[str, str] | None = None) -> bool:
        """Everything; true when something had to be started. `extra_env` goes to the services that are started."""
        with self._lock():
            started = self.up_infra()
            missing = [name for name in SERVICES if self._supervisor.running(process_name(name)) is None]
            for service in missing:
                self.start_service(service, extra_env=extra_env, wait=False)
            for service in SERVICES:
                self.wait_ready(service)
                if service in missing:
                    self.report.step(f"{service} is ready at {self.url(service)}")
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

    def up_postgres(self) -> None:
        """PostgreSQL alone, with databases and roles; neither Kafka nor migrations."""
        with self._lock():
            self._prepare()
            self.start_postgres()

    def down(self, *, wipe: bool = False) -> list[str]:
        """Stop every part of the stack, services first; with `wipe` its data and keys go too.

        Returns:
            The names of the parts that were stopped.
        """
        if not self.layout.home.exists():
            return []
        with self._lock():
            self._recover()
            served = [name for name in self._supervisor.names() if name not in INFRASTRUCTURE]
            served = [name for name in served if self._supervisor.running(name)]
            below = [name for name in INFRASTRUCTURE if self.exists and self._infrastructure.is_running(name)]
            for name in (*served, *below):
                self.report.step(f"stopping {name}")
            _all_at_once(lambda name: self._supervisor.stop(name, services.STOP_SIGNALS), served)
            _all_at_once(self._infrastructure.stop, below)
            if wipe:
                self._wipe()
        return [*served, *below]

    # Kafka and PostgreSQL

    def start_kafka(self) -> bool:
        """Start Kafka and wait until it answers; false when it ran already."""
        fresh = not self._infrastructure.is_running(KAFKA)
        if fresh:
            self._infrastructure.start(KAFKA)
        ready = kafka.wait_until_ready(
            self.kafka_bootstrap,
            self.passwords().kafka[credentials.ADMIN],
            READY_TIMEOUT_SECONDS,
            lambda: self._infrastructure.is_running(KAFKA),
        )
        self._require_infrastructure(KAFKA, ready)
        return fresh

    def start_postgres(self) -> bool:
        """Start PostgreSQL, wait until it answers, make missing databases and roles; false when it ran already."""
        fresh = not self._infrastructure.is_running(POSTGRES)
        if fresh:
            self._infrastructure.start(POSTGRES)
        address = self.dsn("postgres", credentials.SUPERUSER)
        answered = processes.wait_until(
            lambda: not self._infrastructure.is_running(POSTGRES) or run(postgres.is_ready(address)),
            READY_TIMEOUT_SECONDS,
        )
        self._require_infrastructure(POSTGRES, answered and self._infrastructure.is_running(POSTGRES))
        run(postgres.provision(f"{HOST}:{self.port(POSTGRES)}", self.passwords().postgres))
        return fresh

    def stop_kafka(self) -> None:
        """Stop Kafka in order."""
        self._infrastructure.stop(KAFKA)

    def stop_postgres(self) -> None:
        """Stop PostgreSQL in order; open sessions are ended."""
        self._infrastructure.stop(POSTGRES)

    def kill_kafka(self) -> None:
        """SIGKILL Kafka, wait until it is gone."""
        self._infrastructure.kill(KAFKA)

    def kill_postgres(self) -> None:
        """SIGKILL PostgreSQL's server, wait until it and its children are gone."""
        self._infrastructure.kill(POSTGRES)

    @contextlib.contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Freeze `kafka` or `postgres` meanwhile: connections stay open and nothing answers."""
        self._infrastructure.pause(name)
        try:
            yield
        finally:
            self._infrastructure.resume(name)

    # Services

    def start_service(
        self, service: str, instance: int = 1, *, extra_env: Mapping[str, str] | None = None, wait: bool = True
    ) -> ProcessRecord:
        """Start one copy of a service, by default waiting until it is ready; one that runs is left alone."""
        name = process_name(service, instance)
        running = self._supervisor.running(name)
        if running is not None:
            return running
        environment = {**self.service_environment(service, instance), **(extra_env or {})}
        ports.require_free({port_name(service, instance): self.port(port_name(service, instance))})
        self.report.step(f"starting {name}")
        record = self._supervisor.spawn(name, services.start_command(self.layout, service, instance, environment))
        if wait:
            self.wait_ready(service, instance)
        return record

    def stop_service(self, service: str, instance: int = 1) -> None:
        """SIGTERM one copy of a service, wait until it finished its work; SIGKILL after 30 s."""
        self._supervisor.stop(process_name(service, instance), services.STOP_SIGNALS)

    def kill_service(self, service: str, instance: int = 1, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one copy of a service, wait until it is gone."""
        self._supervisor.kill(process_name(service, instance), number)

    def wait_ready(self, service: str, instance: int = 1, timeout_seconds: float = READY_TIMEOUT_SECONDS) -> None:
        """Wait until a copy of a service answers 200 on /readyz.

        Raises:
            CommandError: it ended, or was not ready in time.
        """
        name = process_name(service, instance)
        url = self.url(service, instance)
        ready = processes.wait_until(
            lambda: self._supervisor.running(name) is None or is_ready(url), timeout_seconds, poll_seconds=0.1
        )
        runs = self._supervisor.running(name) is not None
        self._require(name, ready and runs, runs=runs, said=self._supervisor.said_last(name))

    # Inside

    def _choose_infrastructure(self) -> Infrastructure:
        if self._kind == "containers":
            from waystation.stack.containers import ContainerInfrastructure  # noqa: PLC0415  an extra of the package

            return ContainerInfrastructure(self)
        return LocalInfrastructure(self, self._supervisor)

    def _prepare(self) -> None:
        if self._kind == "compose":
            raise CommandError(f"{self.layout.home} belongs to a stack in containers", "waystation up --docker")
        layout = self.layout
        for folder in (layout.logs, layout.run, layout.journals, layout.trusted, layout.kafka):
            folder.mkdir(parents=True, exist_ok=True)
        self.layout.secrets.mkdir(mode=0o700, exist_ok=True)
        self._recover()
        self._choose_ports()
        self.passwords()
        credentials.ensure_keys(self.layout)

    def _choose_ports(self) -> None:
        state = StackState.load(self.layout.state) or StackState.new(self._kind)
        wanted = {**state.ports, **self._given_ports}
        moved = sorted(name for name, port in wanted.items() if state.ports.get(name, port) != port)
        running = [name for name in moved if self._lives(name)]
        if running:
            raise CommandError(f"{', '.join(running)} runs on another port already", "stop it first: waystation down")
        kept = {name: port for name, port in wanted.items() if port}
        missing = [name for name in PORT_NAMES if name not in kept]
        complete = {**kept, **ports.choose(missing, kept.values())}
        if complete != state.ports or not self.layout.state.exists():
            replace(state, ports=complete).save(self.layout.state)

    def _lives(self, name: str) -> bool:
        if name in INFRASTRUCTURE:
            return self._infrastructure.is_running(name)
        return self._supervisor.running(name) is not None or self._supervisor.running(process_name(name)) is not None

    def _ensure_service_port(self, service: str, instance: int) -> None:
        if service not in SERVICES:
            raise CommandError(f"there is no service {service!r}", f"choose from: {', '.join(SERVICES)}")
        name, state = port_name(service, instance), self.state
        if name not in state.ports:
            state.with_ports(ports.choose([name], state.ports.values())).save(self.layout.state)

    def _recover(self) -> None:
        """Take over services that a killed command had started without noting it down."""
        names = [process_name(service, instance) for service in SERVICES for instance in range(1, 10)]
        self._supervisor.recover({services.marker(self.layout, name): name for name in names})

    def _require_infrastructure(self, name: str, ready: bool) -> None:
        if not ready:
            said = self._infrastructure.said_last(name)
            self._require(name, ready, runs=self._infrastructure.is_running(name), said=said)

    def _require(self, name: str, ready: bool, *, runs: bool, said: str) -> None:
        if not ready:
            happened = "is not ready" if runs else "ended during its start"
            raise CommandError(
                f"{name} {happened}; it said last: {said}", f"see all: waystation logs {name} --home {self.layout.home}"
            )

    def _wipe(self) -> None:
        if self.exists:
            self._infrastructure.remove()
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
        pairs = [name.rpartition("-") for name in self._supervisor.names()]
        return [(service, int(number)) for service, _, number in pairs if service in SERVICES and number.isdecimal()]

    def _infra_status(self, name: str) -> ComponentStatus:
        port = self.port(name) if self.exists else None
        alive = self.exists and self._infrastructure.is_running(name)
        died = self.exists and not alive and self._infrastructure.was_started(name)
        state = "running" if alive else "died" if died else "stopped"
        pid = self._infrastructure.pid(name) if alive else None
        return ComponentStatus(name, state, pid, port, f"{HOST}:{port}" if port else "")

    def _service_status(self, service: str, instance: int) -> ComponentStatus:
        name = process_name(service, instance)
        record = self._supervisor.read(name)
        port = self.state.ports.get(port_name(service, instance)) if self.exists else None
        url = f"http://{HOST}:{port}" if port else ""
        if record is None or not record.is_running:
            return ComponentStatus(name, "died" if record else "stopped", None, port, url)
        return ComponentStatus(name, "running" if is_ready(url) else "starting", record.pid, port, url)


def _kind(layout: Layout) -> str:
    """What the folder's stack was made as, else what WAYSTATION_STACK asks for."""
    state = StackState.load(layout.state)
    if state is not None:
        return state.kind
    asked = os.environ.get("WAYSTATION_STACK", "")
    if asked not in CHOICES:
        raise CommandError(
            f"WAYSTATION_STACK is {asked!r}", f"leave it away, or choose from: {', '.join(filter(None, CHOICES))}"
        )
    return CHOICES[asked]


def _order(pair: tuple[str, int]) -> tuple[int, int]:
    return SERVICES.index(pair[0]), pair[1]


def _all_at_once(work: Callable[[str], object], names: list[str]) -> None:
    with ThreadPoolExecutor(max(len(names), 1)) as pool:
        for job in [pool.submit(work, name) for name in names]:
            job.result()
