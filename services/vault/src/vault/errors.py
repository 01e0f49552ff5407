"""What can go wrong, and what a caller is told.

Errors:
    KeyFileError, ProcessorsFileError   the deployment is wrong: the process does not start
    RetryableError (from common)        the database is away: 503, ask again
    Problem (from common)               a call or an item is refused, with the reason; never with a value
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.http.openapi import Refusal as Answer
from common.http.problems import Problem

if TYPE_CHECKING:
    from vault.domain import Refusal


NOT_ALLOWED = Answer(403, "not-allowed", "the caller table of the vault has no such row; the attempt was logged")
BODY_TOO_LARGE = Answer(413, "body-too-large", "the body is larger than 4,194,304 bytes (4 MiB)")
TOO_FAST = Answer(
    429, "too-fast", "the caller asks for more items a second than `limit` for this purpose; ask again later"
)
CLOSED = Answer(503, "closed", "erasures are being repeated after a start or a restore; ask again")
NO_SUCH_ERASURE = Answer(404, "no-such-erasure", "nobody with this token was erased")
NO_SUCH_ENTRY = Answer(404, "no-such-entry", "the log has no such entry, or no tree of that size")
NO_SUCH_PROVIDER = Answer(
    404, "no-such-provider", "the register has no provider of this name, and none of it received anything in that time"
)
EPOCH_ENDS_ALREADY = Answer(409, "epoch-ends-already", "another process ends the epoch right now")


class KeyFileError(Exception):
    """The root key file cannot be used; the text says why."""


class ProcessorsFileError(Exception):
    """The processors file cannot be used; the text names the entry."""


def forbidden(caller: str, operation: str, purpose: str | None) -> Problem:
    """The caller table has no such row."""
    wanted = operation if purpose is None else f"{operation} for purpose {purpose}"
    return Problem(403, "not-allowed", f"{caller} may not {wanted}; the caller table is in the vault's README")


def too_fast(caller: str, purpose: str, items_per_second: float, wait_seconds: int) -> Problem:
    """The caller has asked for too much of a purpose."""
    detail = f"{caller} asks for more than {items_per_second:,g} items a second for purpose {purpose}"
    told = f"{detail}; ask again in {wait_seconds} s, or raise VAULT_ITEMS_PER_SECOND"
    return Problem(429, "too-fast", told, limit=int(items_per_second), retry_after_seconds=wait_seconds)


def item_problem(refusal: Refusal) -> dict[str, Any]:
    """The problem document of one refused item."""
    return Problem(refusal.status, refusal.kind, refusal.detail, **refusal.members).document()
