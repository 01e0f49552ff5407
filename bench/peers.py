"""What stands beside or behind the road in its bench: Postfix's smtp-sink, and relays to compare with.

A relay queues each mail on disk before it answers, and hands it over to the sink. Each runs as an instance of its own
in a scratch folder, on loopback, with nothing but errors in its log. Postfix keeps connections on both sides and needs
root, as Postfix does. Haraka (`npm install Haraka`, here or with `--global`) runs a process for each processor.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from processes import usage

PATHS = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
START_SECONDS = 20.0
REST_SECONDS = 300.0
SESSIONS = 20
MAIL_BYTES = 2048


def program(name: str) -> str | None:
    """Return the path of a program, when it is installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{PATHS}")


class Sink:
    """Postfix's smtp-sink: takes every mail, keeps none, counts them."""

    def __init__(self, port: int, scratch: Path) -> None:
        self._port = port
        self._counts = scratch / f"sink-{port}.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        executable = program("smtp-sink")
        assert executable is not None, "smtp-sink is not installed"
        with self._counts.open("wb") as counts:
            self._process = subprocess.Popen(
                [executable, "-c", "-u", "nobody", f"127.0.0.1:{self._port}", "1000"], stdout=counts, stderr=counts
            )
        wait_for_port(self._port)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    def count(self) -> int:
        """Return how many mails it has taken: smtp-sink writes `sess=1 quit=0 mesg=7` over and over."""
        with self._counts.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 200))
            counts = re.findall(rb"mesg=(\d+)\r", file.read())
        return int(counts[-1]) if counts else 0

    def wait_for(self, mails: int) -> bool:
        """Wait until it has that many; say whether it got them."""
        ends = time.monotonic() + REST_SECONDS
        while self.count() < mails:
            if time.monotonic() > ends:
                return False
            time.sleep(0.05)
        return True


@dataclass(frozen=True, slots=True)
class Relayed:
    """What a peer relayed: mails a second from the first to the last, CPU milliseconds per 1,000 mails of its own."""

    per_second: float
    cpu_ms: float


class Relay(ABC):
    """A relay between smtp-source and smtp-sink."""

    NAME: str
    NOTE: str

    def __init__(self, scratch: Path, sink_port: int) -> None:
        self._folder = scratch / self.NAME.lower()
        self._port = free_port()
        self._sink_port = sink_port

    @abstractmethod
    def __enter__(self) -> Self:
        """Start it."""

    @abstractmethod
    def __exit__(self, *_: object) -> None:
        """Stop it."""

    @abstractmethod
    def _pid(self) -> int:
        """Return the process whose children do the work."""

    def relay(self, mails: int, sink: Sink) -> Relayed:
        """Send that many 2 KB mails through it."""
        source = program("smtp-source")
        assert source is not None, "smtp-source is not installed"
        before, cpu_before, started = sink.count(), self._cpu_seconds(), time.monotonic()
        subprocess.run(
            [
                *(source, "-d", "-s", str(SESSIONS), "-l", str(MAIL_BYTES), "-m", str(mails)),
                *("-f", "orders@blumen-winter.example", "-t", "kunde@kunden.example", f"127.0.0.1:{self._port}"),
            ],
            check=True,
            timeout=REST_SECONDS,
        )
        if not sink.wait_for(before + mails):
            raise RuntimeError(f"{self.NAME} did not deliver every mail")
        seconds = time.monotonic() - started
        return Relayed(mails / seconds, (self._cpu_seconds() - cpu_before) / mails * 1e6)

    def _cpu_seconds(self) -> float:
        return usage(self._pid(), children=True)[0]


class Postfix(Relay):
    """A Postfix relay of its own."""

    NAME = "Postfix"
    NOTE = f"{SESSIONS} sessions, connections kept, no log"

    def __enter__(self) -> Self:
        (self._folder / "queue").mkdir(parents=True)
        (self._folder / "data").mkdir()
        for parent in (self._folder, *self._folder.parents):
            with contextlib.suppress(PermissionError):
                parent.chmod(parent.stat().st_mode | 0o055)
            if parent == parent.parent.parent:
                break
        shutil.chown(self._folder / "data", "postfix")
        (self._folder / "main.cf").write_text(self._main(), "utf-8")
        (self._folder / "master.cf").write_text(self._master(), "utf-8")
        self._run("start")
        wait_for_port(self._port)
        return self

    def __exit__(self, *_: object) -> None:
        self._run("stop")

    def _pid(self) -> int:
        return int((self._folder / "queue" / "pid" / "master.pid").read_text().strip())

    def _run(self, action: str) -> None:
        executable = program("postfix")
        assert executable is not None, "postfix is not installed"
        subprocess.run([executable, "-c", str(self._folder), action], check=True, capture_output=True, timeout=60)

    def _main(self) -> str:
        return f"""compatibility_level = 3.6
queue_directory = {self._folder}/queue
data_directory = {self._folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = relay.bench.example
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
relayhost = [127.0.0.1]:{self._sink_port}
disable_dns_lookups = yes
smtp_connection_cache_destinations = [127.0.0.1]:{self._sink_port}
default_destination_concurrency_limit = {SESSIONS}
initial_destination_concurrency = {SESSIONS}
default_process_limit = 100
in_flow_delay = 0
smtpd_client_connection_count_limit = 0
"""

    def _master(self) -> str:
        return f"""127.0.0.1:{self._port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
"""


class Haraka(Relay):
    """A Haraka relay of its own."""

    NAME = "Haraka"
    NOTE = "a process for each processor, its queue of outgoing mail"
    PROGRAM = Path(__file__).parents[1] / "node_modules" / ".bin" / "haraka"

    _process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        executable = program("haraka") or (str(self.PROGRAM) if self.PROGRAM.exists() else None)
        if executable is None:
            raise SystemExit("PEER=haraka needs Haraka: npm install --no-save Haraka")
        subprocess.run([executable, "-i", str(self._folder)], check=True, capture_output=True, timeout=60)
        for name, text in self._configuration().items():
            (self._folder / "config" / name).write_text(text, "utf-8")
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen([executable, "-c", str(self._folder)], stdout=log, stderr=log)
        wait_for_port(self._port)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(REST_SECONDS)

    def _pid(self) -> int:
        return self._process.pid

    def _configuration(self) -> dict[str, str]:
        return {
            "me": "relay.bench.example\n",
            "log.ini": "[main]\nlevel=error\n",
            "smtp.ini": f"listen=127.0.0.1:{self._port}\nnodes=cpus\n",
            "outbound.ini": f"concurrency_max={SESSIONS}\nenable_tls=false\n",
            "plugins": "relay\n",
            "relay.ini": "[relay]\nacl=true\nforce_routing=true\n",
            "relay_acl_allow": "127.0.0.1/32\n",
            "relay_dest_domains.ini": f'[domains]\nany={{"nexthop":"127.0.0.1:{self._sink_port}"}}\n',
        }


RELAYS = {relay.NAME.lower(): relay for relay in (Postfix, Haraka)}


def free_port() -> int:
    """Return a port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(port: int) -> None:
    """Wait until somebody listens."""
    ends = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if time.monotonic() > ends:
                raise TimeoutError(f"nobody listens on port {port}") from None
            time.sleep(0.05)
        else:
            return
