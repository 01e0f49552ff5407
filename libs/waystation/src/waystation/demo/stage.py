"""What the demo plays on: a stack of its own with the SMTP laboratory beside it, of processes or of containers."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Protocol

from waystation.demo.road import wait_for
from waystation.errors import CommandError
from waystation.stack import HOST, SERVICES, Stack, checkout_folder
from waystation.stack.processes import Command, Registry, spawn

if TYPE_CHECKING:
    from pathlib import Path

    from waystation.stack.compose import ComposeStack

LABORATORY = "laboratory"
LEASE_SECONDS = 4
ROUTING_ENVIRONMENT = {
    "ROUTING_LEASE_SECONDS": str(LEASE_SECONDS),
    "ROUTING_LEASE_MARGIN_SECONDS": "1",
    "ROUTING_RETRY_SECONDS_FIRST": "0.5",
}
DOCKER_PROJECT = "waystation-demo"
IMAGE_USER = 10001
"""The account that our images run as."""


class Stage(Protocol):
    """A stack that belongs to the demo alone."""

    @property
    def stack(self) -> Stack | ComposeStack:
        """Where its parts are reached; kills a service."""

    @property
    def record(self) -> Path:
        """Where the laboratory keeps what it sees; its presence marks a home as the demo's."""

    def clear(self) -> None:
        """Make an empty home; what an earlier demo left, running or not, goes."""

    def build(self) -> None:
        """Start everything, wait until all is ready."""

    def restart_routing(self) -> None:
        """Start routing again after its kill, wait until it is ready."""

    def take_down(self) -> None:
        """Stop everything; the record stays."""

    def ways_to_look(self, program: str) -> tuple[str, str, str]:
        """Commands that show what runs, show routing's log, and end it all."""


class LocalStage:
    """Processes of this machine; Kafka and PostgreSQL in containers where WAYSTATION_STACK says so."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    @property
    def record(self) -> Path:
        """A folder of the stack's home."""
        return self.stack.layout.home / LABORATORY

    def clear(self) -> None:
        """Wipe the home; raises CommandError when it is not an earlier demo's."""
        require_a_demos_home(self.record)
        self.take_down()
        self.stack.down(wipe=True)
        empty(self.record)

    def build(self) -> None:
        """Kafka and PostgreSQL, the laboratory, then all five services at once."""
        self.stack.up_infra()
        self._start_laboratory()
        for service in SERVICES:
            environment = ROUTING_ENVIRONMENT if service == "routing" else {}
            self.stack.start_service(service, extra_env=environment, wait=False)
        for service in SERVICES:
            self.stack.wait_ready(service)

    def restart_routing(self) -> None:
        """Start its process again."""
        self.stack.start_service("routing", extra_env=ROUTING_ENVIRONMENT)

    def take_down(self) -> None:
        """Stop everything, the laboratory too, also where the command that started it was killed."""
        if self.stack.layout.run.is_dir():
            Registry(self.stack.layout.run).adopt({self._mark: LABORATORY})
        self.stack.down()

    def ways_to_look(self, program: str) -> tuple[str, str, str]:
        """The stack's own commands."""
        home = f"--home {self.stack.layout.home}"
        return f"{program} status {home}", f"{program} logs routing {home}", f"{program} down --wipe {home}"

    @property
    def _mark(self) -> str:
        return f"waystation={self.stack.layout.home}/{LABORATORY}"

    def _start_laboratory(self) -> None:
        """On the stack's SMTP port, as one of the stack's processes."""
        stack, port_file = self.stack, self.record / "port"
        listen = ["--port", str(stack.port("smtp")), "--record", str(self.record), "--port-file", str(port_file)]
        arguments = [sys.executable, "-X", self._mark, "-m", "waystation.laboratory", *listen]
        command = Command(arguments, self._mark, dict(os.environ), checkout_folder())
        Registry(stack.layout.run).write(spawn(LABORATORY, command, stack.layout.log(LABORATORY)))
        wait_for(port_file.exists, f"the SMTP laboratory listens on {HOST}:{stack.port('smtp')}")


class DockerStage:
    """A compose project of its own, on free ports, beside whatever else runs; the laboratory is a container, too."""

    def __init__(self, stack: ComposeStack) -> None:
        self.stack = stack

    @property
    def record(self) -> Path:
        """A folder of the stack's home, mounted into the laboratory."""
        return self.stack.layout.home / LABORATORY

    def clear(self) -> None:
        """Remove an earlier demo's containers and volumes; images stay."""
        require_a_demos_home(self.record)
        self.stack.down(wipe=True)
        empty(self.record)

    def build(self) -> None:
        """`docker compose up`, images built first."""
        user = f"{os.getuid()}:{os.getgid()}"
        if os.getuid() == 0:  # no container of ours runs as root: the record is given to the images' account
            user = f"{IMAGE_USER}:{IMAGE_USER}"
            os.chown(self.record, IMAGE_USER, IMAGE_USER)
        laboratory = {"WAYSTATION_LABORATORY_RECORD": str(self.record), "WAYSTATION_LABORATORY_USER": user}
        self.stack.up(extra_env={**ROUTING_ENVIRONMENT, **laboratory, "COMPOSE_PROFILES": LABORATORY})
        wait_for((self.record / "port").exists, "the SMTP laboratory listens")

    def restart_routing(self) -> None:
        """Start its container again."""
        self.stack.start_service("routing")

    def take_down(self) -> None:
        """Remove containers and volumes."""
        self.stack.down(wipe=True)

    def ways_to_look(self, program: str) -> tuple[str, str, str]:  # noqa: ARG002  the interface's
        """Docker's own commands."""
        compose = f"docker compose --project-name {self.stack.project}"
        return f"{compose} ps --all", f"{compose} logs routing", f"{compose} down --volumes"


def require_a_demos_home(record: Path) -> None:
    """Refuse a folder that holds something else than an earlier demo.

    Raises:
        CommandError: it does.
    """
    home = record.parent
    if home.exists() and any(home.iterdir()) and not record.is_dir():
        raise CommandError(
            f"{home} holds something that is not an earlier demo; the demo begins by wiping its folder",
            "name another one: waystation demo --home FOLDER",
        )


def empty(record: Path) -> None:
    """Make the record's folder, without what an earlier demo left in it."""
    for path in record.glob("*"):
        path.unlink()
    record.mkdir(parents=True, exist_ok=True)
