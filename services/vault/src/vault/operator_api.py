"""What an operator asks of the vault: epochs, the access log with its proofs, the scope of a breach, erasures."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import AwareDatetime, BaseModel

from common.http.openapi import INVALID_FIELD, UNAUTHENTICATED, UNAVAILABLE, refuses
from common.http.problems import Problem
from common.security.signing import Signed  # noqa: TC001  FastAPI reads it at runtime
from common.times import rfc3339
from vault import store
from vault.accesslog import log_entries, prove_consistency, prove_inclusion
from vault.domain import Access, field_names
from vault.epochs import end_epoch
from vault.errors import CLOSED, EPOCH_ENDS_ALREADY, NO_SUCH_ENTRY, NO_SUCH_ERASURE, NO_SUCH_PROVIDER, NOT_ALLOWED
from vault.scope import EVERY_ACCOUNT, scoped

if TYPE_CHECKING:
    from common.postgres.pool import Pool
    from common.security.signing import Signer
    from vault.gate import Gate
    from vault.keyring import Keyring

PERSONS_MAX = 10_000
POSITION_MAX = 2**53
DATA_PROTECTION = "data-protection"
_OPERATOR = (UNAUTHENTICATED, NOT_ALLOWED, UNAVAILABLE)


class EpochEnded(BaseModel):
    """The epoch that has begun; the keys of all earlier ones are destroyed."""

    epoch: int


class Exposed(BaseModel):
    """What a provider received of one person."""

    account_id: str
    recipient_token: str
    fields: list[str]
    disclosures: int
    first: datetime
    last: datetime


class LogEntry(BaseModel):
    """An entry of the access log with its salt, and the ledger rows of its call."""

    position: int
    salt: str
    entry: dict[str, Any]
    ledger: list[list[Any]] | None


class LogEntries(BaseModel):
    """Entries in the order of their positions."""

    items: list[LogEntry]


class InclusionProof(BaseModel):
    """Hashes, hexadecimal: the path leads from the leaf to the root (RFC 9162, 2.1.3)."""

    position: int
    size: int
    leaf: str
    root: str
    path: list[str]


class ConsistencyProof(BaseModel):
    """Hashes, hexadecimal: the older tree is a beginning of the newer one (RFC 9162, 2.1.4)."""

    old_size: int
    old_root: str
    size: int
    root: str
    proof: list[str]


class BreachScope(BaseModel):
    """Persons that a provider received between two times; `next` goes on where this page ends."""

    provider: str
    persons: int
    disclosures: int
    fields: list[str]
    items: list[Exposed]
    next: str | None


def operator_routes(gate: Gate, pool: Pool, keyring: Keyring, signer: Signer) -> APIRouter:
    """Return the operator's routes under `/v1`."""
    router = APIRouter(prefix="/v1", tags=["operator"])

    async def note(caller: str, operation: str, touched: list[str] | None = None) -> None:
        access = Access(caller, operation, DATA_PROTECTION, None, 1)
        await store.log_access(pool, access, answered=1, touched=touched)

    @router.post("/epochs", responses=refuses(*_OPERATOR, EPOCH_ENDS_ALREADY, CLOSED))
    async def end_epoch_now(request: Request) -> EpochEnded:
        """End the epoch now: what was erased is unreadable in every older copy once this answers."""
        caller = await gate.admit(request, "end-epoch")
        gate.need_open()
        epoch = await end_epoch(pool, keyring)
        if epoch is None:
            raise Problem(409, "epoch-ends-already", "another process ends the epoch right now; ask again")
        await note(caller, "end-epoch")
        return EpochEnded(epoch=epoch)

    @router.get("/erasures/{token}", responses=refuses(*_OPERATOR, INVALID_FIELD, NO_SUCH_ERASURE))
    async def get_erasure(request: Request, token: Annotated[str, Path(min_length=1, max_length=100)]) -> Signed:
        """Show the signed receipt of an erasure: since when, and whether every older copy is unreadable too."""
        caller = await gate.admit(request, "read-erasure")
        async with scoped(pool, EVERY_ACCOUNT) as connection:
            found = await store.erasure(connection, token)
        if found is None:
            raise Problem(404, "no-such-erasure", "nobody with this token was erased")
        await note(caller, "read-erasure", [token])
        told, unreadable_at = found
        statement = {
            "kind": "erasure",
            "recipient_token": told.token,
            "account_id": told.account_id,
            "erased_at": rfc3339(told.erased_at),
            "reason": told.reason,
            "epoch": told.epoch,
            "older_copies_unreadable_at": None if unreadable_at is None else rfc3339(unreadable_at),
            "at": rfc3339(unreadable_at or told.erased_at),
        }
        (signed,) = signer.sign([statement])
        return signed

    @router.get(
        "/breach-scope",
        dependencies=[_needs(gate, "read-breach-scope")],
        responses=refuses(*_OPERATOR, INVALID_FIELD, NO_SUCH_PROVIDER),
    )
    async def get_breach_scope(
        request: Request,
        provider: Annotated[str, Query(min_length=1, max_length=100)],
        since: AwareDatetime,
        until: AwareDatetime,
        *,
        after: Annotated[str, Query(max_length=100)] = "",
        limit: Annotated[int, Query(ge=1, le=PERSONS_MAX)] = PERSONS_MAX,
    ) -> BreachScope:
        """List who was exposed at a provider between two times, with the fields it got; erased persons included."""
        caller = await gate.admit(request, "read-breach-scope")
        async with scoped(pool, EVERY_ACCOUNT) as connection:
            total, rows = await store.breach_scope(connection, provider, since, until, after=after, limit=limit)
            if not rows and not after and await store.processor(connection, provider) is None:
                raise Problem(*NO_SUCH_PROVIDER, field="provider")
        await note(caller, "read-breach-scope")
        items = [
            Exposed(
                account_id=account,
                recipient_token=token,
                fields=field_names(bits),
                disclosures=count,
                first=first,
                last=last,
            )
            for account, token, bits, count, first, last in rows
        ]
        persons, disclosures, fields = total
        following = items[-1].recipient_token if len(items) == limit else None
        return BreachScope(
            provider=provider,
            persons=persons,
            disclosures=disclosures,
            fields=field_names(fields),
            items=items,
            next=following,
        )

    _log_routes(router, gate, pool)
    return router


