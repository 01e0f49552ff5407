"""What the demo asserts at its end, as plain functions over what the services and the laboratory say."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from waystation.demo.messages import DemoMessage
    from waystation.laboratory import RecordedMail
    from waystation.ledger import Ledger

LOST_IN_CALL = {"the worker was lost during the call", "the worker was killed between the final dot and its answer"}
"""What routing says of a call that its own end cut short: without its journal, and with it."""
KEPT_UNANSWERED = frozenset({"cut", "garbage"})
ARRIVED = frozenset({"handed_over", "delivered"})
FAULTS_SHOWN_MAX = 5


@dataclass(frozen=True, slots=True)
class Sent:
    """A message of the demo as the door admitted it; `digest` is the SHA-256 of the instructed bytes."""

    message: DemoMessage
    id: str
    digest: str


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a message: moderation's verdict, routing's state and reason, results of its attempts."""

    action: str
    clauses: tuple[str, ...]
    rules: tuple[str, ...]
    state: str
    reason: str
    results: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be so; `faults` says where it is not."""

    name: str
    found: str
    faults: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether no fault was found."""
        return not self.faults


def all_checks(
    sent: Sequence[Sent],
    fates: Mapping[str, Fate],
    recorded: Sequence[RecordedMail],
    ledger: Ledger,
    resolved: Mapping[str, str],
) -> list[Check]:
    """Return every check; `fates` and `resolved` (state by an operator's word) are by message id."""
    return [
        check_equation(ledger, len(sent)),
        check_bytes(sent, {one: fate.state for one, fate in fates.items()}, recorded),
        check_verdicts(sent, fates),
        check_ends(sent, fates, resolved),
    ]


def check_equation(ledger: Ledger, admitted: int) -> Check:
    """Nothing was lost, nothing moves any more, nothing came that nobody instructed."""
    total, unauthorised = ledger.total, sum(ledger.unauthorised.values())
    faults = [f"{part.name} is off by {part.difference}" for part in ledger.wrong]
    if total.admitted != admitted:
        faults.append(f"the door counts {total.admitted} messages, {admitted} were answered with 202")
    if total.in_flight:
        faults.append(f"{total.in_flight} messages are still on the road")
    if unauthorised:
        faults.append(f"{unauthorised} records came without authority")
    return Check(
        "equation", f"{total.admitted} admitted, {total.admitted + total.difference} accounted for", _t(faults)
    )


def check_bytes(sent: Sequence[Sent], states: Mapping[str, str], recorded: Sequence[RecordedMail]) -> Check:
    """What arrived is what was instructed, bit for bit, at the right address, once; and nothing else arrived."""
    instructed = {one.digest: one for one in sent}
    kept = Counter(mail.sha256 for mail in recorded if is_kept(mail))
    faults = [*_strangers(recorded, instructed), *_wrong_counts(sent, states, kept)]
    altered = sum(mail.sha256 not in instructed for mail in recorded)
    twice = sum(copies > 1 for copies in kept.values())
    found = f"{len(recorded)} contents reached the laboratory, {altered} altered; it kept {kept.total()}, {twice} twice"
    return Check("bytes", found, _t(faults))


def is_kept(mail: RecordedMail) -> bool:
    """Whether the laboratory took the mail, told or not; a mail answered 451 or 554 was read and thrown away."""
    return mail.accepted or mail.answer in KEPT_UNANSWERED


def _strangers(recorded: Iterable[RecordedMail], instructed: Mapping[str, Sent]) -> Iterator[str]:
    for mail in recorded:
        one = instructed.get(mail.sha256)
        if one is None:
            yield f"the laboratory has bytes {mail.sha256[:16]}..., which nobody instructed"
        elif mail.rcpt_to != one.message.recipient:
            yield f"{one.message.key} went to another recipient"


def _wrong_counts(sent: Iterable[Sent], states: Mapping[str, str], kept: Mapping[str, int]) -> Iterator[str]:
    for one in sent:
        state, copies = states.get(one.id, "unknown"), kept.get(one.digest, 0)
        if copies > 1:
            yield f"{one.message.key} was taken {copies} times"
        elif state in ARRIVED and not copies:
            yield f"{one.message.key} is {state}, but the laboratory has not got it"
        elif copies and state not in ARRIVED and state != "in_doubt":
            yield f"{one.message.key} is {state}, but the laboratory has got it"


def check_verdicts(sent: Sequence[Sent], fates: Mapping[str, Fate]) -> Check:
    """Screening found exactly what the script says, by the clause and the rule it names."""
    wrong = [one for one in sent if not _judged_as_expected(one.message, fates.get(one.id))]
    stopped = sum(one.message.action != "allow" for one in sent)
    found = f"{len(sent) - len(wrong)} of {len(sent)} as expected, {stopped} of them stopped"
    return Check("verdicts", found, _t(_verdict_fault(one, fates.get(one.id)) for one in wrong))


def _judged_as_expected(message: DemoMessage, fate: Fate | None) -> bool:
    if fate is None or fate.action != message.action:
        return False
    if message.rule is None:
        return not fate.rules
    return message.rule in fate.rules and message.clause in fate.clauses


def _verdict_fault(one: Sent, fate: Fate | None) -> str:
    wanted = f"{one.message.action} {one.message.rule or ''}".strip()
    got = f"{fate.action} {', '.join(fate.rules)}".strip() if fate else "no verdict"
    return f"{one.message.key} should be {wanted}, is {got}"


def check_ends(sent: Sequence[Sent], fates: Mapping[str, Fate], resolved: Mapping[str, str]) -> Check:
    """Each message rests where it should; one that was under way when routing was killed may be in doubt instead."""
    wrong = [one for one in sent if not _ended_as_expected(one, fates.get(one.id), resolved)]
    lost = sum(fate.state == "in_doubt" and fate.reason in LOST_IN_CALL for fate in fates.values())
    found = f"{len(sent) - len(wrong)} of {len(sent)} rest where they should, {lost} in doubt because of the kill"
    return Check("outcomes", found, _t(_end_fault(one, fates.get(one.id)) for one in wrong))


def _ended_as_expected(one: Sent, fate: Fate | None, resolved: Mapping[str, str]) -> bool:
    if fate is None:
        return False
    by_kill = fate.state == "in_doubt" and fate.reason in LOST_IN_CALL and one.message.action == "allow"
    return by_kill or fate.state == resolved.get(one.id, one.message.ends)


def _end_fault(one: Sent, fate: Fate | None) -> str:
    got = f"{fate.state} ({fate.reason})" if fate else "unknown to routing"
    return f"{one.message.key} should end {one.message.ends}, is {got}"


def _t(faults: Iterable[str]) -> tuple[str, ...]:
    return tuple(faults)
