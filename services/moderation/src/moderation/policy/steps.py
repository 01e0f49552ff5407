"""Work in steps: done at once, or in slices between which the event loop turns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TypeVar

SLICE_SECONDS = 0.005

Result = TypeVar("Result")
Steps = Generator[None, None, Result]
"""Yields between two steps, each of a few milliseconds."""


def finished(steps: Steps[Result]) -> Result:
    """Do all steps, and return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: Result = done.value
            return result


async def in_slices(steps: Steps[Result]) -> Result:
    """Do all steps, and let the loop turn whenever a slice of time is used up.

    A thread would be worse: who lets go of the interpreter for an instant waits 5 ms until the thread gives it back.
    """
    begun = time.perf_counter()
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: Result = done.value
            return result
        if time.perf_counter() - begun >= SLICE_SECONDS:
            await asyncio.sleep(0)
            begun = time.perf_counter()
