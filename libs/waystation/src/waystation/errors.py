"""What the command may tell a person instead of a traceback."""

from __future__ import annotations


class CommandError(Exception):
    """An expected failure: what happened, and what to do next.

    Args:
        message: what happened, without personal data.
        next_step: what the reader can do now; empty when the message says it already.
    """

    exit_status = 1

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message}\n{self.next_step}" if self.next_step else self.message
