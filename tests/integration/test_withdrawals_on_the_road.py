"""What ends a right to disclose is in force for messages that already wait: from the answer on, within a second."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from on_the_road import wait_for, wait_until_settled

from common.ids import new_id
from waystation.operator import ServiceClient
from waystation.rehearsal import items

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

SECONDS_MAX = 1.0
PURPOSE = "order-confirmation"


def withdrawn(person):
    items = [{"person": person, "purpose": PURPOSE, "kind": "contract"}]
    return "withdraw:batch", {"purpose": "legal-basis", "items": items}


def opted_out(person):
    return "suppress:batch", {"purpose": "legal-basis", "items": [{**person, "tool": "email"}]}


def restricted(person):
    items = [{"person": person, "restricted": True}]
    return "restrict:batch", {"purpose": "data-protection", "items": items}


def erased(person):
    return "erase:batch", {"purpose": "data-protection", "reason": "request-of-person", "items": [person]}


WAYS = {"withdrawn": withdrawn, "suppressed": opted_out, "restricted": restricted, "erased": erased}


async def test_a_queued_message_is_withheld_from_the_withdrawal_on(road):
    """Each message was tried once, refused for now by the provider, and waits for its next attempt."""
    account = road.create_account(f"Withdrawals {new_id()}")
    recipients = {kind: f"later-60+{kind}-{new_id()}@example.org" for kind in (*WAYS, "untouched")}
    sent = {one.recipient: one.message_id for one in await road.send(account, items(recipients.values()))}
    messages = {kind: sent[address] for kind, address in recipients.items()}
    with ServiceClient(road.stack) as operator:

        def disclosures(message_id):
            return operator.get("vault", "/v1/disclosures", {"message_id": message_id})["items"]

        wait_for(lambda: all(disclosures(one) for one in messages.values()), "each message was tried once")
        answered_at = {}
        for kind, way in WAYS.items():
            path, body = way({"account_id": account.account_id, "address": recipients[kind]})
            started = time.monotonic()
            (answer,) = operator.post("vault", f"/v1/{path}", body)["items"]
            assert time.monotonic() - started < SECONDS_MAX, "in force with the answer"
            assert answer["tokens"], answer
            answered_at[kind] = datetime.now(UTC)
        states = wait_until_settled(road.stack, [messages[kind] for kind in WAYS])
        assert set(states.values()) == {"withheld"}
        for kind, moment in answered_at.items():
            delivery = operator.get("routing", f"/v1/deliveries/{messages[kind]}")
            assert delivery["reason"] == f"vault: {kind}"
            late = [one for one in disclosures(messages[kind]) if datetime.fromisoformat(one["asked_at"]) > moment]
            assert late == [], f"disclosed after it was {kind}"
        wait_for(lambda: len(disclosures(messages["untouched"])) > 1, "another person's message is tried again")
