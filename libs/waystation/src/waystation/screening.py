"""`waystation screen`, `replay` and the file commands of `policy`: moderation's own command in the place of this one.

The command does not import a service; it becomes the service's program, so that what is tried is what runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import typer

from waystation.errors import CommandError
from waystation.operator import ServiceClient
from waystation.output import Output
from waystation.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import NoReturn

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def screen(context: typer.Context) -> None:
    """Judge messages without any service: JSON Lines on standard input, or mail files (--eml). See --help."""
    become("screen", context.args)


def replay(context: typer.Context) -> None:
    """Reach a verdict again: of a message by its id, of a sample (--sample N), or from a file. See --help.

    By id or as a sample the running service does it: from the features that the verdict kept, and these from the
    content while that is kept. It ends with 1 when anything differs.
    """
    home, given = home_in(context.args)
    arguments = [one for one in given if one != "--json"]
    output = Output("--json" in given)
    if arguments[:1] == ["--sample"]:
        count = arguments[1] if len(arguments) > 1 else "200"
        if not count.isdecimal():
            raise CommandError(f"--sample {count} is no number", "say how many verdicts to reach again: --sample 200")
        _tell(output, _asked(home, f"/v1/replays?sample={count}"))
    elif len(arguments) == 1 and _is_id(arguments[0]):
        _tell(output, _asked(home, f"/v1/verdicts/{arguments[0]}/replay"))
    else:
        become("replay", given)


def home_in(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the folder that `--home` names among arguments that are passed on, and the others.

    Raises:
        CommandError: it names none.
    """
    home: Path | None = None
    others: list[str] = []
    left = iter(arguments)
    for one in left:
        if one != "--home" and not one.startswith("--home="):
            others.append(one)
        elif folder := one.removeprefix("--home=") if "=" in one else next(left, ""):
            home = Path(folder)
        else:
            raise CommandError("--home names no folder", "give it as --home DIR")
    return home, others


def _asked(home: Path | None, path: str) -> Any:
    with ServiceClient(Stack.open(home)) as client:
        return client.post("moderation", path)


def _tell(output: Output, answer: Any) -> None:
    output.show(answer, lambda: "\n".join(_lines(answer)))
    if answer.get("outcome") == "differs" or answer.get("differing"):
        raise typer.Exit(1)


def _lines(answer: Any) -> Iterator[str]:
    for one in [answer] if "outcome" in answer else answer["differing"]:
        yield f"{one['message_id']}  {one['outcome']}  content {one['content']}  {one['policy']}"
        yield from (f"  {difference}" for difference in one["differences"])
    if "verdicts" in answer:
        counts = {**answer["outcomes"], **{f"content {name}": n for name, n in answer["contents"].items()}}
        yield f"{answer['verdicts']} verdicts: " + ", ".join(f"{name} {count}" for name, count in counts.items())


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def become(command: str, arguments: list[str], environment: Mapping[str, str] | None = None) -> NoReturn:
    """Replace this process by moderation's command with the arguments as they were typed."""
    sys.stdout.flush()
    call = [sys.executable, "-m", "moderation.command", command, *arguments]
    os.execve(sys.executable, call, dict(os.environ if environment is None else environment))  # noqa: S606
