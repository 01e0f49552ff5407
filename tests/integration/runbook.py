"""Runs the commands of docs/runbook.md as they stand there: a text that is not true fails the tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from waystation.stack import checkout_folder

PAGE = checkout_folder() / "docs" / "runbook.md"
SECONDS_MAX = 180


def block(section, after=""):
    """The first block of commands in a section, or the first after a mark in it."""
    text = PAGE.read_text("utf-8")
    found = re.search(rf"^##+ {re.escape(section)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"the runbook has no section {section!r}"
    _, mark, rest = found[1].partition(after) if after else ("", "", found[1])
    assert mark == after, f"section {section!r} has no {after!r}"
    commands = re.search(r"^```\n(.*?)^```$", rest, re.MULTILINE | re.DOTALL)
    assert commands, f"section {section!r} has no commands"
    return commands[1]


def type_in(commands, stack, home, *, seconds=SECONDS_MAX):
    """Run commands in a shell as the page says: in the checkout, .venv/bin on the path, the stack's folder named.

    `home` stands for the operator's own folder; one command that fails ends them all.
    """
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "WAYSTATION_HOME": str(stack.layout.home),
        "HOME": str(home),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser()),
        "COLUMNS": "200",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=checkout_folder(),
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout
