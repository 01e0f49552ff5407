"""Kafka and PostgreSQL of a stack as containers of the official images, by testcontainers.

Containers are known by a name made of the stack's folder; data are in their own volumes. Kafka listens inside on the
very ports that it has on this machine, so one advertised address is right on both sides. The two libraries open sockets
while they are imported, hence the imports inside functions.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any

from waystation.errors import CommandError
from waystation.stack import credentials, kafka, ports, postgres
from waystation.stack.layout import HOST, KAFKA, POSTGRES
from waystation.stack.supervisor import LAST_LINE_CHARACTERS

if TYPE_CHECKING:
    from docker.models.containers import Container
    from testcontainers.core.container import DockerContainer

    from waystation.stack.addresses import StackAddresses

KAFKA_IMAGE = "apache/kafka:4.3.1"
POSTGRES_IMAGE = "postgres:18"
KAFKA_DATA = "/var/lib/kafka/data"
KAFKA_SETTINGS = "/mnt/shared/config"
POSTGRES_PORT = 5432
STOP_SECONDS = 30
START_SECONDS = 60.0
ALIVE = {"running", "paused", "restarting"}


class ContainerInfrastructure:
    """Runs `kafka` and `postgres` as one container each."""

    def __init__(self, stack: StackAddresses) -> None:
        from docker.errors import DockerException  # noqa: PLC0415
        from testcontainers.core.docker_client import DockerClient  # noqa: PLC0415

        self._stack = stack
        self._one_at_a_time = threading.Lock()  # testcontainers makes its reaper at the first start, once
        try:
            self._docker = DockerClient().client
            self._docker.ping()
        except DockerException as error:
            raise CommandError(
                "no Docker engine answers", "start one, or run the stack without: leave WAYSTATION_STACK away"
            ) from error

    def start(self, name: str) -> None:
        """Start the container again, or make it; Kafka is given its users as soon as it answers."""
        listened = [KAFKA, f"{KAFKA}-internal"] if name == KAFKA else [POSTGRES]
        ports.require_free({one: self._stack.port(one) for one in listened})
        self._stack.report.step(f"starting {name} in a container")
        if name == KAFKA:
            self._write_kafka_settings()
        container = self._find(name)
        if container is not None:
            container.start()
        else:
            made = self._kafka() if name == KAFKA else self._postgres()
            with self._one_at_a_time:
                made.with_name(self._name(name)).start()
        if name == KAFKA:
            internal = f"{HOST}:{self._stack.port('kafka-internal')}"
            kafka.ensure_users(internal, self._stack.passwords().kafka, START_SECONDS)

    def is_running(self, name: str) -> bool:
        """Whether the container lives, frozen or not."""
        container = self._find(name)
        return container is not None and container.status in ALIVE

    def was_started(self, name: str) -> bool:
        """Whether the container ended by a signal or an error: docker keeps it after a stop, too."""
        container = self._find(name)
        return container is not None and container.attrs["State"]["ExitCode"] not in {0, 143}

    def pid(self, name: str) -> int | None:  # noqa: ARG002  the interface's
        """None: its process belongs to the engine."""
        return None

    def stop(self, name: str) -> None:
        """Stop in order."""
        container = self._find(name)
        if container is not None:
            container.stop(timeout=STOP_SECONDS)

    def kill(self, name: str) -> None:
        """SIGKILL."""
        container = self._require(name)
        container.kill()
        container.wait(timeout=STOP_SECONDS)

    def pause(self, name: str) -> None:
        """Freeze all its processes (the cgroup freezer)."""
        self._require(name).pause()

    def resume(self, name: str) -> None:
        """Let them go on."""
        self._require(name).unpause()

    def said_last(self, name: str) -> str:
        """The last line of its output."""
        container = self._find(name)
        lines = container.logs(tail=1).decode(errors="replace").strip() if container else ""
        return lines[:LAST_LINE_CHARACTERS] or "nothing"

    def remove(self) -> None:
        """Remove containers with their volumes."""
        for name in (KAFKA, POSTGRES):
            container = self._find(name)
            if container is not None:
                container.remove(v=True, force=True)

    def _name(self, name: str) -> str:
        mark = hashlib.sha256(str(self._stack.layout.home).encode()).hexdigest()[:12]
        return f"waystation-{mark}-{name}"

    def _find(self, name: str) -> Container | None:
        from docker.errors import NotFound  # noqa: PLC0415

        try:
            return self._docker.containers.get(self._name(name))
        except NotFound:
            return None

    def _require(self, name: str) -> Container:
        container = self._find(name)
        if container is None or container.status not in ALIVE:
            raise CommandError(f"{name} does not run", "waystation status shows what does")
        return container

    def _write_kafka_settings(self) -> None:
        """In a folder below one that only its owner enters; the file is read by the container's own account."""
        folder = self._stack.layout.secrets / "kafka-container"
        folder.mkdir(exist_ok=True)
        node = kafka.Node(kafka.local_listeners(self._stack.state.ports, "0.0.0.0"), KAFKA_DATA)  # noqa: S104  published on loopback only
        kafka.write_configuration(folder / "server.properties", node, self._stack.passwords().kafka, 0o644)

    def _kafka(self) -> DockerContainer:
        settings = str(self._stack.layout.secrets / "kafka-container")
        container = _container(KAFKA_IMAGE).with_volume_mapping(settings, KAFKA_SETTINGS, "ro")
        container.with_env("CLUSTER_ID", self._stack.state.cluster_id)
        container.with_env("KAFKA_HEAP_OPTS", " ".join(kafka.HEAP_OPTIONS))
        container.with_env("KAFKA_JVM_PERFORMANCE_OPTS", " ".join(kafka.SHORT_LIVED))
        return _published(
            container, {self._stack.port(one): self._stack.port(one) for one in (KAFKA, "kafka-internal")}
        )

    def _postgres(self) -> DockerContainer:
        container = _container(POSTGRES_IMAGE).with_command(["postgres", *postgres.server_options(postgres.SETTINGS)])
        container.with_env("POSTGRES_PASSWORD", self._stack.passwords().postgres[credentials.SUPERUSER])
        container.with_env("POSTGRES_INITDB_ARGS", " ".join(postgres.INITDB_OPTIONS))
        return _published(container, {POSTGRES_PORT: self._stack.port(POSTGRES)})


def _container(image: str) -> DockerContainer:
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415

    return DockerContainer(image)


def _published(container: DockerContainer, numbers: dict[int, int]) -> DockerContainer:
    """Publish ports of a container (inside -> here) on loopback only."""
    published: dict[str, Any] = {f"{inside}/tcp": (HOST, here) for inside, here in numbers.items()}
    container.ports.update(published)
    return container
