"""What processes have used, and the server's connections among PostgreSQL's."""

from __future__ import annotations

import psutil

from waystation.stack.layout import HOST


def usage(pid: int, *, children: bool) -> tuple[float, int]:
    """Return CPU seconds and resident bytes of a process; with ended children where it is a server of processes."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    seconds, resident = times.user + times.system, process.memory_info().rss
    if not children:
        return seconds, resident
    seconds += times.children_user + times.children_system
    for member in process.children(recursive=True):
        try:
            spent, memory = member.cpu_times(), member.memory_info()
        except psutil.NoSuchProcess:
            continue
        seconds += spent.user + spent.system
        resident += max(0, memory.rss - memory.shared)
    return seconds, resident


def connections(pid: int) -> dict[int, float]:
    """Return the CPU seconds of each process of PostgreSQL that serves a connection; what the others do is upkeep."""
    seconds = {}
    for member in psutil.Process(pid).children():
        try:
            title, spent = " ".join(member.cmdline()), member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        if f" {HOST}(" in title:
            seconds[member.pid] = spent.user + spent.system
    return seconds
