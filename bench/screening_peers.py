"""What users would pick today, on the same texts: run by `bench/screening.py` in an environment of its own.

Reads a list of texts (JSON) from standard input, writes {name: {"flags": [...], "cpu_seconds": ...}}.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SLOW_TEXTS = 100
"""better-profanity takes tens of milliseconds a text: it is asked about every so many."""


def main() -> None:
    from better_profanity import profanity  # noqa: PLC0415  only in the environment of the peers
    from profanity_check import predict  # noqa: PLC0415

    texts: list[str] = json.load(sys.stdin)
    profanity.load_censor_words()
    step = max(1, len(texts) // SLOW_TEXTS)
    result = {
        "alt-profanity-check": measured(lambda some: [bool(flag) for flag in predict(some)], texts, 1),
        "better-profanity": measured(
            lambda some: [profanity.contains_profanity(text) for text in some], texts[::step], step
        ),
    }
    json.dump(result, sys.stdout)


def measured(ask: Callable[[Sequence[str]], list[bool]], texts: Sequence[str], step: int) -> dict[str, Any]:
    """Return what a peer says, what that took, and that it was asked about each `step`th text."""
    ask(texts[:10])
    before = time.process_time()
    flags = ask(texts)
    return {"flags": flags, "cpu_seconds": time.process_time() - before, "step": step}


if __name__ == "__main__":
    main()
