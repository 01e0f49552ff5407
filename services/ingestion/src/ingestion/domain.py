"""Who may instruct what: the checks of the door, as plain functions over what the database knew at one moment.

The order of the checks is part of the contract: size and shape, key, idempotency, grant, rules, standing, rate,
addresses, legal basis. The first that fails gives the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING, Literal, NamedTuple

from common.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.events.enforcement import Standing
    from common.events.intake import Tool

VALIDITY_DEFAULT = timedelta(hours=72)
VALIDITY_MAX = timedelta(days=30)
TOOLS = frozenset({"email"})


@dataclass(frozen=True, slots=True)
class RulesInForce:
    """Version of the rules that holds now, with the SHA-256 of its text."""

    version: str
    text_digest: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What an administrator allowed a user."""

    id: str
    tools: frozenset[str]
    ends_at: datetime | None
    granter_is_active_administrator: bool

    def covers(self, tool: str, now: datetime) -> bool:
        """Whether it lets its user send by a tool now."""
        live = self.ends_at is None or now < self.ends_at
        return live and self.granter_is_active_administrator and tool in self.tools


@dataclass(frozen=True, slots=True)
class Inbox:
    """One of the account's own addresses on a tool."""

    id: str
    tool: Tool
    address: str
    display_name: str | None


@dataclass(frozen=True, slots=True)
class Authority:
    """All that stands behind one API key at one moment."""

    account_id: str
    user_id: str
    role: Literal["administrator", "user"]
    user_active: bool
    key_expires_at: datetime | None
    accepts_rules_in_force: bool
    standing: Standing
    grants: tuple[Grant, ...]
    inboxes: Mapping[str, Inbox]
    """By id and by address."""


class Window(NamedTuple):
    """When a message may be handed over."""

    not_before: datetime
    not_after: datetime


def checked_key(authority: Authority | None, now: datetime) -> Authority:
    """Return what stands behind a key.

    Raises:
        Problem: nothing does, or not any more.
    """
    if authority is None:
        raise Problem(
            401, "unknown-key", "the API key is not known here: check it, or get another", field="authorization"
        )
    if authority.key_expires_at is not None and authority.key_expires_at <= now:
        raise Problem(
            401, "expired-key", "the API key has expired: ask an administrator for one", field="authorization"
        )
    return authority


def used_grants(authority: Authority, tool: str, now: datetime) -> tuple[str, ...]:
    """Return the grant under which the user of a key sends by a tool; an administrator needs none.

    Raises:
        Problem: clause R4.1.
    """
    if authority.user_active:
        if authority.role == "administrator":
            return ()
        for grant in authority.grants:
            if grant.covers(tool, now):
                return (grant.id,)
    raise Problem(
        403,
        "no-grant",
        f"the user of this key has no live grant for {tool} from an active administrator: ask one for a grant",
        field="tool",
        clause="R4.1",
    )


def check_account(authority: Authority, rules: RulesInForce) -> None:
    """Refuse what the account as a whole may not do. A suspended one may send: routing holds its messages.

    Raises:
        Problem: clause R0 or R7.
    """
    if not authority.accepts_rules_in_force:
        raise Problem(
            403,
            "rules-not-accepted",
            f"the account has not accepted version {rules.version} of the rules: an administrator has to accept it",
            clause="R0",
            rules_version=rules.version,
        )
    if authority.standing == "blocked":
        raise Problem(
            403, "account-blocked", "the account is blocked: see the decision and answer it, or appeal", clause="R7"
        )


def check_rate(wait_seconds: float) -> None:
    """Refuse an account that sends faster than it may.

    Raises:
        Problem: it has to wait.
    """
    if wait_seconds <= 0:
        return
    seconds = ceil(wait_seconds)
    raise Problem(
        429,
        "rate-exceeded",
        f"the account sends faster than it may: come back in {seconds} seconds",
        retry_after_seconds=seconds,
        retry_after=seconds,
    )


def check_basis(*, vouched_for: bool) -> None:
    """Refuse a message whose legal basis nobody vouches for.

    Raises:
        Problem: clause R4.3.
    """
    if not vouched_for:
        raise Problem(
            422,
            "no-legal-basis",
            "no legal basis is named for passing the recipient's data on: name one, with a reference or attested",
            field="legal_basis",
            clause="R4.3",
        )


def feedback_id(purpose: str, account_id: str, tool: str) -> str:
    """Return the Feedback-ID of a mail: campaign, customer, kind and sender, as mailbox providers group complaints."""
    return f"{purpose.replace(':', '.')}:{account_id}:{tool}:waystation"


def validity(not_before: datetime | None, not_after: datetime | None, now: datetime) -> Window:
    """Return the window of a message admitted now; 72 hours unless it says otherwise.

    Raises:
        Problem: it is empty, over, or begins or ends later than in 30 days.
    """
    opens = not_before or now
    if opens >= now + VALIDITY_MAX:
        raise Problem(
            422,
            "invalid-window",
            f"not_before is {VALIDITY_MAX.days} days away or more: begin sooner",
            field="not_before",
            limit=VALIDITY_MAX.days,
        )
    closes = not_after or min(max(opens, now) + VALIDITY_DEFAULT, now + VALIDITY_MAX)
    if closes > now + VALIDITY_MAX:
        days = VALIDITY_MAX.days
        raise Problem(
            422, "invalid-window", f"not_after is more than {days} days away: end sooner", field="not_after", limit=days
        )
    if closes <= now or closes <= opens:
        field = "not_before" if not_after is None else "not_after"
        raise Problem(422, "invalid-window", f"{field} leaves no time to deliver the message", field=field)
    return Window(opens, closes)


@dataclass(slots=True)
class TokenBucket:
    """How much one account may still send: `capacity` at once, refilled by `per_second`."""

    per_second: float
    capacity: float
    level: float
    filled_at: float

    @classmethod
    def full(cls, per_second: float, capacity: float, moment: float) -> TokenBucket:
        """Return a bucket that was not used lately."""
        return cls(per_second, capacity, capacity, moment)

    def take(self, moment: float) -> float:
        """Take one token; return 0, or the seconds until there is one (then none is taken)."""
        self.level = min(self.capacity, self.level + (moment - self.filled_at) * self.per_second)
        self.filled_at = moment
        if self.level < 1:
            return (1 - self.level) / self.per_second
        self.level -= 1
        return 0.0
