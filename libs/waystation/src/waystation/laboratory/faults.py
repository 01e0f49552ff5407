"""Which fault a recipient stands for, and what the server remembers about those that change with time."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_NUMBERS = {
    "refuse": 0,
    "421": 0,
    "greylist": 1,
    "tarpit": 1,
    "cut-data": 0,
    "cut-early": 0,
    "refuse-content": 0,
    "later": 1,
    "slow": 2,
    "cut": 0,
    "cut-lost": 0,
    "garbage": 0,
}
FAULT_NAMES = frozenset(DEFAULT_NUMBERS)

_FAULT = re.compile(rf"({'|'.join(sorted(FAULT_NAMES, key=len, reverse=True))})(?:-(\d{{1,4}}))?")


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to fail; `number` counts times or seconds, as the fault says."""

    name: str
    number: int


def parse_fault(text: str) -> Fault | None:
    """`later-3` as a fault; None for what names none."""
    found = _FAULT.fullmatch(text)
    if found is None:
        return None
    return Fault(found[1], int(found[2]) if found[2] else DEFAULT_NUMBERS[found[1]])


def find_fault(address: str) -> Fault | None:
    """The fault in an address's local part, up to its first `+` or `.`."""
    local = address.rpartition("@")[0]
    return parse_fault(local.partition("+")[0].partition(".")[0])


@dataclass(slots=True)
class FaultBook:
    """Faults by full address first, then by local part, with what `later` and `greylist` have seen."""

    by_address: dict[str, str] = field(default_factory=dict)
    _times: dict[str, int] = field(default_factory=dict)
    _first_seen: dict[str, float] = field(default_factory=dict)

    def find(self, address: str) -> Fault | None:
        """The fault for a recipient. Raises ValueError when one was set that does not exist."""
        if not self.by_address or address not in self.by_address:
            return find_fault(address)
        fault = parse_fault(self.by_address[address])
        if fault is None:
            raise ValueError(f"fault not known; use one of {', '.join(sorted(FAULT_NAMES))}")
        return fault

    def still_later(self, address: str, fault: Fault) -> bool:
        """True for the first `fault.number` times an address is asked about."""
        seen = self._times.get(address, 0)
        self._times[address] = seen + 1
        return seen < fault.number

    def still_grey(self, address: str, fault: Fault, now: float) -> bool:
        """True until `fault.number` seconds after an address was first asked about."""
        return now < self._first_seen.setdefault(address, now) + fault.number


def read_faults(path: Path) -> dict[str, str]:
    """Faults from a JSON file; raises ValueError when it is not an object of known fault names by address."""
    faults = json.loads(path.read_text())
    if not isinstance(faults, dict) or not all(parse_fault(str(name)) for name in faults.values()):
        raise ValueError(f"{path}: write a JSON object of address to fault name: {', '.join(sorted(FAULT_NAMES))}")
    return {str(address): str(name) for address, name in faults.items()}
