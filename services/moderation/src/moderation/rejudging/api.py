"""Lists over HTTP, for the operator: put on and take off what is bad; decide what would hit too much."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.events.screening import ListChange
from common.http.openapi import INVALID_FIELD, JSON_BODY, OPERATORS, Refusal, refuses
from common.http.operators import OPERATOR, operator_only
from common.http.problems import Problem
from common.times import rfc3339
from moderation.policy.document import Clause
from moderation.rejudging import store
from moderation.rejudging.hashes import listed_address, unsigned_hex

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from common.security.tokens import TokenVerifier
    from moderation.rejudging.lists import Rejudging

ENTRIES_MAX = 1000
NO_ENTRY = Refusal(422, "no-entry", "an address without a host, or a message whose text is not kept (any more)")
UNKNOWN_ENTRY = Refusal(404, "unknown-entry", "nothing of this id waits for a decision")
ListName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=60)]
Address = Annotated[str, Field(min_length=1, max_length=2000)]
FileDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ListBody(_Body):
    """A change of one list: addresses or hosts, files by SHA-256, or messages whose like is bad; one kind at a time."""

    list: ListName
    clause: Clause
    addresses: Annotated[tuple[Address, ...], Field(max_length=ENTRIES_MAX)] = ()
    files: Annotated[tuple[FileDigest, ...], Field(max_length=ENTRIES_MAX)] = ()
    like: Annotated[tuple[UUID, ...], Field(max_length=ENTRIES_MAX)] = ()
    remove: bool = False

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        if sum(bool(given) for given in (self.addresses, self.files, self.like)) != 1:
            raise ValueError("give exactly one of addresses, files, like")
        return self


class ListTaken(_Body):
    """The change is written down and on its way to every copy."""

    change_id: UUID
    kind: Literal["address", "file", "text"]
    entries: int


class QuarantinedView(_Body):
    """An entry that hits more messages than one signal may; `messages` counts up to one beyond the bound."""

    quarantine_id: UUID
    list: str
    kind: Literal["address", "file", "text"]
    entry: str
    clause: str
    messages: int
    accounts: int
    quarantined_at: datetime


class QuarantinedEntries(_Body):
    """What waits for a person, oldest first."""

    items: list[QuarantinedView]


class QuarantineBody(_Body):
    """What becomes of an entry."""

    decision: Literal["apply", "drop"]


class QuarantineSettled(_Body):
    """The decision is written down."""

    quarantine_id: UUID
    decision: Literal["apply", "drop"]


@dataclass(frozen=True, slots=True)
class ListRoutes:
    """The routes over one database."""

    rejudging: Rejudging
    verifier: TokenVerifier

    def router(self) -> APIRouter:
        """Return the routes; every one needs an operator's token."""
        router = APIRouter(prefix="/v1/lists", tags=["operator"], dependencies=[Depends(operator_only(self.verifier))])
        changing: Any = refuses(*OPERATORS, *JSON_BODY, NO_ENTRY)
        router.add_api_route("", self.change, name="change list", methods=["POST"], responses=changing)
        asked: Any = refuses(*OPERATORS, INVALID_FIELD)
        router.add_api_route("/quarantine", self.quarantine, name="list quarantine", responses=asked)
        settling: Any = refuses(*OPERATORS, *JSON_BODY, UNKNOWN_ENTRY)
        path = "/quarantine/{quarantine_id}:settle"
        router.add_api_route(path, self.settle, name="settle quarantine", methods=["POST"], responses=settling)
        return router

    async def change(self, body: ListBody) -> ListTaken:
        """Put something on a list or take it off; what was sent with it is looked for.

        Limits: 1,000 entries in one change.
        """
        kind: Literal["address", "file", "text"] = "address" if body.addresses else "file" if body.files else "text"
        entries = tuple(dict.fromkeys([entry async for entry in self._entries(body)]))
        added, removed = ((), entries) if body.remove else (entries, ())
        change = self._change(body.list, kind, body.clause, added=added, removed=removed)
        await self.rejudging.publish(change)
        return ListTaken(change_id=UUID(change.change_id), kind=kind, entries=len(entries))

    async def quarantine(self, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> QuarantinedEntries:
        """List entries that would have hit too much, oldest first."""
        rows = await store.quarantined(self.rejudging.pool, limit)
        return QuarantinedEntries(items=[QuarantinedView(**row) for row in rows])

    async def settle(self, quarantine_id: UUID, body: QuarantineBody) -> QuarantineSettled:
        """Apply a quarantined entry after all, or drop it."""
        state = "applied" if body.decision == "apply" else "dropped"
        pool, now = self.rejudging.pool, self.rejudging.now()
        async with pool.acquire() as connection, connection.transaction():
            entry = await store.settle_quarantine(connection, quarantine_id, state, now, OPERATOR)
            if entry is None:
                raise Problem(UNKNOWN_ENTRY.status, UNKNOWN_ENTRY.kind, UNKNOWN_ENTRY.when)
            if body.decision == "apply":
                change = self._change(entry.list, entry.kind, entry.clause, added=(entry.entry,), approved=True)
                stored = await self.rejudging.store(connection, change)
            else:
                stored = []
        self.rejudging.relay.committed(stored)
        return QuarantineSettled(quarantine_id=quarantine_id, decision=body.decision)

    async def _entries(self, body: ListBody) -> AsyncIterator[str]:
        for place, address in enumerate(body.addresses):
            prefix = listed_address(address)
            if prefix is None or len(address.split()) != 1:
                raise _no_entry(f"addresses.{place}", "has no host")
            yield prefix.hex()
        for digest in body.files:
            yield digest[:16]
        for place, message_id in enumerate(body.like):
            sketches = await store.sketches_of(self.rejudging.pool, message_id)
            if sketches is None:
                raise _no_entry(f"like.{place}", "no text of this message is kept: too short, too old, or never judged")
            yield "".join(map(unsigned_hex, sketches))

    def _change(
        self,
        name: str,
        kind: str,
        clause: str,
        *,
        added: tuple[str, ...],
        removed: tuple[str, ...] = (),
        approved: bool = False,
    ) -> ListChange:
        return ListChange.model_validate(
            {
                "change_id": str(uuid4()),
                "list": name,
                "kind": kind,
                "clause": clause,
                "add": added,
                "remove": removed,
                "approved": approved,
                "screened_at": rfc3339(self.rejudging.now()),
            }
        )


def _no_entry(field: str, what: str) -> Problem:
    return Problem(NO_ENTRY.status, NO_ENTRY.kind, f"{field}: {what}", field=field)
