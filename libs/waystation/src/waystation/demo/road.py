"""What the demo plays on: a stack of its own, the SMTP laboratory beside it, and the doors of the five services."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from waystation import ledger
from waystation.demo.checks import Fate, Sent
from waystation.errors import CommandError
from waystation.laboratory import read_record
from waystation.stack import HOST, SERVICES, Stack, checkout_folder
from waystation.stack.processes import Command, Registry, spawn, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from waystation.demo.messages import Business, DemoMessage
    from waystation.laboratory import RecordedMail
    from waystation.operator import ServiceClient

LABORATORY = "laboratory"
LEASE_SECONDS = 4
ROUTING_ENVIRONMENT = {
    "ROUTING_LEASE_SECONDS": str(LEASE_SECONDS),
    "ROUTING_LEASE_MARGIN_SECONDS": "1",
    "ROUTING_RETRY_SECONDS_FIRST": "0.5",
}
POLL_SECONDS = 0.1
PATIENCE_SECONDS = 45.0


@dataclass(frozen=True, slots=True)
class Account:
    """A business with its account at the door."""

    business: Business
    id: str
    api_key: str


@dataclass(slots=True)
class Road:
    """The demo's stack, and what it has sent so far."""

    stack: Stack
    operator: ServiceClient
    http: httpx.Client
    accounts: dict[str, Account] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)

    # Accounts and messages

    def open_account(self, business: Business) -> Account:
        """Create an account that accepts the rules in force; an administrator's key comes with it."""
        wanted = {"name": business.name, "inboxes": list(business.inboxes), "accept_rules": "1"}
        made = self.operator.post("ingestion", "/v1/accounts", wanted)
        account = Account(business, made["id"], made["api_key"])
        self.accounts[business.id] = account
        return account

    def send(self, messages: Iterable[DemoMessage]) -> tuple[list[Sent], list[tuple[DemoMessage, dict[str, Any]]]]:
        """Send messages, a batch an account; return what was admitted, and what was refused with its problem."""
        admitted, refused = [], []
        for account in self.accounts.values():
            own = [message for message in messages if message.business == account.business.id]
            for message, answer in zip(own, self._send_batch(account, own), strict=True):
                if answer["status"] == httpx.codes.ACCEPTED:
                    admitted.append(Sent(message, answer["message"]["id"], answer["message"]["digest"]))
                else:
                    refused.append((message, answer["problem"]))
        self.sent += admitted
        return admitted, refused

    def _send_batch(self, account: Account, messages: Sequence[DemoMessage]) -> list[dict[str, Any]]:
        if not messages:
            return []
        body = {"items": [message.item for message in messages]}
        headers = {"authorization": f"Bearer {account.api_key}"}
        answer = self.http.post(f"{self.stack.url('ingestion')}/v1/messages:batch", json=body, headers=headers)
        if answer.status_code != httpx.codes.OK:
            raise CommandError(f"the door refused a batch ({answer.status_code}): {answer.text[:300]}")
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    # What became of them

    def fates(self, sent: Iterable[Sent]) -> dict[str, Fate]:
        """Return what became of messages, by id, as moderation and routing tell it."""
        return {one.id: self._fate(one.id) for one in sent}

    def _fate(self, message_id: str) -> Fate:
        verdict = self.operator.get("moderation", f"/v1/verdicts/{message_id}")
        delivery = self.operator.get("routing", f"/v1/deliveries/{message_id}")
        rules = tuple(verdict["verdict"]["statement"]["rules"])
        results = tuple(attempt["result"] for attempt in delivery["attempts"])
        return Fate(verdict["action"], tuple(verdict["clauses"]), rules, delivery["state"], delivery["reason"], results)

    def recorded(self) -> list[RecordedMail]:
        """Return what the laboratory has seen."""
        return read_record(record_folder(self.stack))

    def in_flight(self) -> int:
        """Return how many messages are on the road now."""
        return sum(part.in_flight for part in ledger.read_balances(self.operator)[0])

    def wait_until_at_rest(self) -> ledger.Ledger:
        """Wait until no message is in flight; return the ledger then."""
        wait_for(lambda: self.in_flight() == 0, "every message rests")
        return ledger.read_ledger(self.operator)

    def wait_until_in_force(self, account: Account, standing: str) -> None:
        """Wait until routing certifies that no call under another standing is open."""

        def in_force() -> bool:
            known = self.operator.get("routing", f"/v1/standings/{account.id}")
            return bool(known["standing"] == standing and known["in_force_at"])

        wait_for(in_force, f"the standing {standing} is in force")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so.

    Raises:
        CommandError: it did not become so in time.
    """
    if not wait_until(condition, PATIENCE_SECONDS, POLL_SECONDS):
        raise CommandError(
            f"waited {PATIENCE_SECONDS:.0f} s in vain until {what}", "the logs tell more: waystation logs"
        )


# The stack


def record_folder(stack: Stack) -> Path:
    """Where the laboratory keeps what it sees; its presence marks a home as the demo's."""
    return stack.layout.home / LABORATORY


def clear_home(stack: Stack) -> None:
    """Make an empty home; what an earlier demo left, running or not, goes.

    Raises:
        CommandError: the folder holds something else than an earlier demo.
    """
    home = stack.layout.home
    if home.exists() and any(home.iterdir()) and not record_folder(stack).is_dir():
        raise CommandError(
            f"{home} holds something that is not an earlier demo; the demo begins by wiping its folder",
            "name another one: waystation demo --home FOLDER",
        )
    take_down(stack)
    stack.down(wipe=True)
    for path in record_folder(stack).glob("*"):
        path.unlink()
    record_folder(stack).mkdir(parents=True, exist_ok=True)


def start_laboratory(stack: Stack) -> None:
    """Start the SMTP laboratory on the stack's SMTP port, as one of the stack's processes."""
    mark, port_file = _laboratory_mark(stack), record_folder(stack) / "port"
    listen = ["--port", str(stack.port("smtp")), "--record", str(record_folder(stack)), "--port-file", str(port_file)]
    arguments = [sys.executable, "-X", mark, "-m", "waystation.laboratory", *listen]
    command = Command(arguments, mark, dict(os.environ), checkout_folder())
    Registry(stack.layout.run).write(spawn(LABORATORY, command, stack.layout.log(LABORATORY)))
    wait_for(port_file.exists, f"the SMTP laboratory listens on {HOST}:{stack.port('smtp')}")


def start_services(stack: Stack) -> None:
    """Start all five at once, wait until each is ready."""
    for service in SERVICES:
        environment = ROUTING_ENVIRONMENT if service == "routing" else {}
        stack.start_service(service, extra_env=environment, wait=False)
    for service in SERVICES:
        stack.wait_ready(service)


def restart_routing(stack: Stack) -> float:
    """Start routing again; return the seconds until it was ready."""
    begun = time.monotonic()
    stack.start_service("routing", extra_env=ROUTING_ENVIRONMENT)
    return time.monotonic() - begun


def take_down(stack: Stack) -> None:
    """Stop everything, the laboratory too, also where the command that started it was killed."""
    if stack.layout.run.is_dir():
        Registry(stack.layout.run).adopt({_laboratory_mark(stack): LABORATORY})
    stack.down()


def _laboratory_mark(stack: Stack) -> str:
    return f"waystation={stack.layout.home}/{LABORATORY}"
