"""Points in time as events and statements carry them: RFC 3339, UTC, milliseconds, a final Z."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


def now() -> datetime:
    """Return the present time, UTC."""
    return datetime.now(UTC)


@lru_cache(maxsize=1024)
def rfc3339(moment: datetime) -> str:
    """Return `2026-01-31T09:30:00.000Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def parse_rfc3339(text: str) -> datetime:
    """Return the moment, with its time zone; raise ValueError when the text is none or has no zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time needs its zone, for example 2026-01-31T09:30:00Z")
    return moment