def _needs(gate: Gate, operation: str) -> Any:
    """Turn a stranger away before anything of the request is looked at."""

    async def admitted(request: Request) -> None:
        await gate.admit(request, operation)

    return Depends(admitted)


def _log_routes(router: APIRouter, gate: Gate, pool: Pool) -> None:
    proofs = refuses(*_OPERATOR, INVALID_FIELD, NO_SUCH_ENTRY)

    @router.get("/log", responses=refuses(*_OPERATOR, INVALID_FIELD))
    async def get_log(
        request: Request,
        start: Annotated[int, Query(ge=0, le=POSITION_MAX)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    ) -> LogEntries:
        """List entries of the access log from a position on, as the stand-alone verifier reads them."""
        await gate.admit(request, "read-log")
        return LogEntries.model_validate({"items": await log_entries(pool, start, limit)})

    @router.get("/log/inclusion", dependencies=[_needs(gate, "read-log")], responses=proofs)
    async def get_inclusion_proof(
        request: Request,
        position: Annotated[int, Query(ge=0, le=POSITION_MAX)],
        size: Annotated[int, Query(ge=1, le=POSITION_MAX)],
    ) -> InclusionProof:
        """Show the path from an entry to the root of the tree of a size."""
        await gate.admit(request, "read-log")
        try:
            return InclusionProof.model_validate(await prove_inclusion(pool, position, size))
        except ValueError as error:
            raise Problem(404, "no-such-entry", str(error)) from None

    @router.get("/log/consistency", dependencies=[_needs(gate, "read-log")], responses=proofs)
    async def get_consistency_proof(
        request: Request,
        old_size: Annotated[int, Query(ge=1, le=POSITION_MAX)],
        size: Annotated[int, Query(ge=1, le=POSITION_MAX)],
    ) -> ConsistencyProof:
        """Show the proof that the log of a size began as the log of an older size."""
        await gate.admit(request, "read-log")
        try:
            return ConsistencyProof.model_validate(await prove_consistency(pool, old_size, size))
        except ValueError as error:
            raise Problem(404, "no-such-entry", str(error)) from None
