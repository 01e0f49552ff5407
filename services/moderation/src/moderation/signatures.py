"""YARA rules over the bytes of attachments, by YARA-X with one scanner that is used again."""

from __future__ import annotations

import threading

import yara_x

SCAN_SECONDS_MAX = 1
MATCHES_MAX = 1000


class SignatureError(ValueError):
    """The rules do not compile; the text is the compiler's."""


class SignatureBank:
    """Compiled rules. The main thread uses one scanner again and again, another thread makes one for each scan.

    A scanner must stay in the thread that made it, and a policy is compiled in one and used in another.
    """

    def __init__(self, source: str) -> None:
        """Compile; raise SignatureError."""
        try:
            self._rules = yara_x.compile(source)
        except yara_x.CompileError as error:
            raise SignatureError(str(error)) from None
        self._kept: yara_x.Scanner | None = None

    def matches(self, content: bytes) -> tuple[str, ...]:
        """Return the names of the rules that match; none when the time ran out."""
        try:
            found = self._scanner().scan(content)
        except yara_x.TimeoutError:
            return ()
        return tuple(rule.identifier for rule in found.matching_rules)

    def _scanner(self) -> yara_x.Scanner:
        if threading.current_thread() is not threading.main_thread():
            return self._new()
        if self._kept is None:
            self._kept = self._new()
        return self._kept

    def _new(self) -> yara_x.Scanner:
        scanner = yara_x.Scanner(self._rules)
        scanner.set_timeout(SCAN_SECONDS_MAX)
        scanner.max_matches_per_pattern(MATCHES_MAX)
        return scanner
