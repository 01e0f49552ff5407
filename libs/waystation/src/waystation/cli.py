"""The `waystation` command: each module of `commands` brings its own, one line each here."""

from __future__ import annotations

import os

import typer

from waystation import accounts, complaints, doubt, kafka_tools, ledger, lists, policies, review, screening, send, trace
from waystation.commands import (
    backup_commands,
    dlq_commands,
    keys_commands,
    provision_commands,
    stack_commands,
    topics_commands,
    vault_commands,
    verify_commands,
)
from waystation.demo.command import demo
from waystation.demo.erasure import demo_vault
from waystation.running import run

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
app.command()(backup_commands.start)
app.command()(backup_commands.stop)
app.command()(backup_commands.backup)
app.command()(backup_commands.restore)
app.command()(demo)
app.command("demo-vault")(demo_vault)
app.command()(trace.trace)
app.command()(verify_commands.verify)
app.command()(ledger.ledger)
app.add_typer(doubt.app, name="doubt")
app.add_typer(accounts.app, name="accounts")
app.command()(send.send)
app.command(context_settings=screening.PASSED_ON)(screening.screen)
app.add_typer(policies.app, name="policy")
app.command(context_settings=screening.PASSED_ON)(screening.replay)
app.add_typer(review.app, name="review")
app.add_typer(lists.app, name="lists")
app.add_typer(keys_commands.app, name="keys")
app.add_typer(topics_commands.app, name="topics")
app.add_typer(dlq_commands.app, name="dlq")
app.add_typer(complaints.app, name="complaints")
app.add_typer(complaints.standing_app, name="standing")
app.add_typer(vault_commands.app, name="vault")
app.add_typer(kafka_tools.app, name="kafka")
app.add_typer(provision_commands.app, name="provision")


def main() -> None:
    """Run the command."""
    # Containers that a command starts outlive it, as its processes do: testcontainers' reaper would end them.
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    run(app)
