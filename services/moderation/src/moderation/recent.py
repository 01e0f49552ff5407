"""What each account sent lately, as far as this copy of the service saw it: for velocity, sameness and overlap.

In memory and bounded: the accounts seen last, of each the last messages. Records of one recipient all come to one copy
(they share a partition), so overlap is exact; with several copies the others are of this copy's part of the traffic.
"""

from __future__ import annotations

import re
import string
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    from moderation.mail import MailParts

ACCOUNTS_MAX = 10_000
MESSAGES_MAX = 50
MINUTE_SECONDS = 60.0
_LETTERS_MAX = 400
_VARIABLE = bytes(set(range(0x21, 0x7F)) - set(string.ascii_letters.encode()))
_ADDRESS = re.compile(rb"https?:\S+|\S+@\S+")


class Seen(NamedTuple):
    """One account at the moment of a message; shares are of its last messages, None before there are five."""

    messages_per_minute: float
    same_text_share: float | None
    recipient_overlap: float | None


@dataclass(slots=True)
class _Account:
    times: deque[float] = field(default_factory=deque)
    recipients: deque[str] = field(default_factory=lambda: deque(maxlen=MESSAGES_MAX))
    texts: deque[int] = field(default_factory=lambda: deque(maxlen=MESSAGES_MAX))


class RecentMessages:
    """The last messages of the accounts that wrote last."""

    def __init__(self, accounts_max: int = ACCOUNTS_MAX) -> None:
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._accounts_max = accounts_max

    def add(self, account_id: str, recipient: str, parts: MailParts, moment: datetime) -> Seen:
        """Note a message, and return what its account looks like with it."""
        account = self._accounts.setdefault(account_id, _Account())
        self._accounts.move_to_end(account_id)
        if len(self._accounts) > self._accounts_max:
            self._accounts.popitem(last=False)
        now, text = moment.timestamp(), likeness(parts)
        account.times.append(now)
        while account.times[0] < now - MINUTE_SECONDS:
            account.times.popleft()
        seen = Seen(
            float(len(account.times)),
            _share(account.texts.count(text), len(account.texts)),
            _share(account.recipients.count(recipient), len(account.recipients)),
        )
        account.recipients.append(recipient)
        account.texts.append(text)
        return seen


def likeness(parts: MailParts) -> int:
    """Return one number for texts that differ in numbers, addresses, signs and white space only."""
    text = "\n".join([parts.subject, *(part.text[:_LETTERS_MAX] for part in parts.texts)])[: 2 * _LETTERS_MAX]
    data = text.encode("utf-8", "replace").lower()
    if b"http" in data or b"@" in data:
        data = _ADDRESS.sub(b"", data)
    return hash(b" ".join(data.translate(None, _VARIABLE).split()))


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole >= _WHOLE_MIN else None


_WHOLE_MIN = 5
