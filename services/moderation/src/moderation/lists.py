"""Lists of bad addresses and files as prefixes of digests: what is listed cannot be read back from the list.

An address is looked up as Safe Browsing does it: its host and up to four parents, each with the whole path and with
none, without scheme, user, port and fragment. A file is looked up by its SHA-256.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from moderation.links import authority_and_path

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX_BYTES = 8
_PARENTS_MAX = 4


@dataclass(frozen=True, slots=True)
class HashLists:
    """Prefixes of PREFIX_BYTES of SHA-256."""

    addresses: frozenset[bytes] = field(default_factory=frozenset)
    files: frozenset[bytes] = field(default_factory=frozenset)

    def has_address(self, url: str, host: str) -> bool:
        """Whether an address, or a host or path above it, is listed."""
        return bool(self.addresses) and any(
            prefix_of(expression) in self.addresses for expression in address_expressions(url, host)
        )

    def has_file(self, content: bytes) -> bool:
        """Whether a file of just these bytes is listed."""
        return bool(self.files) and sha256(content).digest()[:PREFIX_BYTES] in self.files


def prefix_of(expression: str) -> bytes:
    """Return what stands in a list for an expression."""
    return sha256(expression.encode("utf-8", "replace")).digest()[:PREFIX_BYTES]


def address_expressions(url: str, host: str) -> Iterator[str]:
    """Yield what an address is looked up as, most exact first."""
    path = path_of(url)
    for name in hosts_of(host):
        if path not in ("", "/"):
            yield f"{name}{path}"
        yield f"{name}/"


def hosts_of(host: str) -> list[str]:
    """Return a host and the hosts above it, down to two labels."""
    labels = host.split(".")
    return [host, *(".".join(labels[start:]) for start in range(1, len(labels) - 1)[-_PARENTS_MAX:])]


def path_of(url: str) -> str:
    """Return path and query of an address."""
    path = authority_and_path(url)[1]
    return path.partition("#")[0] if path.startswith("/") else ""
