"""Small disclosures that come at the same moment share one statement, one commit and one row of the access log.

While two transactions are on their way, what comes waits; all of it is the next one. An idle vault delays nothing, a
busy one pays for PostgreSQL once instead of once a request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import asyncpg

from common.contracts.vault import ITEMS_MAX, DiscloseAnswer, DiscloseCall
from common.http.problems import Problem
from vault.disclosing import disclose

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from common.postgres.pool import Pool
    from vault.domain import Access
    from vault.keyring import Keyring

UNDER_WAY_MAX = 2
"""So many transactions of a lane are on their way at once: one is answered while the other is at PostgreSQL."""
SMALL_ITEMS_MAX = 50
"""A larger call goes its own way: it gains nothing from company."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """A call and where its caller waits."""

    call: DiscloseCall
    answer: asyncio.Future[list[DiscloseAnswer]]

    @property
    def messages(self) -> set[tuple[str, str]]:
        return {(item.account_id, item.message_id) for item in self.call.items}


@dataclass(slots=True)
class _Lane:
    """Calls that differ in their items only, and the transactions of them that are on their way."""

    access: Access
    run: Callable[[DiscloseCall, Access], Awaitable[list[DiscloseAnswer]]]
    waiting: deque[_Waiting] = field(default_factory=deque)
    drivers: set[asyncio.Task[None]] = field(default_factory=set)

    async def drive(self) -> None:
        while self.waiting:
            together = self._take()
            try:
                answers = await self._ask(together)
            except (Problem, asyncpg.DataError):
                await self._one_by_one(together)
            except Exception as error:  # noqa: BLE001  each caller gets it
                self._fail(together, error)
            else:
                self._answer(together, answers)

    def _take(self) -> list[_Waiting]:
        """Take the oldest calls, as long as they fit and no message is asked for twice."""
        taken: list[_Waiting] = []
        messages: set[tuple[str, str]] = set()
        items = 0
        while self.waiting:
            first = self.waiting[0]
            items += len(first.call.items)
            if taken and (items > ITEMS_MAX or messages & first.messages):
                break
            messages |= first.messages
            taken.append(self.waiting.popleft())
        return taken

    async def _ask(self, together: Sequence[_Waiting]) -> list[DiscloseAnswer]:
        call = together[0].call
        items = [item for one in together for item in one.call.items]
        whole = DiscloseCall(call.purpose, call.provider, call.fields, items)
        return await self.run(whole, replace(self.access, items=len(items)))

    async def _one_by_one(self, together: Sequence[_Waiting]) -> None:
        """One of them cannot be asked at all: the others must not suffer."""
        for one in together:
            try:
                self._answer([one], await self._ask([one]))
            except Exception as error:  # noqa: BLE001  the caller gets it
                self._fail([one], error)

    @staticmethod
    def _answer(together: Sequence[_Waiting], answers: list[DiscloseAnswer]) -> None:
        start = 0
        for one in together:
            end = start + len(one.call.items)
            if not one.answer.done():
                one.answer.set_result(answers[start:end])
            start = end

    @staticmethod
    def _fail(together: Sequence[_Waiting], error: Exception) -> None:
        for one in together:
            if not one.answer.done():
                one.answer.set_exception(error)


class Discloser:
    """Answers disclosures, small ones together."""

    def __init__(
        self, run: Callable[[DiscloseCall, Access, Pool, Keyring], Awaitable[list[DiscloseAnswer]]] = disclose
    ) -> None:
        self._run = run
        self._lanes: dict[tuple[str, str | None, str, tuple[str, ...]], _Lane] = {}

    async def disclose(self, call: DiscloseCall, access: Access, pool: Pool, keyring: Keyring) -> list[DiscloseAnswer]:
        """Answer each item; nothing leaves before its ledger row is committed."""
        if len(call.items) > SMALL_ITEMS_MAX:
            return await self._run(call, access, pool, keyring)
        key = (access.caller, access.purpose, call.provider, tuple(call.fields))
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(access, lambda call, access: self._run(call, access, pool, keyring))
        one = _Waiting(call, asyncio.get_running_loop().create_future())
        lane.waiting.append(one)
        if len(lane.drivers) < UNDER_WAY_MAX:
            lane.drivers.add(asyncio.create_task(self._drive(key, lane)))
        return await one.answer

    async def _drive(self, key: tuple[str, str | None, str, tuple[str, ...]], lane: _Lane) -> None:
        driver = asyncio.current_task()
        assert driver is not None
        try:
            await lane.drive()
        finally:
            lane.drivers.discard(driver)
            if not lane.drivers:
                del self._lanes[key]
