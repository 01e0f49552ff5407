from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource
from vault.hygiene import forbid_dumps
forbid_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


ABORTED = """
import os, resource
from vault.hygiene import forbid_dumps
resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
if {forbidden}:
    forbid_dumps()
os.abort()
"""


def aborted(folder, *, forbidden):
    """Abort a process with its work folder there; return the core files that it leaves."""
    folder.mkdir()
    subprocess.run([sys.executable, "-c", ABORTED.format(forbidden=forbidden)], cwd=folder, check=False, timeout=30)
    return list(folder.iterdir())


def test_an_aborted_process_leaves_no_core_file(tmp_path):
    if not aborted(tmp_path / "control", forbidden=False):
        pytest.skip("this machine writes no core files into the folder of a process")
    assert aborted(tmp_path / "vault", forbidden=True) == []


def test_the_process_leaves_no_core_and_cannot_be_dumped():
    shown = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=30)
    assert shown.stdout.split("\n")[0] == ("(0, 0) 0" if sys.platform == "linux" else "(0, 0) -1")
