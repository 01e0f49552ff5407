"""How every command answers: readable tables for a person, one JSON document with `--json`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

WIDTH_WITHOUT_TERMINAL = 240

JsonFlag = Annotated[bool, typer.Option("--json", help="Answer with one JSON document.")]
HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="The stack's folder.", envvar="WAYSTATION_HOME", show_default=".waystation here"),
]


class Output:
    """One command's answer: `show` once at the end, `say` on the way (nothing with `--json`)."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL)

    def say(self, text: str) -> None:
        """A line for a person."""
        if not self.as_json:
            self.console.print(escape(text), soft_wrap=True)

    def show(self, answer: Any, render: Callable[[], Any]) -> None:
        """The answer: as JSON (dataclasses become objects), or what `render` returns (a table, a text)."""
        if self.as_json:
            sys.stdout.write(json.dumps(answer, default=_plain, ensure_ascii=False, indent=2) + "\n")
        else:
            answered = render()
            self.console.print(answered, soft_wrap=isinstance(answered, str), markup=not isinstance(answered, str))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> Table:
    """A plain table; cells are shown as they are, None as nothing."""
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    return drawn


class ConsoleReport:
    """Progress of a stack on standard error: a line per step, a bar per download."""

    def __init__(self, *, silent: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=silent, soft_wrap=True)
        self._bar: Progress | None = None

    def step(self, text: str) -> None:
        """Print a step."""
        self._console.print(escape(text))

    def begin(self, total_bytes: int) -> None:
        """Show the bar."""
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bar = Progress(*columns, console=self._console)
        self._bar.add_task("downloading Kafka", total=total_bytes)
        self._bar.start()

    def advance(self, count_bytes: int) -> None:
        """Move the bar."""
        if self._bar:
            self._bar.advance(self._bar.task_ids[0], count_bytes)

    def end(self) -> None:
        """Close the bar."""
        if self._bar:
            self._bar.stop()
            self._bar = None


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)
