"""A policy tried in a process of its own: its schema, its patterns, its own examples.

Trying takes a second of the interpreter, and longer where patterns are compiled for the first time (the compiled form
is kept for all processes of this user). What a pattern does to a compiler stays in that process, too.

    python -m moderation.trial < road.yaml      the document as JSON; status 3 and the reason when it is refused
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

from moderation.examples import require_examples
from moderation.policy.document import PolicyDocument
from moderation.policy.errors import PolicyError, TrialError
from moderation.policy.reading import parse_policy

SECONDS_MAX = 120
REFUSED = 3
_LESS_URGENT = 5


async def tried(text: str, *, with_examples: bool = True) -> PolicyDocument:
    """Return the document of a policy that compiles and keeps its own examples; raise PolicyError, or TrialError."""
    arguments = [] if with_examples else ["--without-examples"]
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "moderation.trial", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise TrialError(f"no process for it: {error.strerror}") from error
    try:
        async with asyncio.timeout(SECONDS_MAX):
            answer, _ = await process.communicate(text.encode("utf-8", "replace"))
    except TimeoutError:
        raise TrialError(f"it took longer than {SECONDS_MAX} s") from None
    finally:
        await _ended(process)
    if process.returncode == REFUSED:
        raise PolicyError(answer.decode("utf-8", "replace"))
    if process.returncode != 0:
        raise TrialError(f"its process ended with status {process.returncode}")
    return PolicyDocument.model_validate_json(answer)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End it if it still runs, and close what leads to it."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        await process.communicate()


def main() -> int:
    """Try the policy on standard input."""
    with contextlib.suppress(OSError):
        os.nice(_LESS_URGENT)
    try:
        policy = parse_policy(sys.stdin.buffer.read())
        if "--without-examples" not in sys.argv:
            require_examples(policy)
    except PolicyError as error:
        sys.stdout.write(str(error))
        return REFUSED
    sys.stdout.write(policy.document.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
