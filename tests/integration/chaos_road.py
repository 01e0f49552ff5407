"""What the chaos tests share: a whole road of their own, its rows, its log tails, and what must hold at the end."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from waystation.dlq import KafkaLetters
from waystation.ledger import read_balances
from waystation.operator import ServiceClient
from waystation.rehearsal import Load, Reckoning, Rehearsal, items, reckon
from waystation.stack import SERVICES, Stack

RECOVERY_SECONDS_MAX = 30.0
REST_SECONDS = 120.0
DOUBTS_PER_KILL_MAX = 16  # one a connection to the provider: what stands between final dot and answer
FLOW_POLL_SECONDS = 0.02
LOG_LINES = 25
OUTBOXES = ("ingestion", "routing", "enforcement")
MOVING = ("planned", "handing")
FAULTS = ("refuse", "slow-1", "later", "slow-1", "tarpit-1", "slow-1", "greylist-1")


@dataclass(frozen=True)
class Recovery:
    """What was killed or stopped, and how long it took from there until mails came through again."""

    component: str
    seconds: float


class Road:
    """A stack with all five services and the laboratory, driven by one test at a time."""

    def __init__(self, stack: Stack, rehearsal: Rehearsal, say) -> None:
        self.stack = stack
        self.rehearsal = rehearsal
        self.say = say

    # Rows

    def rows(self, database, sql, *arguments):
        """What a query finds in a service's database, as its superuser."""

        async def ask():
            connection = await asyncpg.connect(self.stack.dsn(database, "postgres"), timeout=10)
            try:
                return await connection.fetch(sql, *arguments, timeout=30)
            finally:
                await connection.close()

        return asyncio.run(ask())

    def one(self, database, sql, *arguments):
        """The first column of the only row."""
        return self.rows(database, sql, *arguments)[0][0]

    def states(self, account):
        """The state of each delivery of an account, by message id."""
        found = self.rows(
            "routing", "SELECT message_id, state FROM deliveries WHERE account_id = $1", account.account_id
        )
        return {str(row["message_id"]): row["state"] for row in found}

    def doubtful_attempts(self, message_ids):
        """(message id, result, reason) of the attempts of some deliveries."""
        sql = "SELECT message_id, result, reason FROM attempts WHERE message_id = ANY($1::uuid[])"
        return self.rows("routing", sql, [UUID(one) for one in message_ids])

    def dead_letters(self):
        """How many records stand in each dead-letter topic that is not empty."""
        letters = KafkaLetters(self.stack.kafka_credentials("operator"))
        counts = {
            topic: sum(end - start for start, end in letters.bounds(topic).values()) for topic in letters.topics()
        }
        assert counts, "there are no dead-letter topics"
        return {topic: count for topic, count in counts.items() if count}

    def pids(self):
        """The process id of each service's first copy."""
        return {status.name: status.pid for status in self.stack.status() if status.name.removesuffix("-1") in SERVICES}

    # Doing

    def load(self, name, count, *, faults=0):
        """An account and a load for it that has not begun; `faults` of its recipients fail in a way that ends well."""
        account = self.rehearsal.create_account(name)
        tag = f"{name}-"
        addresses = [f"{tag}{number}@kunden.example" for number in range(count)]
        for number in range(faults):
            place = (number * 2 + 1) * count // (2 * faults)
            addresses[place] = f"{FAULTS[number % len(FAULTS)]}+{tag}{number}@kunden.example"
        return account, Load(self.rehearsal, account, items(addresses, text_bytes=800, tag=tag))

    @contextlib.contextmanager
    def under_way(self, name, count, *, faults=0, burst=300):
        """A load whose mails come through, a burst of them just now; it is stopped at the end."""
        account, load = self.load(name, count, faults=faults)
        load.start(batch=2)
        try:
            self.wait_for_flow(self.rehearsal.recorded_count(), RECOVERY_SECONDS_MAX)
            load.burst(burst)
            self.wait_for_flow(self.rehearsal.recorded_count() + 60, RECOVERY_SECONDS_MAX)
            yield account, load
        finally:
            load.stop()

    def wait_for_flow(self, more_than, timeout_seconds):
        """Wait until the laboratory has recorded more mails than that."""
        ends = time.monotonic() + timeout_seconds
        while self.rehearsal.recorded_count() <= more_than:
            assert time.monotonic() < ends, f"no mail came through for {timeout_seconds:.0f} s"
            time.sleep(FLOW_POLL_SECONDS)

    def recovery(self, component, since, timeout_seconds=RECOVERY_SECONDS_MAX):
        """Wait until mails come through again, after everything is ready; say how long all of it took."""
        self.wait_for_flow(self.rehearsal.recorded_count(), timeout_seconds)
        for service in SERVICES:
            self.stack.wait_ready(service, timeout_seconds=timeout_seconds)
        seconds = time.monotonic() - since
        self.say(f"  {component}: mails come through again {seconds:.1f} s later")
        return Recovery(component, seconds)

    def wait_until_at_rest(self, account, admitted, timeout_seconds=REST_SECONDS):
        """Wait until every message rests, every receipt has arrived, and no outbox holds anything."""
        ends = time.monotonic() + timeout_seconds
        while restless := self.restless(account, admitted):
            assert time.monotonic() < ends, f"not at rest after {timeout_seconds:.0f} s: {restless}"
            time.sleep(0.3)

    def restless(self, account, admitted):
        """What still moves, in words; empty at rest."""
        counts = Counter(self.states(account).values())
        if counts.total() < len(admitted):
            return f"{counts.total()} of {len(admitted)} are planned"
        if moving := {state: counts[state] for state in MOVING if counts[state]}:
            due = self.one(
                "routing",
                "SELECT max(due_at - now()) FROM deliveries WHERE state = 'planned' AND account_id = $1",
                account.account_id,
            )
            return f"{moving}, the last due in {due}"
        full = {name: count for name in OUTBOXES if (count := self.one(name, "SELECT count(*) FROM outbox"))}
        waiting = self.one("ingestion", "SELECT count(*) FROM awaiting_receipt")
        told = self.told_states(account)
        behind = sum(told.get(message_id) != state for message_id, state in self.states(account).items())
        return ", ".join(
            f"{what}: {count}"
            for what, count in {"outboxes": full, "awaiting a receipt": waiting, "told otherwise": behind}.items()
            if count
        )

    def told_states(self, account):
        """The state of each message as its newest receipt told the door."""
        sql = """
            SELECT DISTINCT ON (message_id) message_id, s.state FROM message_steps s JOIN messages m ON m.id = message_id
            WHERE m.account_id = $1 ORDER BY message_id, sequence DESC
        """
        return {str(row["message_id"]): row["state"] for row in self.rows("ingestion", sql, UUID(account.account_id))}

    # What must hold

    def settle(self, account, load, timeout_seconds=REST_SECONDS):
        """End a load, wait for rest, and return what was admitted with the reckoning: nothing lost, nothing twice."""
        admitted = load.finish(timeout_seconds)
        self.wait_until_at_rest(account, admitted, timeout_seconds)
        reckoning = self.reckon(account, admitted)
        assert not reckoning.wrong, {kind: (len(found), found[:3]) for kind, found in reckoning.wrong.items()}
        self.require_conservation(account, admitted)
        assert self.dead_letters() == {}
        return admitted, reckoning

    def reckon(self, account, admitted) -> Reckoning:
        """Match the laboratory's record with the instructed digests of one account."""
        ours = {row["content_digest"] for row in self.rows("ingestion", "SELECT content_digest FROM messages")}
        digests = {one.digest for one in admitted}
        time.sleep(0.1)  # the laboratory writes what it has seen within 50 ms
        recorded = [mail for mail in self.rehearsal.recorded() if mail.sha256 in digests or mail.sha256 not in ours]
        return reckon(admitted, recorded, self.states(account))

    def require_conservation(self, account, admitted):
        """admitted = handed over + refused + withheld + expired + held + in doubt + waiting, each from its owner."""
        of_account = "WHERE account_id = $1"
        messages = self.one("ingestion", f"SELECT count(*) FROM messages {of_account}", UUID(account.account_id))
        verdicts = self.one("moderation", f"SELECT count(*) FROM verdicts {of_account}", account.account_id)
        states = Counter(self.states(account).values())
        handed = states["handed_over"] + states["delivered"]
        spent = self.one(
            "vault",
            "SELECT count(*) FROM instructions i WHERE spent_at IS NOT NULL AND EXISTS"
            " (SELECT FROM disclosures d WHERE d.message_id = i.message_id AND d.account_id = $1)",
            account.account_id,
        )
        self.say(f"  admitted {messages} = screened {verdicts} = {dict(states)}; spent at the vault {spent}")
        assert len({one.message_id for one in admitted}) == len(admitted) == messages == verdicts == states.total()
        assert spent == handed
        with ServiceClient(self.stack) as operator:
            balances, wrong = read_balances(operator, account.account_id)
        assert not wrong, "`waystation ledger` tells otherwise than the rows"
        assert [one.admitted for one in balances if one.account_id == account.account_id] == [messages]

    def require_doubts(self, reckoning, kills_of_routing):
        """Each message in doubt has an attempt without outcome; there are few, and only kills of routing leave any."""
        attempts = self.doubtful_attempts(reckoning.doubtful)
        doubted = {str(row["message_id"]) for row in attempts if row["result"] == "doubt"}
        reasons = dict(Counter(row["reason"] for row in attempts if row["result"] == "doubt"))
        self.say(
            f"  in doubt {len(reckoning.doubtful)}, seen by the laboratory {len(reckoning.doubtful_seen)}: {reasons}"
        )
        assert doubted == set(reckoning.doubtful), "a message in doubt has no attempt in doubt"
        assert {row["result"] for row in attempts} <= {"doubt", "unreached", "later"}
        assert len(reckoning.doubtful) <= DOUBTS_PER_KILL_MAX * kills_of_routing

    def log_tails(self):
        """The end of every log of the stack."""
        logs = sorted(self.stack.layout.logs.glob("*.log"))
        tails = {log.name: log.read_text(errors="replace").splitlines()[-LOG_LINES:] for log in logs}
        return "\n".join(f"--- {name}\n" + "\n".join(lines) for name, lines in tails.items())


def teller(config):
    """Say something on the terminal also while pytest captures output: what a chaos test measured is its result."""
    capture = config.pluginmanager.getplugin("capturemanager")

    def say(text):
        with capture.global_and_fixture_disabled():
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    return say
