"""Named queries from a `.sql` file.

A query begins with `-- name: the_name` and ends where the next begins; a comment line below the name describes it.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"^-- name: ([a-z_0-9]+)$", re.MULTILINE)


def parse_queries(text: str) -> Mapping[str, str]:
    """Return the queries of a file by name; a name given twice is an error."""
    _, *parts = _NAME.split(text)
    queries: dict[str, str] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        if name in queries:
            raise ValueError(f"query {name} is defined twice")
        queries[name] = body.strip()
    return queries


def load_queries(package: str, file: str = "queries.sql") -> Mapping[str, str]:
    """Return the named queries of a package's file."""
    return parse_queries(files(package).joinpath(file).read_text("utf-8"))
