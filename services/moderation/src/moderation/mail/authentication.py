"""What the receiving mail server found of a mail's origin (Authentication-Results, RFC 8601)."""

from __future__ import annotations

import re

_CHARACTERS_MAX = 4_000
_COMMENT = re.compile(r"\([^()]*\)")
_RESULT = re.compile(r"\b(spf|dkim|dmarc)\s*=\s*([a-z]+)")
_FAILURES = frozenset(["fail", "permerror"])


def authentication_failed(header: str, server: str) -> bool | None:
    """Whether the origin is not what the mail says; None when our own server said nothing.

    Only the topmost header is looked at, and only if it names our own server: anybody may write one into a mail. DMARC
    decides where it has a result; else SPF or DKIM, of which one that passed is enough.
    """
    text = _COMMENT.sub(" ", header[:_CHARACTERS_MAX].lower())
    name, _, results = text.partition(";")
    if not server or name.split()[:1] != [server.lower()]:
        return None
    found: dict[str, set[str]] = {}
    for method, result in _RESULT.findall(results):
        found.setdefault(method, set()).add(result)
    if dmarc := found.get("dmarc", set()) - {"none", "temperror"}:
        return bool(dmarc & _FAILURES)
    said = found.get("spf", set()) | found.get("dkim", set())
    if "pass" in said:
        return False
    return True if said & _FAILURES else None
