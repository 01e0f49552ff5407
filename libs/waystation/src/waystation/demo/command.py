"""`waystation demo`: builds the stage, plays the acts, checks, and takes everything down again."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer

from waystation.demo.acts import ACTS, Play, reckoning
from waystation.demo.messages import load_script
from waystation.demo.road import Road
from waystation.demo.stage import DOCKER_PROJECT, DockerStage, LocalStage
from waystation.demo.story import Story
from waystation.ledger import as_document
from waystation.operator import ServiceClient
from waystation.output import JsonFlag, Output
from waystation.stack import Stack, default_home
from waystation.stack.compose import PORTS, ComposeStack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from waystation.demo.acts import Result
    from waystation.demo.stage import Stage

HTTP_TIMEOUT_SECONDS = 30.0
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

DemoHome = Annotated[
    Path | None,
    typer.Option("--home", help="A folder for the demo's own stack; wiped first.", show_default=".waystation/demo"),
]


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running, to look around.")] = False,
    docker: Annotated[bool, typer.Option("--docker", help="Everything in containers, by docker compose.")] = False,
    home: DemoHome = None,
    as_json: JsonFlag = False,
) -> None:
    """Watch a hundred messages go down the whole road while things go wrong; exit status 1 when a check fails."""
    story = Story(silent=as_json)
    stage = (
        _docker_stage(home, story) if docker else LocalStage(Stack.open(home or default_home() / "demo", report=story))
    )
    with _interruptible():
        stage.clear()
        begun = time.monotonic()
        with _everything_down_afterwards(stage, story, keep=keep):
            play, result = _play(stage, story)
            seconds = time.monotonic() - begun
            _verdict_on_itself(story, result, seconds)
            Output(as_json).show(_document(play, result, seconds), lambda: "") if as_json else None
            if keep:
                _ways_to_look_around(story, stage, play)
    if not all(check.holds for check in result.checks):
        raise typer.Exit(1)


def _docker_stage(home: Path | None, story: Story) -> DockerStage:
    place = home or default_home() / "demo-docker"
    free = dict.fromkeys(PORTS, 0)
    return DockerStage(ComposeStack.open(place, project=DOCKER_PROJECT, ports=free, report=story))


def _play(stage: Stage, story: Story) -> tuple[Play, Result]:
    story.act("A stack of its own: Kafka, PostgreSQL, five services, an SMTP server that misbehaves on demand")
    stage.build()
    story.say(f"Everything runs for {stage.stack.layout.home}; nothing of it listens beyond this machine.")
    with ServiceClient(stage.stack) as operator, httpx.Client(timeout=HTTP_TIMEOUT_SECONDS, trust_env=False) as http:
        play = Play(Road(stage, operator, http), load_script(), story)
        for act in ACTS:
            act(play)
        return play, reckoning(play)


def _verdict_on_itself(story: Story, result: Result, seconds: float) -> None:
    broken = [check.name for check in result.checks if not check.holds]
    if broken:
        story.say(f"The demo FAILED after {seconds:.0f} s: {', '.join(broken)} did not hold.")
    else:
        story.say(f"Nothing lost, nothing twice, nothing altered. {seconds:.0f} s from the empty folder to here.")


def _ways_to_look_around(story: Story, stage: Stage, play: Play) -> None:
    program, home = sys.argv[0], f"--home {stage.stack.layout.home}"
    status, logs, down = stage.ways_to_look(program)
    story.act("Everything is left running")
    for command in (
        status,
        f"{program} ledger {home}",
        f"{program} doubt list {home}",
        f"{program} trace {play.road.sent[0].id} {home}",
        logs,
        down,
    ):
        story.ask(command)
    story.say(f"What the SMTP server has seen, a line of JSON a mail: {stage.record}/mails.jsonl")


def _document(play: Play, result: Result, seconds: float) -> dict[str, Any]:
    messages = [
        {
            "id": one.id,
            "key": one.message.key,
            "wave": one.message.wave,
            "account": one.message.business,
            "digest": one.digest,
            **asdict(result.fates[one.id]),
        }
        for one in play.road.sent
    ]
    checks = [{**asdict(check), "holds": check.holds} for check in result.checks]
    return {
        "seconds": round(seconds, 1),
        "checks": checks,
        "ledger": as_document(result.ledger),
        "resolved": play.resolved,
        "messages": messages,
    }


@contextlib.contextmanager
def _everything_down_afterwards(stage: Stage, story: Story, *, keep: bool) -> Iterator[None]:
    """Take the stack down at the end, on an error and on Ctrl-C; with `keep`, only on those."""
    try:
        yield
    except BaseException:
        _take_down(stage, story)
        raise
    if not keep:
        _take_down(stage, story)


def _take_down(stage: Stage, story: Story) -> None:
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    story.say("")
    stage.take_down()
    story.say(
        f"Everything is down. Logs and the laboratory's record stay in {stage.stack.layout.home} until the next demo."
        " To look around while it runs: waystation demo --keep"
    )


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the demo in the same order as Ctrl-C."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
