"""`GET /v1/unauthorised`, the same at every service that reads from Kafka: what could not prove where it comes from."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Query
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LISTED_MAX = 1000

ListedMax = Annotated[int, Query(ge=1, le=LISTED_MAX, description="How many records are listed; all are counted.")]


class UnauthorisedRecord(BaseModel):
    """Where a record stands that no genuine statement is behind, and why; `event_id` is what it claims to be."""

    topic: str
    record_partition: int
    record_offset: int
    event_id: str | None
    account_id: str | None = None
    reason: str
    seen_at: datetime


class UnauthorisedRecords(BaseModel):
    """How many there are, in all and by reason, and the newest of them."""

    count: int
    by_reason: dict[str, int]
    items: list[UnauthorisedRecord]


def unauthorised_records(by_reason: Mapping[str, int], rows: Iterable[Mapping[str, Any]]) -> UnauthorisedRecords:
    """Return the answer made of what the database counted and the newest rows."""
    items = [UnauthorisedRecord.model_validate(dict(row)) for row in rows]
    return UnauthorisedRecords(count=sum(by_reason.values()), by_reason=dict(by_reason), items=items)
