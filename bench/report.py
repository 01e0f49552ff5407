"""The form that every bench writes: a table for people, and a file that later runs are compared with.

    {"machine": {...}, "commit": ..., "measures": [{"name", "value", "unit", "goal", "comparison", "note"}]}

`goal` is null where there is none; `comparison` says how the value has to stand to it, `>=` or `<=`. A bench exits with
0 whether goals are met or not, and says which are missed.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure, with the goal that it has to reach."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    comparison: str = "<="
    note: str = ""

    @property
    def missed(self) -> bool:
        """Whether there is a goal and the value does not reach it."""
        if self.goal is None:
            return False
        return self.value < self.goal if self.comparison == ">=" else self.value > self.goal


def publish(title: str, measures: Sequence[Measure], path: Path) -> None:
    """Print the table and the goals that are missed; write the file."""
    table = Table("measure", "value", "unit", "goal", "note", title=title)
    for one in measures:
        goal = "" if one.goal is None else f"{one.comparison} {one.goal:g}"
        table.add_row(one.name, f"{one.value:,.2f}".removesuffix(".00"), one.unit, goal, one.note)
    console = Console()
    console.print(table)
    missed = [one.name for one in measures if one.missed]
    console.print(f"missed: {', '.join(missed)}" if missed else "every goal is reached")
    content = {
        "machine": machine(),
        "commit": commit(),
        "measures": [{**asdict(one), "value": round(one.value, 2)} for one in measures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def machine() -> dict[str, str | int]:
    """Return what the figures were measured on."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")), ""
    )
    memory = next((line.split()[1] for line in _lines(Path("/proc/meminfo")) if line.startswith("MemTotal")), "0")
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "cpu": model or platform.processor() or platform.machine(),
        "memory_mib": int(memory) // 1024,
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
    }


def commit() -> str:
    """Return the commit that was measured, with `+` when the files differ from it."""
    folder = Path(__file__).parent
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    changes = subprocess.run(
        ["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True, check=False
    )
    return head.stdout.strip() + ("+" if changes.stdout.strip() else "")


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines() if path.exists() else []
