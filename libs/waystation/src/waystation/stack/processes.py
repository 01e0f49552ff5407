"""Processes of a stack: started in a session of their own, known by record, ended only when they are ours.

A process is ours when its id, its start time and a marker among its arguments all agree. The record is written after
the start, so a command killed in between leaves a process without one: `adopt` recovers it by its marker.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from waystation.errors import CommandError
from waystation.stack.layout import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

POLL_SECONDS = 0.05
START_TIME_TOLERANCE_SECONDS = 2.0
"""Start times are told relative to the boot, whose own time follows corrections of the clock."""
SHELL_LINE = 'exec "$@" >&2 & echo $!'
"""Starts in the background and prints the process id: nobody's child afterwards, so never a zombie of ours."""


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process as it was started."""

    name: str
    pid: int
    created: float
    marker: str

    def process(self) -> psutil.Process | None:
        """The live process, or None when it ended or its id now belongs to somebody else."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < START_TIME_TOLERANCE_SECONDS
            alive = process.status() != psutil.STATUS_ZOMBIE
            arguments = process.cmdline()  # empty while the process exchanges itself for the next program
        except psutil.Error:
            return None
        return process if same and alive and (not arguments or self.marker in arguments) else None

    @property
    def has_ended(self) -> bool:
        """Whether all of it ended: a killed process is a zombie before its last thread has closed its sockets."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.created) >= START_TIME_TOLERANCE_SECONDS:
                return True
            return process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
        except psutil.NoSuchProcess:
            return True

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self.process() is not None


@dataclass(frozen=True, slots=True)
class Command:
    """What to start: program and arguments, one of which is the marker that no other process has."""

    arguments: Sequence[str]
    marker: str
    environment: Mapping[str, str]
    folder: Path
    user: int | None = None
    """Run as this user id; only root may ask for it."""


def spawn(name: str, command: Command, log: Path) -> ProcessRecord:
    """Start a process that outlives this one, its output appended to `log`."""
    assert command.marker in command.arguments
    account: dict[str, Any] = run_as(command.user)
    with log.open("ab") as output:
        shell = subprocess.run(  # noqa: S603
            ["/bin/sh", "-c", SHELL_LINE, "sh", *command.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            env=dict(command.environment),
            cwd=command.folder,
            start_new_session=True,
            check=True,
            **account,
        )
    pid = int(shell.stdout)
    try:
        return ProcessRecord(name, pid, psutil.Process(pid).create_time(), command.marker)
    except psutil.NoSuchProcess as error:
        raise CommandError(f"{name} ended as soon as it was started", f"look into {log}") from error


def run_as(user: int | None) -> dict[str, Any]:
    """What subprocess must be told to run as another user and nothing but that user."""
    return {} if user is None else {"user": user, "group": user, "extra_groups": []}


class Registry:
    """The records of a stack's processes: one small file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, record: ProcessRecord) -> None:
        """Remember a process."""
        write_atomically(self._file(record.name), json.dumps(asdict(record)))

    def read(self, name: str) -> ProcessRecord | None:
        """The record of a process that may have ended; None when there is none, or it is damaged."""
        try:
            return ProcessRecord(**json.loads(self._file(name).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def running(self, name: str) -> ProcessRecord | None:
        """The record of a live process, else None."""
        record = self.read(name)
        return record if record is not None and record.is_running else None

    def forget(self, name: str) -> None:
        """Drop a record."""
        self._file(name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """The names of all records, live or not, sorted."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def adopt(self, markers: Mapping[str, str]) -> list[str]:
        """Find live processes that carry a marker (marker -> name) but have no record; returns their names."""
        adopted = []
        for process in psutil.process_iter(["cmdline", "status"]):
            arguments = process.info["cmdline"] or []
            marker = next((argument for argument in arguments if argument in markers), None)
            if marker is None or arguments[0] == "/bin/sh" or self.running(markers[marker]):
                continue
            if process.info["status"] != psutil.STATUS_ZOMBIE and not _is_child_of_same(process, marker):
                self.write(ProcessRecord(markers[marker], process.pid, process.create_time(), marker))
                adopted.append(markers[marker])
        return adopted

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _is_child_of_same(process: psutil.Process, marker: str) -> bool:
    """PostgreSQL's children may show their parent's arguments for an instant after the fork."""
    try:
        parent = process.parent()
        return parent is not None and marker in parent.cmdline()
    except psutil.Error:
        return False


def signal_and_wait(record: ProcessRecord, number: signal.Signals, timeout_seconds: float) -> bool:
    """Send a signal to a process of ours and wait for its end; true when it ended in time."""
    process = record.process()
    if process is not None:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    return wait_until(lambda: record.has_ended, timeout_seconds)


def stop(record: ProcessRecord, signals: Iterable[tuple[signal.Signals, float]]) -> None:
    """End a process: each signal in turn, each with its time in seconds, SIGKILL last.

    Raises:
        CommandError: it lives even after SIGKILL.
    """
    for number, timeout_seconds in (*signals, (signal.SIGKILL, 10.0)):
        if signal_and_wait(record, number, timeout_seconds):
            return
    raise CommandError(
        f"{record.name} (pid {record.pid}) does not end", "it may hang in the kernel: look at `ps`, `dmesg`"
    )


def wait_until(condition: Callable[[], bool], timeout_seconds: float, poll_seconds: float = POLL_SECONDS) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_seconds)
    return True
