"""YARA rules over the bytes of attachments, by YARA-X with one scanner that is used again."""

from __future__ import annotations

import yara_x

SCAN_SECONDS_MAX = 1


class SignatureError(ValueError):
    """The rules do not compile; the text is the compiler's."""


class SignatureBank:
    """Compiled rules; not for several threads at once."""

    def __init__(self, source: str) -> None:
        """Compile; raise SignatureError."""
        try:
            rules = yara_x.compile(source)
        except yara_x.CompileError as error:
            raise SignatureError(str(error)) from None
        self._scanner = yara_x.Scanner(rules)
        self._scanner.set_timeout(SCAN_SECONDS_MAX)

    def matches(self, content: bytes) -> tuple[str, ...]:
        """Return the names of the rules that match; none when the time ran out."""
        try:
            found = self._scanner.scan(content)
        except yara_x.TimeoutError:
            return ()
        return tuple(rule.identifier for rule in found.matching_rules)
