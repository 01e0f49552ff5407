"""`python -m waystation.contracts [--check]`."""

from __future__ import annotations

import sys

from waystation.contracts import differences, generate, write
from waystation.stack.layout import checkout_folder


def main(arguments: list[str]) -> int:
    """Write or check; return the exit status."""
    checkout = checkout_folder()
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m waystation.contracts [--check]\n")
        return 2
    wanted = generate(checkout)
    changed = differences(checkout, wanted) if arguments else write(checkout, wanted)
    for path in changed:
        sys.stdout.write(f"{'differs' if arguments else 'written'}  {path}\n")
    if arguments and changed:
        sys.stderr.write("error models, routes or topics changed: run `make contracts`, review the difference\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
