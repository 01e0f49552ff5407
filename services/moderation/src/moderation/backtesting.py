"""Policies over many messages, in several processes: what would newly be stopped or passed."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import orjson

from moderation.comparing import Backtest, Judged
from moderation.examination import Case
from moderation.examples import require_examples
from moderation.mail import read_mail
from moderation.messages import case_of_line
from moderation.models import ModelBank
from moderation.policy.reading import NO_LISTS, read_policy
from moderation.remembering import RememberedScores
from moderation.screening import Screener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from common.events.intake import Tool
    from moderation.lists import HashLists

CHUNK_MESSAGES = 200
_AHEAD = 3


class Line(NamedTuple):
    """A message that both policies judged."""

    identity: str
    account: str
    before: Judged
    after: Judged


class Judges:
    """A new policy, and an old one where there are no verdicts to compare with, in each of some processes."""

    def __init__(self, new: Path, old: Path | None, models: Path | None, workers: int) -> None:
        """Check the new policy here, so that its mistakes are told once; raise PolicyError."""
        require_examples(read_policy(new))
        self._workers = max(1, workers)
        self._setup = (new, old, models)

    def pool(self, lists: HashLists = NO_LISTS) -> ProcessPoolExecutor:
        """Return the processes; each reads policies and models once, and has the lists beside the new policy."""
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, context, initializer=_prepare, initargs=(*self._setup, lists))

    def of_lines(self, blocks: Iterable[Sequence[bytes]]) -> Backtest:
        """Judge JSON Lines by both policies."""
        result = Backtest()
        with self.pool() as pool:
            for lines in self.spread(pool, judge_lines, chunks(blocks)):
                for line in lines:
                    result.add(line.identity, line.account, line.before, line.after)
        return result

    def spread(
        self,
        pool: ProcessPoolExecutor,
        work: Callable[[list[bytes]], list[Line]],
        parts: Iterable[list[bytes]],
    ) -> Iterator[list[Line]]:
        """Yield what comes of the parts in their order, a few of them ahead."""
        begun: deque[Future[list[Line]]] = deque()
        for part in parts:
            begun.append(pool.submit(work, part))
            if len(begun) > _AHEAD * self._workers:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def chunks(blocks: Iterable[Sequence[bytes]]) -> Iterator[list[bytes]]:
    """Yield written lines in chunks of equal size."""
    chunk: list[bytes] = []
    for block in blocks:
        for line in block:
            if line.strip():
                chunk.append(line)
            if len(chunk) == CHUNK_MESSAGES:
                yield chunk
                chunk = []
    if chunk:
        yield chunk


class _Desk(NamedTuple):
    new: Screener
    old: Screener | None


_DESKS: list[_Desk] = []
"""The one of this worker process; an executor's initializer can leave it nowhere else."""


def _prepare(new: Path, old: Path | None, models: Path | None, lists: HashLists) -> None:
    os.nice(5)
    scorer = None if models is None else RememberedScores(ModelBank.load(models))
    before = None if old is None else Screener(read_policy(old), scorer)
    _DESKS[:] = [_Desk(Screener(read_policy(new), scorer, lists=lists), before)]


def judge_lines(lines: list[bytes]) -> list[Line]:
    """Judge JSON Lines by the two policies of this process."""
    desk = _DESKS[0]
    assert desk.old is not None, "lines have no verdicts yet"
    read = [case_of_line(line) for line in lines]
    cases = [case for _, case, _ in read]
    decided = zip(desk.old.screen(cases), desk.new.screen(cases), strict=True)
    return [
        Line(str(identity), account_of(line), Judged.of(before), Judged.of(after))
        for line, (identity, _, _), (before, after) in zip(lines, read, decided, strict=True)
    ]


def judge_mails(mails: list[tuple[Tool, bytes]]) -> list[Judged]:
    """Judge mails by the new policy."""
    cases = [Case(read_mail(content), tool) for tool, content in mails]
    return [Judged.of(decision) for decision in _DESKS[0].new.screen(cases)]


def account_of(line: bytes) -> str:
    """Return a line's `account`, or a dash."""
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError:
        return "-"
    return str(document.get("account", "-")) if isinstance(document, dict) else "-"
