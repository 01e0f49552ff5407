"""The whole system as containers: `docker compose` on the checkout's `docker-compose.yml`.

The folder of such a stack holds what every stack's folder holds for those outside: ports, the operator's key,
passwords. Its data and the rest of its secrets are in volumes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from waystation.errors import CommandError
from waystation.stack import ports
from waystation.stack.addresses import Report, Silence, StackAddresses, is_ready
from waystation.stack.layout import HOST, KAFKA, POSTGRES, SERVICES, SMTP_PORT, Layout, StackState, checkout_folder
from waystation.stack.processes import wait_until
from waystation.stack.stack import ComponentStatus
from waystation.stack.supervisor import LAST_LINE_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PROJECT = "waystation"
PORTS = {
    KAFKA: 18092,
    POSTGRES: 18432,
    "ingestion": 18100,
    "moderation": 18101,
    "vault": 18102,
    "routing": 18103,
    "enforcement": 18104,
    SMTP_PORT: 18025,
}
"""Published on loopback where WAYSTATION_PORT_<NAME> does not say otherwise; docker-compose.yml has the same."""
JOBS = ("secrets", "topics", "databases")
UP_TIMEOUT_SECONDS = 300
READY_TIMEOUT_SECONDS = 120.0
STATES = {"running": "running", "paused": "running", "restarting": "starting", "created": "stopped"}


class ComposeStack(StackAddresses):
    """One compose project; opening it starts and creates nothing."""

    def __init__(self, layout: Layout, report: Report, project: str, chosen: Mapping[str, int]) -> None:
        super().__init__(layout, report)
        self.project = project
        self._chosen = dict(chosen)
        self._extra: dict[str, str] = {}

    @classmethod
    def open(
        cls,
        home: Path | None = None,
        *,
        project: str = PROJECT,
        ports: Mapping[str, int] | None = None,
        report: Report | None = None,
    ) -> ComposeStack:
        """A handle on a project.

        Args:
            home: the folder that is given the operator's share; `.waystation/docker` in the checkout when left out.
            project: its name; containers, volumes and network carry it.
            ports: instead of those in the environment or in the folder (0 means: choose a free one).
            report: hears of progress.
        """
        layout = Layout((home or checkout_folder() / ".waystation" / "docker").expanduser().resolve())
        return cls(layout, report or Silence(), project, ports or {})

    # Up and down

    def up(
        self, services: Sequence[str] = (), extra_env: Mapping[str, str] | None = None, *, build: bool = True
    ) -> None:
        """Build, start what does not run, wait until all is ready; the jobs run again.

        Args:
            services: these and what they need; everything but the laboratory when empty.
            extra_env: settings for the containers, kept for later starts by this handle.
            build: build the images first; unchanged code takes seconds.

        Raises:
            CommandError: no engine, a port is taken, or a part did not become ready; it says which, and its last words.
        """
        self._require_engine()
        self._extra.update(extra_env or {})
        self._choose_ports()
        options = ["--detach", "--wait", "--wait-timeout", str(UP_TIMEOUT_SECONDS), *(["--build"] if build else [])]
        done = self._compose("up", *options, *services, check=False)
        if done.returncode != 0:
            raise self._not_up(done.stderr)
        self._fetch_share()

    def down(self, *, wipe: bool = False) -> list[str]:
        """Stop and remove the containers; with `wipe` volumes (data, keys) and the folder go too."""
        self._require_engine()
        running = [part.name for part in self.status() if part.state != "stopped"]
        self._compose("down", "--remove-orphans", *(["--volumes"] if wipe else []))
        if wipe:
            for path in (self.layout.secrets, self.layout.trusted):
                shutil.rmtree(path, ignore_errors=True)
            self.layout.state.unlink(missing_ok=True)
        return running

    def status(self) -> list[ComponentStatus]:
        """Kafka, PostgreSQL and the services with what they do now."""
        found = {one["Service"]: one for one in self._containers()}
        return [self._status(name, found.get(name)) for name in (KAFKA, POSTGRES, *SERVICES)]

    # Services

    def start_service(self, service: str, *, wait: bool = True) -> None:
        """Start a service's container again, by default waiting until it is ready."""
        self._compose("up", "--detach", "--no-deps", service)
        if wait:
            self.wait_ready(service)

    def stop_service(self, service: str) -> None:
        """SIGTERM; SIGKILL after 30 s."""
        self._compose("stop", service)

    def kill_service(self, service: str) -> None:
        """`docker compose kill`: SIGKILL, and nobody starts it again by itself."""
        self._compose("kill", service)

    def wait_ready(self, service: str, timeout_seconds: float = READY_TIMEOUT_SECONDS) -> None:
        """Wait until a service answers 200 on /readyz."""
        if not wait_until(lambda: is_ready(self.url(service)), timeout_seconds, 0.1):
            raise CommandError(f"{service} is not ready; it said last: {self._said_last(service)}", self._see(service))

    def logs(self, service: str | None, lines: int, *, follow: bool) -> int:
        """Show logs on this terminal; returns the exit status."""
        options = ["--tail", str(lines), *(["--follow"] if follow else []), *([service] if service else [])]
        return subprocess.run(  # noqa: S603
            [*self._command("logs"), *options], env=self._environment(), cwd=checkout_folder(), check=False
        ).returncode

    # Inside

    def _require_engine(self) -> None:
        if shutil.which("docker") is None:
            raise CommandError("there is no docker command", "install Docker with compose 2.20 or newer")
        done = self._run(["docker", "info", "--format", "{{.ServerVersion}}"])
        if done.returncode != 0:
            raise CommandError(
                "no Docker engine answers", "start it, or check DOCKER_HOST and your rights on its socket"
            )
        if self._run(["docker", "compose", "version", "--short"]).returncode != 0:
            raise CommandError("docker has no compose plugin", "install docker compose 2.20 or newer")

    def _choose_ports(self) -> None:
        """Ports given, else those of the environment, else the stack's own, else the usual; taken ones are named."""
        state = StackState.load(self.layout.state) or StackState.new("compose")
        wanted = {name: self._wanted_port(name, state) for name in PORTS}
        free = [name for name, port in wanted.items() if port == 0]
        wanted |= ports.choose(free, wanted.values())
        published = self._published()
        for name, port in wanted.items():
            if port not in published:
                _require_free(name, port)
        self.layout.home.mkdir(parents=True, exist_ok=True)
        state.with_ports(wanted).save(self.layout.state)

    def _wanted_port(self, name: str, state: StackState) -> int:
        if name in self._chosen:
            return state.ports.get(name, 0) or self._chosen[name]
        text = os.environ.get(_port_variable(name), "")
        if text and (not text.isdecimal() or not 0 < int(text) < 65_536):
            raise CommandError(f"{_port_variable(name)} is {text!r}", "give it a port number")
        return int(text) if text else state.ports.get(name, PORTS[name])

    def _published(self) -> set[int]:
        """The ports that this project's running containers hold."""
        return {
            publisher["PublishedPort"]
            for one in self._containers()
            if one["State"] in {"running", "paused", "restarting"}
            for publisher in one.get("Publishers") or []
        }

    def _fetch_share(self) -> None:
        """Take the operator's keys and passwords out of their volume."""
        self.layout.secrets.mkdir(mode=0o700, exist_ok=True)
        for folder in (self.layout.secrets, self.layout.trusted):
            self._compose("cp", f"secrets:/secrets/operator/{folder.name}/.", str(folder))

    def _status(self, name: str, container: Mapping[str, Any] | None) -> ComponentStatus:
        port = self.port(name) if self.exists else None
        url = f"{HOST}:{port}" if name in {KAFKA, POSTGRES} else f"http://{HOST}:{port}"
        state = _state(container)
        if state == "running" and name in SERVICES and not is_ready(url):
            state = "starting"
        return ComponentStatus(name, state, None, port, url if port else "")

    def _containers(self) -> list[dict[str, Any]]:
        done = self._compose("ps", "--all", "--format", "json")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def _not_up(self, said: str) -> CommandError:
        """What went wrong, in the words of the part that failed."""
        failed = [
            one["Service"]
            for one in self._containers()
            if one.get("Health") == "unhealthy"
            or one["State"] in {"restarting", "dead"}
            or (one["State"] == "exited" and one["ExitCode"] != 0)
        ]
        words = "; ".join(f"{name} said last: {self._said_last(name)}" for name in failed)
        last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "no reason given")
        return CommandError(f"docker compose up failed: {last}" + (f"\n{words}" if words else ""), self._see(*failed))

    def _said_last(self, service: str) -> str:
        done = self._compose("logs", "--no-log-prefix", "--no-color", "--tail", "8", service, check=False)
        lines = [line.replace("\x1b[2K", "").strip() for line in done.stdout.splitlines()]
        return " | ".join([line for line in lines if line][-3:])[-LAST_LINE_CHARACTERS:] or "nothing"

    def _see(self, *services: str) -> str:
        return f"see all: docker compose --project-name {self.project} logs {' '.join(services)}"

    def _compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = self._run([*self._command(*arguments)])
        if check and done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise CommandError(f"docker compose {arguments[0]} failed: {last[0]}")
        return done

    def _command(self, *arguments: str) -> list[str]:
        return ["docker", "compose", "--project-name", self.project, "--progress", "quiet", *arguments]

    def _run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # noqa: S603
            command, env=self._environment(), cwd=checkout_folder(), capture_output=True, text=True, check=False
        )

    def _environment(self) -> dict[str, str]:
        state = StackState.load(self.layout.state)
        chosen = {_port_variable(name): str(port) for name, port in state.ports.items()} if state else {}
        return {**os.environ, **chosen, **self._extra}


def _port_variable(name: str) -> str:
    return f"WAYSTATION_PORT_{name.upper()}"


def _require_free(name: str, port: int) -> None:
    if not ports.is_free(port):
        raise CommandError(
            f"port {port}, wanted for {name}, is taken by {ports.owner(port)}",
            f"stop that process, or choose another port: {_port_variable(name)}=NUMBER",
        )


def _state(container: Mapping[str, Any] | None) -> str:
    if container is None:
        return "stopped"
    if container["State"] == "exited":
        return "stopped" if container["ExitCode"] in {0, 143} else "died"
    return STATES.get(container["State"], "died")
