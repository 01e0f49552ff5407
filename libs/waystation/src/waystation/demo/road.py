"""The road as the demo drives it: accounts, messages and what became of them, through the services' own doors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from waystation import ledger
from waystation.demo.checks import Fate, Sent
from waystation.errors import CommandError
from waystation.laboratory import read_record
from waystation.stack.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from waystation.demo.messages import Business, DemoMessage
    from waystation.demo.stage import Stage
    from waystation.laboratory import RecordedMail
    from waystation.operator import ServiceClient

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
    """The demo's stage, and what it has sent so far."""

    stage: Stage
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
        answer = self.http.post(f"{self.stage.stack.url('ingestion')}/v1/messages:batch", json=body, headers=headers)
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
        return read_record(self.stage.record)

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
