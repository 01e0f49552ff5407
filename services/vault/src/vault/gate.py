"""The door of the vault: who calls, whether the caller table has the row, whether the vault is open."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from common.http.operators import principal_of
from common.http.problems import Problem
from vault import store
from vault.domain import PURPOSES, Access, is_allowed, may_call
from vault.errors import forbidden, too_fast

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import Request

    from common.postgres.pool import Pool
    from common.security.tokens import TokenVerifier
    from vault.rates import Rates

log = logging.getLogger(__name__)


class Gate:
    """Lets calls in by the caller table, and logs those it turns away."""

    def __init__(
        self, verifier: TokenVerifier, pool: Pool, rates: Rates, closed: Callable[[], str | None] = lambda: None
    ) -> None:
        self._verifier = verifier
        self._pool = pool
        self._rates = rates
        self._closed = closed

    def need_open(self) -> None:
        """Answer 503 while erasures are being repeated."""
        if why := self._closed():
            raise Problem(503, "closed", f"{why}; ask again", retry_after_seconds=1)

    async def admit(self, request: Request, operation: str) -> str:
        """Return the principal, or answer 401, or 403 when it may not use the operation at all."""
        caller = principal_of(request, self._verifier)
        if not may_call(caller, operation):
            await self._turn_away(Access(caller, operation, None, None, 0))
        return caller

    async def check(self, access: Access) -> Access:
        """Return the access when the table has its row and the caller has not asked for too much of it."""
        if not is_allowed(access.caller, access.operation, access.purpose):
            told = access if access.purpose in PURPOSES else replace(access, purpose="another purpose")
            await self._turn_away(told)
        if wait_seconds := self._rates.wait_seconds(access.caller, access.purpose, access.items):
            log.warning("too fast: %s for %s", access.caller, access.purpose)
            raise too_fast(access.caller, str(access.purpose), self._rates.limit(str(access.purpose)), wait_seconds)
        return access

    async def _turn_away(self, access: Access) -> None:
        await store.log_access(self._pool, access, refused=True)
        log.warning("refused: %s asked for %s", access.caller, access.operation)
        raise forbidden(access.caller, access.operation, access.purpose)
