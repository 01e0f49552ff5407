"""Keeps the processes of one stack: starts and ends them, knows them again, reads what they said last."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from waystation.errors import CommandError
from waystation.stack import processes
from waystation.stack.processes import Registry

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from waystation.stack.addresses import Report
    from waystation.stack.layout import Layout
    from waystation.stack.processes import Command, ProcessRecord

END_TIMEOUT_SECONDS = 60.0
SERVERS_OWN = '"logger":"uvicorn.error"'
LAST_LINE_CHARACTERS = 300


class Supervisor:
    """The processes of one stack, by name."""

    def __init__(self, layout: Layout, report: Report) -> None:
        self._layout = layout
        self._report = report
        self._registry = Registry(layout.run)

    def spawn(self, name: str, command: Command) -> ProcessRecord:
        """Start a process; its output goes to its log."""
        record = processes.spawn(name, command, self._layout.log(name))
        self._registry.write(record)
        return record

    def read(self, name: str) -> ProcessRecord | None:
        """The record of a process that may have ended."""
        return self._registry.read(name)

    def running(self, name: str) -> ProcessRecord | None:
        """The record of a live process, else None."""
        return self._registry.running(name)

    def names(self) -> list[str]:
        """The names of all records, live or not."""
        return self._registry.names()

    def recover(self, markers: Mapping[str, str]) -> None:
        """Take over what a killed command had started without noting it down."""
        for name in self._registry.adopt(markers):
            self._report.step(f"{name} was left running by a command that was killed: taken over")

    def stop(self, name: str, signals: Sequence[tuple[signal.Signals, float]]) -> None:
        """End a process in order; SIGKILL last."""
        record = self._registry.read(name)
        if record is not None:
            processes.stop(record, signals)
            self._registry.forget(name)

    def kill(self, name: str, number: signal.Signals) -> None:
        """Send a signal that ends a process, wait until it is gone."""
        record = self.require(name)
        if not processes.signal_and_wait(record, number, END_TIMEOUT_SECONDS):
            raise CommandError(f"{name} (pid {record.pid}) lives on after {number.name}")

    def pause(self, name: str) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        process = self.require(name).process()
        if process is not None:
            process.suspend()

    def resume(self, name: str) -> None:
        """SIGCONT."""
        process = self.require(name).process()
        if process is not None:
            process.resume()

    def require(self, name: str) -> ProcessRecord:
        """The record of a process that must be running.

        Raises:
            CommandError: it is not.
        """
        record = self._registry.running(name)
        if record is None:
            raise CommandError(f"{name} does not run", "waystation status shows what does")
        return record

    def said_last(self, name: str) -> str:
        """The last line of a process's log."""
        return last_line(self._layout.log(name))


def last_line(log: Path) -> str:
    """The last line of a file that is not blank, shortened; `nothing` when there is none.

    What the server says of a failed start is passed over: the service has said the reason before.
    """
    if not log.exists():
        return "nothing"
    with log.open(encoding="utf-8", errors="replace") as file:
        lines = deque((line.strip() for line in file if line.strip()), maxlen=5)
    telling = [line for line in lines if SERVERS_OWN not in line] or lines
    return telling[-1][:LAST_LINE_CHARACTERS] if telling else "nothing"
