"""rspamd beside our screening: as Debian installs it, without network and without anything learnt.

It judges mails, so each text gets the headers of an ordinary one. What needs DNS, Redis or a remote list is off: none
has anything to say of texts without a network. Its list of endings is cut to those of one label, which it compiles in
seconds and not in a minute.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from peers import free_port, program
from publicsuffixlist import PublicSuffixList

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CONFIGURATION = Path("/etc/rspamd/rspamd.conf")
START_SECONDS = 120.0
ANSWER_SECONDS = 30.0
TEXTS_MAX = 300
OFF = (
    "rbl", "surbl", "dkim", "dkim_signing", "spf", "dmarc", "arc", "asn", "fuzzy_check", "mx_check", "url_redirector",
    "hfilter", "neural", "ratelimit", "replies", "greylist", "history_redis", "bayes_expiry", "phishing",
)  # fmt: skip


def installed() -> bool:
    """Whether there is an rspamd with the configuration of its package."""
    return program("rspamd") is not None and CONFIGURATION.exists()


def judged(texts: Sequence[str], scratch: Path) -> dict[str, Any]:
    """Return what rspamd says of every so many texts (more than nothing to do: flagged), and its CPU seconds."""
    step = max(1, len(texts) // TEXTS_MAX)
    with _running(scratch) as (process, port):
        for text in texts[: 5 * step : step]:
            _flagged(port, text)
        before = _cpu_seconds(process)
        flags = [_flagged(port, text) for text in texts[::step]]
        return {"flags": flags, "cpu_seconds": _cpu_seconds(process) - before, "step": step}


@contextlib.contextmanager
def _running(scratch: Path) -> Iterator[tuple[psutil.Process, int]]:
    executable = program("rspamd")
    assert executable is not None, "rspamd is not installed"
    port, folder = free_port(), scratch / "rspamd"
    _configure(folder, port)
    variables = {
        "RUNDIR": folder / "run", "DBDIR": folder / "db", "LOGDIR": folder / "log", "LOCAL_CONFDIR": folder,
    }  # fmt: skip
    options = [word for name, value in variables.items() for word in ("--var", f"{name}={value}")]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [executable, "-f", "-i", "-c", str(CONFIGURATION), *options], stdout=output, stderr=output
        )
    try:
        _wait(process, port)
        yield psutil.Process(process.pid), port
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        if process.poll() is None:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _configure(folder: Path, port: int) -> None:
    own = folder / "local.d"
    for part in (own, folder / "override.d", folder / "run", folder / "db", folder / "log"):
        part.mkdir(parents=True)
    endings = sorted(ending for ending in PublicSuffixList()._publicsuffix if ending.isascii() and "." not in ending)  # noqa: SLF001  it has no public one
    (folder / "endings").write_text("\n".join(endings) + "\n", "utf-8")
    (own / "options.inc").write_text(
        f'dns {{ nameserver = ["127.0.0.1:53:1"]; timeout = 0.1s; retransmits = 0; }}\nurl_tld = "{folder}/endings";\n'
    )
    (own / "worker-normal.inc").write_text(f'bind_socket = "127.0.0.1:{port}"; count = 1;\n')
    for worker in ("controller", "proxy", "fuzzy"):
        (own / f"worker-{worker}.inc").write_text("enabled = false;\n")
    for module in OFF:
        (own / f"{module}.conf").write_text("enabled = false;\n")


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    ends = time.monotonic() + START_SECONDS
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > ends:
            raise RuntimeError("rspamd did not start")
        time.sleep(0.2)


def _flagged(port: int, text: str) -> bool:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/checkv2", data=_mail(text))
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310
        return str(json.loads(answer.read())["action"]) not in {"no action", "greylist"}


def _mail(text: str) -> bytes:
    date = time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime())
    head = (
        "From: Ann Miller <ann@shop.example>\r\nTo: kunde@kunden.example\r\nSubject: Message\r\n"
        f"Date: {date}\r\nMessage-ID: <{time.time_ns()}@shop.example>\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    )
    return (head + text.replace("\n", "\r\n")).encode("utf-8", "replace")


def _cpu_seconds(process: psutil.Process) -> float:
    seconds = 0.0
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            seconds += times.user + times.system
    return seconds
