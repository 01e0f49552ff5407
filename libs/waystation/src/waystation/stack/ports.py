"""Ports: chosen where free, checked before use, and named with their owner when taken."""

from __future__ import annotations

import errno
import os
import random
import socket
from typing import TYPE_CHECKING

import psutil

from waystation.errors import CommandError
from waystation.stack.layout import HOST, PORT_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

AUTO = "auto"
CHOICE = range(20_000, 32_000)
"""Below the range from which Linux takes ports for outgoing connections, so that none of those gets in between."""
RANGE_VARIABLE = "WAYSTATION_PORT_RANGE"
"""Another range, as `20000-25999`: stacks that are made at the same moment may choose the same port of one."""


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError as error:
            raise CommandError(f"port {port} needs rights this user does not have", "take one above 1023") from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def choice() -> range:
    """Return the ports to choose from.

    Raises:
        CommandError: WAYSTATION_PORT_RANGE is no range of ports.
    """
    given = os.environ.get(RANGE_VARIABLE)
    if not given:
        return CHOICE
    first, _, last = given.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last) < 65_536):
        raise CommandError(f"{RANGE_VARIABLE}={given!r} is no range of ports", "write it as 20000-25999")
    return range(int(first), int(last) + 1)


def choose(names: Iterable[str], taken: Iterable[int] = ()) -> dict[str, int]:
    """A free port for each name, none of them among `taken`."""
    avoid = set(taken)
    chosen: dict[str, int] = {}
    among = choice()
    candidates = iter(random.sample(among, len(among)))
    for name in names:
        port = next((port for port in candidates if port not in avoid and is_free(port)), None)
        if port is None:
            raise CommandError(
                f"no free port between {among[0]} and {among[-1]}", "stop other stacks: waystation down --home DIR"
            )
        chosen[name] = port
    return chosen


def owner(port: int) -> str:
    """Who listens on a port, as `pid 123 (command line)`."""
    try:
        for link in psutil.net_connections("tcp"):
            if link.status == psutil.CONN_LISTEN and link.laddr and link.pid and tuple(link.laddr)[1:] == (port,):
                return f"pid {link.pid} ({' '.join(psutil.Process(link.pid).cmdline())[:120]})"
    except psutil.Error:
        pass
    return "a process of another user"


def require_free(ports: Mapping[str, int]) -> None:
    """Refuse to start when one of the ports is taken.

    Raises:
        CommandError: names the port and its owner.
    """
    for name, port in ports.items():
        if not is_free(port):
            raise CommandError(
                f"port {port}, wanted for {name}, is taken by {owner(port)}",
                f"stop that process, or choose another port: waystation up --port {name}={AUTO}",
            )


def parse(pairs: Iterable[str]) -> dict[str, int]:
    """Ports given as `name=number`, from options or from WAYSTATION_PORTS; `auto` becomes 0, which means: choose anew.

    Raises:
        CommandError: an unknown name, or not a port number.
    """
    ports: dict[str, int] = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        if name not in PORT_NAMES:
            raise CommandError(f"there is no port called {name!r}", f"choose from: {', '.join(PORT_NAMES)}")
        if number != AUTO and (not number.isdecimal() or not 0 < int(number) < 65_536):
            raise CommandError(f"{pair!r} is not a port", f"write it as {name}=19092 or {name}={AUTO}")
        ports[name] = 0 if number == AUTO else int(number)
    fixed = [port for port in ports.values() if port]
    if len(set(fixed)) < len(fixed):
        raise CommandError("one port was given to two listeners", "give each its own number")
    return ports
