"""The `waystation` command of an installation without the stack: it verifies, and says how to get the rest."""

from __future__ import annotations

import typer

from waystation.proof.access_log import verify_log
from waystation.proof.command import verify_file

app = typer.Typer(
    name="waystation",
    help="Verifies proofs with public keys alone. For all other commands install waystation[stack].",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("verify")(verify_file)
_vault = typer.Typer(help="The vault's access log.", no_args_is_help=True)
_vault.command("verify-log")(verify_log)
app.add_typer(_vault, name="vault")


@_vault.callback()
def _of_the_vault() -> None:
    """Keep `verify-log` a command of its own, as it is where the stack is installed."""


@app.callback()
def _only_verify() -> None:
    """Keep `verify` a command of its own, as it is where the stack is installed."""
