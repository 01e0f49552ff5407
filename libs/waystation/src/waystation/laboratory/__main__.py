"""`python -m waystation.laboratory`: the SMTP laboratory as a process, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
from pathlib import Path

from waystation.laboratory.server import Laboratory, LaboratorySettings


def main() -> None:
    """Serve until told to stop."""
    arguments = _parser().parse_args()
    settings = LaboratorySettings(
        host=arguments.host,
        port=arguments.port,
        record=arguments.record,
        digest_only=arguments.digest_only,
        keep=False,
        faults_file=arguments.faults,
        write_first=arguments.write_first,
    )
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(settings, arguments.port_file))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="waystation.laboratory", description="An SMTP server that fails on demand.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=2525, help="0: any free port (see --port-file)")
    parser.add_argument("--record", type=Path, help="directory for mails.jsonl, one JSON line a mail")
    parser.add_argument("--digest-only", action="store_true", help="keep SHA-256 and size, not the content")
    parser.add_argument("--write-first", action="store_true", help="record a mail before answering it")
    parser.add_argument("--port-file", type=Path, help="written with the port once it listens")
    parser.add_argument("--faults", type=Path, help="JSON object, address to fault name; read again when it changes")
    return parser


def _loop_factory() -> type[asyncio.AbstractEventLoop] | None:
    """The loop of uvloop where that is installed: mails cost less CPU on it."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return uvloop.Loop


async def _serve(settings: LaboratorySettings, port_file: Path | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Laboratory(settings) as laboratory:
        if port_file is not None:
            _write_whole(port_file, f"{laboratory.port}\n")
        await stop.wait()


def _write_whole(path: Path, text: str) -> None:
    """A reader sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f"{path.suffix}.{os.getpid()}")
    fresh.write_text(text)
    fresh.replace(path)


if __name__ == "__main__":
    main()
