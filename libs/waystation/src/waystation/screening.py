"""`waystation screen`, `policy` and `replay`: moderation's own command in the place of this one.

The command does not import a service; it becomes the service's program, so that what is tried is what runs.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import typer  # noqa: TC002  typer reads the annotations at runtime

if TYPE_CHECKING:
    from typing import NoReturn

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def screen(context: typer.Context) -> None:
    """Judge messages without any service: JSON Lines on standard input, or mail files (--eml). See --help."""
    become("screen", context.args)


def policy(context: typer.Context) -> None:
    """Policies as files: check, diff, backtest, explain, features. See --help."""
    become("policy", context.args)


def replay(context: typer.Context) -> None:
    """Reach a verdict again from the features that it kept. See --help."""
    become("replay", context.args)


def become(command: str, arguments: list[str]) -> NoReturn:
    """Replace this process by moderation's command with the arguments as they were typed."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "moderation.command", command, *arguments])  # noqa: S606
