"""Running a command: expected errors are told without a traceback."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from waystation.errors import CommandError

if TYPE_CHECKING:
    import typer


def run(commands: typer.Typer) -> None:
    """Run the command; what was expected to go wrong is told without a traceback, with what to do next."""
    try:
        commands()
    except CommandError as error:
        tell(error, as_json="--json" in sys.argv)
        raise SystemExit(error.exit_status) from None
    except OSError as error:
        if error.filename is None:
            raise
        what = CommandError(f"{error.filename}: {error.strerror}", "name another file, or look at its permissions")
        tell(what, as_json="--json" in sys.argv)
        raise SystemExit(what.exit_status) from None
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
