"""A new policy over messages that were really admitted, against the verdicts that they got.

It is screening once more: as the principal moderation, with its settings, opening content for the purpose of screening
and keeping nothing of it. Only counts come out, and message ids.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import orjson

from common.events.intake import MessageAdmitted, VerifiedInstruction
from common.http.vault import VaultClient
from common.kafka.replay import replay
from common.postgres.pool import connect_pool
from common.security.signing import SignatureError, TrustedKeys
from common.security.tokens import TokenIssuer
from common.times import now
from moderation.backtesting import Judges, judge_mails
from moderation.comparing import Backtest, Judged
from moderation.config import ModerationSettings
from moderation.handlers import content_of
from moderation.rejudging.lists import lists_now
from moderation.store import find_verdicts

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Sequence
    from concurrent.futures import ProcessPoolExecutor
    from pathlib import Path

    from common.kafka.consumer import Received
    from common.postgres.pool import Pool

_AHEAD = 6
Asked = tuple["VerifiedInstruction", Judged]


class _Enough(Exception):  # noqa: N818  no error: the slice is full
    pass


def backtest_intake(new: Path, models: Path | None, workers: int, messages_max: int, hours: float) -> Backtest:
    """Judge what was admitted within the last hours, at most so many; raise PolicyError."""
    judges = Judges(new, None, models, workers)
    return asyncio.run(_backtest(judges, ModerationSettings(), messages_max, hours))


async def _backtest(judges: Judges, settings: ModerationSettings, messages_max: int, hours: float) -> Backtest:
    pool = await connect_pool(settings.postgres_dsn.get_secret_value(), connections_max=2)
    vault = VaultClient(settings.vault_url, TokenIssuer.from_file("moderation", settings.identity_key_file))
    keys = TrustedKeys.from_folder("instruction", settings.trusted_keys_dir)
    processes = judges.pool(await lists_now(pool))
    slice_ = _Slice(processes, pool, vault, keys, messages_max)
    since = now() - timedelta(hours=hours)
    try:
        await replay(settings.kafka, MessageAdmitted, since, slice_.take, client_id=f"{settings.instance}.backtest")
    except _Enough:
        pass
    finally:
        await slice_.finish()
        processes.shutdown()
        await vault.close()
        await pool.close()
    return slice_.result


@dataclass(slots=True)
class _Slice:
    """What was read so far, some batches of it in the hands of other processes."""

    processes: ProcessPoolExecutor
    pool: Pool
    vault: VaultClient
    keys: TrustedKeys
    messages_max: int
    result: Backtest = field(default_factory=Backtest)
    read: int = 0
    begun: deque[tuple[list[Asked], Future[list[Judged]]]] = field(default_factory=deque)

    async def take(self, batch: Sequence[Received[MessageAdmitted]]) -> None:
        """Open a batch, and give it to a process; messages without a verdict, or that nobody can open, are left out."""
        asked = await self._with_verdicts(batch[: self.messages_max - self.read])
        contents = await content_of([verified for verified, _ in asked], self.vault)
        readable = [
            (one, content) for one in asked if isinstance(content := contents[one[0].instruction.message_id], bytes)
        ]
        self.read += len(readable)
        mails = [(one[0].instruction.tool, content) for one, content in readable]
        if mails:
            work = asyncio.get_running_loop().run_in_executor(self.processes, judge_mails, mails)
            self.begun.append(([one for one, _ in readable], work))
        while len(self.begun) > _AHEAD:
            await self._add()
        if self.read >= self.messages_max:
            raise _Enough

    async def finish(self) -> None:
        """Wait for what is in hand."""
        while self.begun:
            await self._add()

    async def _add(self) -> None:
        asked, work = self.begun.popleft()
        for (verified, before), after in zip(asked, await work, strict=True):
            instruction = verified.instruction
            self.result.add(instruction.message_id, instruction.account_id, before, after)

    async def _with_verdicts(self, batch: Sequence[Received[MessageAdmitted]]) -> list[Asked]:
        genuine: dict[str, VerifiedInstruction] = {}
        for received in batch:
            try:
                verified = VerifiedInstruction.verify(received.event, self.keys)
            except SignatureError:
                continue
            genuine[verified.instruction.message_id] = verified
        async with self.pool.acquire() as connection:
            verdicts = await find_verdicts(connection, genuine)
        return [
            (genuine[message_id], _judged(kept.signed.statement))
            for message_id, kept in verdicts.items()
            if kept.instruction_digest == genuine[message_id].digest
        ]


def _judged(statement: bytes) -> Judged:
    said = orjson.loads(statement)
    return Judged(said["action"], tuple(said["clauses"]), tuple(said["rules"]))
