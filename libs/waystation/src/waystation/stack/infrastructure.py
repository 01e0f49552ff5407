"""What runs Kafka and PostgreSQL of a stack: processes of this machine (here), or containers (`containers.py`)."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Protocol

from waystation.stack import credentials, kafka, ports, postgres
from waystation.stack.layout import HOST, INFRA_PORTS, KAFKA, POSTGRES

if TYPE_CHECKING:
    from waystation.stack.addresses import StackAddresses
    from waystation.stack.supervisor import Supervisor

KAFKA_STOP_SIGNALS = ((signal.SIGTERM, 30.0),)


class Infrastructure(Protocol):
    """Runs the parts named `kafka` and `postgres`; their data outlive stops, kills and starts."""

    def start(self, name: str) -> None:
        """Begin to start a part that does not run; it may not answer yet."""

    def is_running(self, name: str) -> bool:
        """Whether a part lives, also one that another command started."""

    def was_started(self, name: str) -> bool:
        """Whether a part was started and not stopped in order since; it may have died."""

    def pid(self, name: str) -> int | None:
        """Its process id on this machine, where it has one of its own."""

    def stop(self, name: str) -> None:
        """Stop a part in order."""

    def kill(self, name: str) -> None:
        """SIGKILL a part, wait until it is gone."""

    def pause(self, name: str) -> None:
        """Freeze a part: connections stay open and nothing answers."""

    def resume(self, name: str) -> None:
        """Let a frozen part go on."""

    def said_last(self, name: str) -> str:
        """The last line of its log."""

    def remove(self) -> None:
        """Remove what is kept outside the stack's folder; nothing runs any more."""


class LocalInfrastructure:
    """Kafka from its jars and PostgreSQL from a wheel, as processes of this machine."""

    def __init__(self, stack: StackAddresses, supervisor: Supervisor) -> None:
        self._stack = stack
        self._supervisor = supervisor

    def start(self, name: str) -> None:
        """Start a process; PostgreSQL's remains of a kill are cleared first."""
        if name == KAFKA:
            self._start_kafka()
        else:
            self._start_postgres()

    def is_running(self, name: str) -> bool:
        """Whether the process lives, also one whose record was lost."""
        if self._supervisor.running(name) is None:
            layout = self._stack.layout
            self._supervisor.recover({kafka.marker(layout): KAFKA, str(postgres.data_folder(layout)): POSTGRES})
        return self._supervisor.running(name) is not None

    def was_started(self, name: str) -> bool:
        """Whether there is a record of the process."""
        return self._supervisor.read(name) is not None

    def pid(self, name: str) -> int | None:
        """The process id of one that lives."""
        record = self._supervisor.running(name)
        return record.pid if record else None

    def stop(self, name: str) -> None:
        """Stop in order; PostgreSQL ends open sessions."""
        self._supervisor.stop(name, KAFKA_STOP_SIGNALS if name == KAFKA else postgres.STOP_SIGNALS)
        if name == POSTGRES:
            postgres.clear_remains(self._stack.layout)

    def kill(self, name: str) -> None:
        """SIGKILL the process, wait until it and its children are gone."""
        self._supervisor.kill(name, signal.SIGKILL)
        if name == POSTGRES:
            postgres.clear_remains(self._stack.layout)

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self._supervisor.pause(name)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self._supervisor.resume(name)

    def said_last(self, name: str) -> str:
        """The last line of its log file."""
        return self._supervisor.said_last(name)

    def remove(self) -> None:
        """Nothing is kept elsewhere."""

    def _start_kafka(self) -> None:
        layout, state, passwords = self._stack.layout, self._stack.state, self._stack.passwords().kafka
        java_with_jars = self._stack.kafka_java()
        ports.require_free({name: state.ports[name] for name in INFRA_PORTS if name.startswith(KAFKA)})
        self._stack.report.step("starting Kafka")
        node = kafka.Node(kafka.local_listeners(state.ports, HOST), str(layout.kafka / "data"))
        properties = kafka.write_configuration(layout.kafka / "server.properties", node, passwords)
        kafka.format_storage(layout, state, passwords, java_with_jars, properties)
        self._supervisor.spawn(KAFKA, kafka.start_command(layout, java_with_jars, properties))

    def _start_postgres(self) -> None:
        layout, port = self._stack.layout, self._stack.port(POSTGRES)
        postgres.clear_remains(layout)
        ports.require_free({POSTGRES: port})
        self._stack.report.step("starting PostgreSQL")
        postgres.initialize(layout, self._stack.passwords().postgres[credentials.SUPERUSER])
        self._supervisor.spawn(POSTGRES, postgres.start_command(layout, port))
