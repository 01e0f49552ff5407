"""`waystation topics plan | apply`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from common.kafka.topics import Topic, TopicRegistry, load_registry
from waystation import topics
from waystation.errors import CommandError
from waystation.output import HomeOption, JsonFlag, Output, table
from waystation.stack import Stack, checkout_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(help="Topics and rights, as deploy/topics.yaml declares them.", no_args_is_help=True)


@app.command()
def plan(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show how the cluster differs from the registry; exit status 2 when it does."""
    changes = topics.plan(registry(), topics.observe(Stack.open(home).kafka_admin()))
    _show(changes, Output(as_json))
    if changes:
        raise typer.Exit(2)


@app.command()
def apply(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Make the cluster equal to the registry; topics are never deleted and never shrink."""
    _show(topics.apply(Stack.open(home).kafka_admin(), registry()), Output(as_json))


@app.command(name="list")
def list_topics(as_json: JsonFlag = False) -> None:
    """Show the registry: who owns, writes and reads each topic."""
    every = registry().all_topics
    rows = [
        (topic.name, topic.partitions, _retention(topic.retention_hours), ", ".join(topic.writers), _readers(topic))
        for topic in every
    ]
    answer = [topic.model_dump(mode="json") for topic in every]
    Output(as_json).show(answer, lambda: table(("topic", "partitions", "kept", "writers", "readers"), rows))


def registry() -> TopicRegistry:
    """The checkout's topic registry.

    Raises:
        CommandError: `deploy/topics.yaml` is broken.
    """
    path = checkout_folder() / "deploy" / "topics.yaml"
    try:
        return load_registry(path)
    except ValueError as error:
        raise CommandError(f"{path} is not a topic registry: {error}", "correct the file") from error


def _show(changes: Sequence[topics.Change], output: Output) -> None:
    rows = [(change.kind, change.name, change.detail) for change in changes]
    answer = [{"kind": kind, "name": name, "detail": detail} for kind, name, detail in rows]
    output.show(answer, lambda: table(("change", "of", "detail"), rows) if rows else "no difference")


def _retention(hours: int | None) -> str:
    return "latest per key" if hours is None else f"{hours // 24} d"


def _readers(topic: Topic) -> str:
    return ", ".join(reader.group_or_none or f"{reader.principal} (whole)" for reader in topic.readers) or "operator"
