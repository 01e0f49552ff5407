"""Keeps keys out of files: no core dump, no reading of this process by others of the same user (Linux)."""

from __future__ import annotations

import ctypes
import logging
import resource
import sys

_PR_SET_DUMPABLE = 4

log = logging.getLogger(__name__)


def forbid_dumps() -> None:
    """Set the core limit to 0 and make the process undumpable."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        log.warning("prctl(PR_SET_DUMPABLE) failed with errno %d", ctypes.get_errno())
