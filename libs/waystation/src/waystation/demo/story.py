"""How the demo tells what happens: acts with a heading, sentences, tables; nothing while it answers in JSON."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from waystation.output import ConsoleReport, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType
    from rich.table import Table

WIDTH_MAX = 132
WIDTH_WITHOUT_TERMINAL = 132
INDENT = 3


class Story:
    """Tells a person, on standard output. Also hears what the stack does, as its report."""

    def __init__(self, *, silent: bool = False) -> None:
        width = None if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL
        self._console = Console(highlight=False, quiet=silent, width=width)
        self._console.width = min(self._console.width, WIDTH_MAX)
        self._bar = ConsoleReport(silent=silent)
        self._acts = 0
        self._gap_is_due = False

    def act(self, title: str) -> None:
        """Begin an act."""
        self._acts += 1
        self._gap_is_due = False
        self._console.print(f"\n[bold cyan]{self._acts}  {escape(title)}[/]")

    def say(self, text: str) -> None:
        """A sentence or two."""
        self._gap()
        self._indented(Text(text))

    def ask(self, command: str) -> None:
        """A command that a reader can type himself."""
        self._gap()
        self._console.print(f"{' ' * INDENT}[dim]$ {escape(command)}[/]", soft_wrap=True)

    def show(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table."""
        self.show_table(table(columns, rows))

    def show_table(self, drawn: Table) -> None:
        """A table that is drawn already."""
        drawn.title = None
        self._console.print()
        self._indented(drawn)
        self._gap_is_due = True

    def judge(self, name: str, text: str, *, good: bool) -> None:
        """The result of a check."""
        self._gap()
        mark = "[bold green]holds[/]" if good else "[bold red]BROKEN[/]"
        self._console.print(f"{' ' * INDENT}{mark}  {escape(name):9} {escape(text)}", soft_wrap=True)

    def _gap(self) -> None:
        """One empty line behind a table, if something else than a heading follows."""
        if self._gap_is_due:
            self._console.print()
        self._gap_is_due = False

    def _indented(self, what: RenderableType) -> None:
        """Print with a margin and without the blanks that fill a line up."""
        with self._console.capture() as captured:
            self._console.print(what, width=self._console.width - INDENT)
        for line in captured.get().splitlines():
            self._console.out(f"{' ' * INDENT}{line.rstrip()}".rstrip(), highlight=False)

    # What the stack reports

    def step(self, text: str) -> None:
        """A step of the stack."""
        self._console.print(f"{' ' * INDENT}[dim]{escape(text)}[/]", soft_wrap=True)

    def begin(self, total_bytes: int) -> None:
        """A download begins."""
        self._bar.begin(total_bytes)

    def advance(self, count_bytes: int) -> None:
        """It goes on."""
        self._bar.advance(count_bytes)

    def end(self) -> None:
        """It ended."""
        self._bar.end()
