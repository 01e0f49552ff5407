from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import ctypes, resource
from vault.hygiene import forbid_dumps
forbid_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


def test_the_process_leaves_no_core_and_cannot_be_dumped():
    shown = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=30)
    assert shown.stdout.split("\n")[0] == ("(0, 0) 0" if sys.platform == "linux" else "(0, 0) -1")
