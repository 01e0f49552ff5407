"""The `waystation` command: each module of `commands` brings its own, one line each here."""

from __future__ import annotations

import json
import sys

import typer
from rich.console import Console
from rich.markup import escape

from waystation import accounts, complaints, doubt, kafka_tools, ledger, send, trace
from waystation.commands import dlq_commands, stack_commands, topics_commands
from waystation.demo.command import demo
from waystation.errors import CommandError

app = typer.Typer(
    name="waystation",
    help="The message backbone of a contact center: local stack, topics, messages and their traces.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command()(stack_commands.up)
app.command()(stack_commands.down)
app.command()(stack_commands.status)
app.command()(stack_commands.logs)
app.command()(stack_commands.migrate)
app.command()(demo)
app.command()(trace.trace)
app.command()(ledger.ledger)
app.add_typer(doubt.app, name="doubt")
app.add_typer(accounts.app, name="accounts")
app.command()(send.send)
app.add_typer(topics_commands.app, name="topics")
app.add_typer(dlq_commands.app, name="dlq")
app.add_typer(complaints.app, name="complaints")
app.add_typer(complaints.standing_app, name="standing")
app.add_typer(kafka_tools.app, name="kafka")


def main() -> None:
    """Run the command; what was expected to go wrong is told without a traceback, with what to do next."""
    try:
        app()
    except CommandError as error:
        tell(error, as_json="--json" in sys.argv)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def tell(error: CommandError, *, as_json: bool) -> None:
    """Write an expected error to standard error."""
    if as_json:
        sys.stderr.write(json.dumps({"error": error.message, "next": error.next_step}) + "\n")
        return
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]error[/] {escape(error.message)}")
    if error.next_step:
        console.print(f"      {escape(error.next_step)}")
