"""How rows travel: columns joined to one text, sparse ones left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.http.problems import Problem
from common.postgres.queries import load_queries

if TYPE_CHECKING:
    from collections.abc import Sequence

SQL = load_queries("vault")


_SEPARATOR = "\x1f"


# Sealed fields in the order of `FIELDS`.
Blobs = tuple[bytes | None, ...]


def joined(texts: Sequence[str]) -> str:
    """Return one text of many, which the statement takes apart again: a tenth of the cost of an array parameter."""
    joined = _SEPARATOR.join(texts)
    if texts and joined.count(_SEPARATOR) != len(texts) - 1:
        raise Problem(422, "invalid-field", "a text holds a unit separator (U+001F)")
    return joined


def field_columns(rows: Sequence[Blobs]) -> list[list[bytes | None]]:
    """Return one column per field."""
    return [sparse(list(column)) for column in zip(*rows, strict=True)]


def sparse(column: list[bytes | None]) -> list[bytes | None]:
    """Return a column, empty when nothing is in it: unnest makes it NULL in every row."""
    return column if any(column) else []


def columns_of(rows: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    """Turn rows into the arrays that unnest takes."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
