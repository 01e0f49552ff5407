"""`waystation up | down | status | logs | migrate`."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from waystation.errors import CommandError
from waystation.output import ConsoleReport, HomeOption, JsonFlag, Output, table
from waystation.stack import ComponentStatus, Layout, Stack, StackState, default_home
from waystation.stack import ports as stack_ports
from waystation.stack.compose import ComposeStack

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLLOW_SECONDS = 0.2

PortOption = Annotated[
    list[str] | None,
    typer.Option("--port", help="NAME=NUMBER or NAME=auto, repeatable; also WAYSTATION_PORTS, by commas."),
]

OtlpOption = Annotated[
    str | None,
    typer.Option("--otlp", help="Send traces and metrics to this collector, as http://HOST:4318 (OTLP over HTTP)."),
]
SampleOption = Annotated[
    float | None,
    typer.Option("--sample", min=0, max=1, help="The share of messages that is traced; 0.01 unless told otherwise."),
]
DockerFlag = Annotated[
    bool, typer.Option("--docker", help="The stack in containers (docker compose); its folder is .waystation/docker.")
]


def up(
    *,
    infra: Annotated[bool, typer.Option("--infra", help="Only Kafka and PostgreSQL, topics, databases.")] = False,
    port: PortOption = None,
    docker: DockerFlag = False,
    otlp: OtlpOption = None,
    sample: SampleOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Start Kafka, PostgreSQL and the five services; what runs already is left alone."""
    output = Output(as_json)
    composed = _composed(home, docker=docker, silent=as_json)
    if composed is not None:
        composed.up(["topics", "databases"] if infra else [], _telemetry(otlp, sample))
        output.say(f"the containers of {composed.project} are up; {composed.layout.home} has what the command needs")
        _show_status(composed, output)
        return
    given = port or [pair for pair in os.environ.get("WAYSTATION_PORTS", "").split(",") if pair]
    stack = Stack.open(home, ports=stack_ports.parse(given), report=ConsoleReport(silent=as_json))
    started = stack.up_infra() if infra else stack.up(_telemetry(otlp, sample))
    output.say(f"the stack in {stack.layout.home} is up{'' if started else ' already'}")
    _show_status(stack, output)


def down(
    wipe: Annotated[bool, typer.Option("--wipe", help="Delete data, keys and logs too.")] = False,
    docker: DockerFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Stop everything that this stack started; its data stays unless --wipe is given."""
    stack = _composed(home, docker=docker, silent=as_json) or _local(home, silent=as_json)
    stopped = stack.down(wipe=wipe)
    what = f"stopped {', '.join(stopped)}" if stopped else "nothing was running"
    removed = f", {stack.layout.home} wiped" if wipe else ""
    Output(as_json).show({"stopped": stopped, "wiped": wipe}, lambda: what + removed)


def status(docker: DockerFlag = False, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show what runs and where; exit status 3 when something does not."""
    stack = _composed(home, docker=docker) or _local(home)
    components = _show_status(stack, Output(as_json))
    if any(component.state != "running" for component in components):
        raise typer.Exit(3)


def logs(  # noqa: PLR0917  a command: typer passes its options by name
    service: Annotated[str | None, typer.Argument(help="kafka, postgres, routing, routing-2 ...")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines arrive.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 100,
    docker: DockerFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the last lines of the logs, of one process or of all."""
    composed = _composed(home, docker=docker)
    if composed is not None:
        raise typer.Exit(composed.logs(service, lines, follow=follow))
    stack = _local(home)
    files = _log_files(stack, service)
    output = Output(as_json)
    last = [(path, line) for path in files for line in _last_lines(path, lines)]
    answer = [{"process": path.stem, "line": line} for path, line in last]
    output.show(answer, lambda: None) if as_json else _print_lines(last, named=len(files) > 1)
    if follow and not as_json:
        for path, line in _new_lines(files):
            _print_lines([(path, line)], named=len(files) > 1)


def migrate(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Apply the services' new migrations to the running stack's databases."""
    stack = Stack.open(home)
    applied = stack.migrate()
    rows = [(service, name) for service, names in applied.items() for name in names]
    Output(as_json).show(applied, lambda: table(("service", "applied"), rows) if rows else "nothing to apply")


def _telemetry(otlp: str | None, sample: float | None) -> dict[str, str]:
    if otlp is not None and not otlp.startswith(("http://", "https://")):
        raise CommandError(f"--otlp {otlp} is no address", "give it as http://HOST:4318")
    asked = {"OTEL_EXPORTER_OTLP_ENDPOINT": otlp, "OTEL_TRACES_SAMPLER_ARG": None if sample is None else str(sample)}
    return {name: value for name, value in asked.items() if value is not None}


def _composed(home: Path | None, *, docker: bool, silent: bool = True) -> ComposeStack | None:
    """The stack in containers when it is asked for, or when the folder belongs to one; else None."""
    state = None if docker else StackState.load(Layout(home or default_home()).state)
    if not docker and (state is None or state.kind != "compose"):
        return None
    return ComposeStack.open(home, report=ConsoleReport(silent=silent))


def _local(home: Path | None, *, silent: bool = True) -> Stack:
    return Stack.open(home, report=ConsoleReport(silent=silent))


def _show_status(stack: Stack | ComposeStack, output: Output) -> list[ComponentStatus]:
    components = stack.status()
    rows = [(part.name, part.state, part.pid, part.url) for part in components]
    answer = {"home": stack.layout.home, "components": components}
    output.show(answer, lambda: table(("process", "state", "pid", "address"), rows))
    return components


def _log_files(stack: Stack, service: str | None) -> list[Path]:
    if service is None:
        files = sorted(stack.layout.logs.glob("*.log"))
    else:
        files = [path for path in (stack.layout.log(service), stack.layout.log(f"{service}-1")) if path.exists()][:1]
    if not files:
        have = ", ".join(path.stem for path in sorted(stack.layout.logs.glob("*.log"))) or "nothing yet"
        raise CommandError(f"there is no log of {service or 'anything'} in {stack.layout.logs}", f"there is: {have}")
    return files


def _last_lines(path: Path, count: int) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=count)]


def _new_lines(files: list[Path]) -> Iterator[tuple[Path, str]]:
    offsets = {path: path.stat().st_size for path in files}
    while True:
        for path in files:
            with path.open(encoding="utf-8", errors="replace") as file:
                file.seek(min(offsets[path], path.stat().st_size))
                for line in file:
                    yield path, line.rstrip("\n")
                offsets[path] = file.tell()
        time.sleep(FOLLOW_SECONDS)


def _print_lines(lines: list[tuple[Path, str]], *, named: bool) -> None:
    for path, line in lines:
        typer.echo(f"{path.stem:14} {line}" if named else line)
