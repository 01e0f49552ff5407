"""A record on its way to Kafka."""

from __future__ import annotations

from typing import NamedTuple


class Record(NamedTuple):
    """Topic, key, value and headers of one record."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
