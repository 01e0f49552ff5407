# ruff: noqa: INP001 (a script, not a package)
"""Writes kafka.lock from pom.xml: every jar of the local Kafka with its SHA-256 and size.

A developer's command, needed only when Kafka's version changes: `python3 deploy/local/lock_kafka.py` (wants `mvn`).
Raise the version in pom.xml first, run it, then `make test`.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
HEADER = """\
# The jars of Apache Kafka's broker and tools, as Maven resolves pom.xml. Written by lock_kafka.py; do not edit.
# sha256  size_bytes  path below a Maven repository
"""


def resolve(folder: Path) -> None:
    """Let Maven copy every dependency of pom.xml into `folder`, in repository layout."""
    goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}", "-Dmdep.useRepositoryLayout=true"]
    subprocess.run(["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), *goal], check=True)  # noqa: S603, S607


def lock_line(jar: Path, root: Path) -> str:
    """One jar as a line of the lock file."""
    content = jar.read_bytes()
    return f"{hashlib.sha256(content).hexdigest()}  {len(content)}  {jar.relative_to(root).as_posix()}\n"


def main() -> int:
    """Resolve, hash, write."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        resolve(root)
        lines = [lock_line(jar, root) for jar in sorted(root.rglob("*.jar"))]
    (HERE / "kafka.lock").write_text(HEADER + "".join(lines), encoding="utf-8")
    sys.stdout.write(f"{len(lines)} jars written to {HERE / 'kafka.lock'}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
