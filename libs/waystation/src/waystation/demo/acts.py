"""The acts of the demo, each a function: what is done, what happens, what is shown."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from waystation import ledger, trace
from waystation.demo import road as roads
from waystation.demo.checks import FAULTS_SHOWN_MAX, Check, all_checks, is_kept
from waystation.demo.stage import LEASE_SECONDS
from waystation.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from waystation.demo.checks import Fate, Sent
    from waystation.demo.messages import Script
    from waystation.demo.road import Road
    from waystation.demo.story import Story
    from waystation.ledger import Ledger

SUBJECT_CHARACTERS_MAX = 44
TRACED = "later.brennan@slowpost.example"
RESOLVED = "cut.marsh@flaky-relay.example"
COMPLAINED = ("meanwhile", "compass")
OUTCOME_COLUMNS = ("messages", "state", "because", "for example")


@dataclass(slots=True)
class Play:
    """The demo while it runs: the road, the script, and who listens."""

    road: Road
    script: Script
    story: Story
    resolved: dict[str, str] = field(default_factory=dict)

    def one_to(self, recipient: str) -> Sent:
        """Return the first message that was sent to a recipient."""
        return next(one for one in self.road.sent if one.message.recipient == recipient)


@dataclass(frozen=True, slots=True)
class Result:
    """What the demo has to show at its end."""

    ledger: Ledger
    fates: dict[str, Fate]
    checks: list[Check]


def open_accounts(play: Play) -> None:
    """Two businesses come to the door."""
    play.story.act("Two businesses accept the rules, and get an account and a key")
    accounts = [play.road.open_account(business) for business in play.script.businesses]
    play.story.show(
        ("account", "what it is", "its inboxes"),
        [
            (one.business.name, one.business.about, ", ".join(inbox["address"] for inbox in one.business.inboxes))
            for one in accounts
        ],
    )


def ordinary_morning(play: Play) -> None:
    """Mail as it is on any day, with providers as they are on any day."""
    play.story.act("An ordinary morning: confirmations, invoices, codes, reminders")
    admitted, refused = play.road.send(play.script.wave("morning"))
    play.story.say(
        f"{len(admitted)} messages are admitted: composed once, sealed, each with a signed instruction that holds the"
        " SHA-256 of its final bytes."
    )
    for message, problem in refused:
        play.story.say(
            f"One is refused at the door ({problem['status']}, {problem['type'].rpartition(':')[2]}, clause"
            f" {problem.get('clause')}): {message.subject!r} names no legal basis."
        )
    play.road.wait_until_at_rest()
    play.story.say("Some of the providers' servers have a bad day, so not every message ends alike:")
    play.story.show(OUTCOME_COLUMNS, outcome_rows(admitted, play.road.fates(admitted)))


def what_breaks_a_clause(play: Play) -> None:
    """Screening stops what the rules forbid, and lets pass what only sounds like it."""
    play.story.act("Mail that breaks the rules")
    admitted, _ = play.road.send(play.script.wave("screening"))
    play.road.wait_until_at_rest()
    fates = play.road.fates(admitted)
    stopped = [one for one in admitted if fates[one.id].action != "allow"]
    rows = [
        (
            one.message.subject,
            fates[one.id].action,
            ", ".join(fates[one.id].clauses),
            ", ".join(fates[one.id].rules),
            fates[one.id].state,
        )
        for one in stopped
    ]
    play.story.say(
        f"{len(stopped)} of {len(admitted)} messages are stopped; each verdict is signed and cites its clause:"
    )
    play.story.show(("subject", "verdict", "clause", "rule", "state"), rows)
    passed = ", ".join(repr(one.message.subject) for one in admitted if fates[one.id].action == "allow")
    play.story.say(f"What only sounds dangerous goes through: {passed}.")


def kill_in_the_middle(play: Play) -> None:
    """Routing is killed while calls are open; the door goes on; nothing is lost, nothing is sent twice."""
    road, story = play.road, play.story
    story.act("Routing is killed with SIGKILL in the middle of a newsletter")
    first, _ = road.send(play.script.wave("kill"))
    slow = {one.digest for one in first if one.message.recipient.startswith("slow-")}
    roads.wait_for(lambda: slow <= {mail.sha256 for mail in road.recorded()}, "the slow server has read all its mails")
    roads.wait_for(lambda: road.in_flight() <= len(slow), "only the slow server has not answered yet")
    road.stage.stack.kill_service("routing")
    taken = {mail.sha256 for mail in road.recorded()} & {one.digest for one in first}
    story.say(
        f"{len(first)} newsletters are on their way. The provider has {len(taken)} of them, of which {len(slow)} are"
        " not answered yet, when routing dies."
    )
    second, _ = road.send(play.script.wave("meanwhile"))
    story.say(f"The door does not notice: {len(second)} more messages are admitted and screened, and wait in Kafka.")
    begun = time.monotonic()
    road.stage.restart_routing()
    ready_seconds = time.monotonic() - begun
    read = road.wait_until_at_rest()
    story.say(
        f"Routing is started again, ready after {ready_seconds:.1f} s; after {time.monotonic() - begun:.1f} s every"
        f" message rests (a dead worker's leases end after {LEASE_SECONDS} s). Admitted so far:"
        f" {read.total.admitted}, accounted for: {read.total.admitted + read.total.difference}."
    )
    both = [*first, *second]
    story.show(OUTCOME_COLUMNS, outcome_rows(both, road.fates(both)))


def in_doubt(play: Play) -> None:
    """What nobody knows is said to be unknown; the laboratory shows why neither guess would do."""
    road, story = play.road, play.story
    story.act("In doubt: the content left, no answer came")
    story.say(
        "Sending these again could send them twice; calling them sent could be a lie. They are listed until somebody"
        " asks the provider. We can look into the laboratory, which knows:"
    )
    story.ask("waystation doubt list")
    doubts = road.operator.get("routing", "/v1/doubts")["items"]
    sent = {one.id: one for one in road.sent}
    kept = {mail.sha256 for mail in road.recorded() if is_kept(mail)}
    rows = [
        (
            doubt["message_id"],
            shortened(sent[doubt["message_id"]].message.subject),
            doubt["reason"],
            "has it" if sent[doubt["message_id"]].digest in kept else "has nothing",
        )
        for doubt in doubts
    ]
    story.show(("message", "subject", "what routing knows", "the provider in truth"), rows)
    asked = play.one_to(RESOLVED)
    answer = road.operator.post("routing", f"/v1/doubts/{asked.id}:resolve", {"decision": "handed_over"})
    play.resolved[asked.id] = "handed_over"
    story.say(f"An operator asks about {asked.message.subject!r}, the provider has it, and he writes that down:")
    story.ask(f"waystation doubt resolve {asked.id} --handed-over")
    story.say(f"It is {answer['state'].replace('_', ' ')} now: {answer['reason']}.")


def complaint(play: Play) -> None:
    """A recipient complains, an operator confirms, and what comes afterwards is held."""
    road, story = play.road, play.story
    story.act("A recipient complains, and the account is suspended")
    about = next(one for one in road.sent if (one.message.wave, one.message.business) == COMPLAINED)
    account = road.accounts[about.message.business]
    receipt = _file_complaint(road, account.id, about.id)
    story.say(
        f"Somebody never asked for {about.message.subject!r} and says so, over plain HTTP; nothing follows from it"
        f" yet. An operator looks at complaint {receipt['id']} and confirms it:"
    )
    reason = "advertising without consent"
    story.ask(f'waystation complaints confirm {receipt["id"]} --standing suspended --reason "{reason}"')
    begun = time.monotonic()
    path = f"/v1/complaints/{receipt['id']}:confirm"
    road.operator.post("enforcement", path, {"standing": "suspended", "reason": reason})
    road.wait_until_in_force(account, "suspended")
    story.say(
        f"{(time.monotonic() - begun) * 1000:.0f} ms later routing certifies that {account.business.name} is suspended"
        " and that no call for it is open any more. Both businesses go on sending:"
    )
    admitted, _ = road.send(play.script.wave("suspended"))
    road.wait_until_at_rest()
    story.show(("account", *OUTCOME_COLUMNS), _by_account(play, admitted, road.fates(admitted)))


def _file_complaint(road: Road, account_id: str, message_id: str) -> dict[str, Any]:
    body = {
        "account_id": account_id,
        "clause": "R5.1",
        "category": "unsolicited",
        "origin": "recipient",
        "message_id": message_id,
    }
    answer = road.http.post(f"{road.stage.stack.url('enforcement')}/v1/complaints", json=body)
    if not answer.is_success:
        raise CommandError(f"the complaint was refused ({answer.status_code}): {answer.text[:300]}")
    receipt: dict[str, Any] = answer.json()
    return receipt


def _by_account(play: Play, sent: Sequence[Sent], fates: dict[str, Fate]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for account in play.road.accounts.values():
        own = [one for one in sent if one.message.business == account.business.id]
        rows += [(account.business.name, *row) for row in outcome_rows(own, fates)]
    return rows


def one_message(play: Play) -> None:
    """One message told in full, with what was disclosed about its recipient."""
    road, story = play.road, play.story
    one = play.one_to(TRACED)
    story.act("One message in full: the server said 'not now' first")
    story.ask(f"waystation trace {one.id}")
    known = trace.ask(road.operator, one.id)
    story.show_table(trace.trace_table(known, trace.moments(known)))
    story.say(
        "What was passed on about its recipient stands in the vault's disclosure ledger, written before the provider"
        " was given anything:"
    )
    rows = [
        (
            entry["asked_at"][11:23],
            entry["provider"],
            ", ".join(entry["fields"]),
            entry["recipient_token"],
            entry["legal_basis"],
            entry["attempt"],
            (entry["acknowledged_at"] or "-")[11:23] or "-",
        )
        for entry in known.disclosures
    ]
    story.show(("asked at", "provider", "fields", "about", "legal basis", "attempt", "acknowledged at"), rows)


def reckoning(play: Play) -> Result:
    """The conservation equation, and the checks."""
    road, story = play.road, play.story
    story.act("The reckoning: each term is counted from its owner's rows")
    story.ask("waystation ledger")
    read = road.wait_until_at_rest()
    fates = road.fates(road.sent)
    story.show_table(ledger.ledger_table(read))
    story.say(ledger.equation(read.total))
    story.say(ledger.unauthorised_line(read))
    for line in ledger.differences(read):
        story.say(line)
    checks = all_checks(road.sent, fates, road.recorded(), read, play.resolved)
    for check in checks:
        story.judge(check.name, check.found, good=check.holds)
        for fault in check.faults[:FAULTS_SHOWN_MAX]:
            story.say(f"       - {fault}")
    return Result(read, fates, checks)


ACTS = (open_accounts, ordinary_morning, what_breaks_a_clause, kill_in_the_middle, in_doubt, complaint, one_message)


def outcome_rows(sent: Iterable[Sent], fates: dict[str, Fate]) -> list[tuple[int, str, str, str]]:
    """Return (count, state, reason, an example's subject), the most frequent first."""
    groups: dict[tuple[str, str], list[Sent]] = defaultdict(list)
    for one in sent:
        fate = fates[one.id]
        groups[fate.state.replace("_", " "), _told(fate)].append(one)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    return [(len(ones), state, reason, shortened(ones[0].message.subject)) for (state, reason), ones in ordered]


def _told(fate: Fate) -> str:
    tries = len(fate.results)
    return f"{fate.reason}, at attempt {tries}" if tries > 1 and fate.state == "handed_over" else fate.reason


def shortened(text: str) -> str:
    """Return a subject that fits into a column."""
    return text if len(text) <= SUBJECT_CHARACTERS_MAX else text[: SUBJECT_CHARACTERS_MAX - 3] + "..."
