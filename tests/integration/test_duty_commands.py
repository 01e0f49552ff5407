"""`waystation vault ...` over the running road: what a data protection officer types, and what comes out."""

from __future__ import annotations

import json
import stat

import pytest
from on_the_road import run_command, wait_for, wait_until_settled

from common.ids import new_id
from waystation.rehearsal import items

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def officer(road):
    """Types a command with --json; with a status other than 0 it returns what was said instead."""

    def types(*arguments, status=0, as_json=True):
        return run_command(road.stack, "vault", *arguments, status=status, as_json=as_json)

    return types


async def known(road):
    """An account with one recipient whose mail was handed over: account, address, message."""
    account = road.create_account(f"Duties {new_id()}")
    address = f"duty-{new_id()}@example.org"
    (sent,) = await road.send(account, items([address]))
    assert set(wait_until_settled(road.stack, [sent.message_id]).values()) == {"handed_over"}
    return account, address, sent.message_id


async def test_the_rights_of_a_person_by_command(road, officer, tmp_path):
    made, address, message_id = await known(road)
    account = made.account_id
    who = ("--account", account, "--address", address)
    document, page = tmp_path / "anna.json", tmp_path / "anna.html"

    def acknowledged():
        officer("export", str(document), *who)
        (person,) = json.loads(document.read_text())["persons"]
        return person if person["disclosures"][0]["hand_over"] == "acknowledged" else None

    person = wait_for(acknowledged, "the vault reads the receipt")
    assert (person["fields"]["address"], person["recipients"][0]["provider"]) == (address, "smtp.default")
    assert person["disclosures"][0]["message_id"] == message_id
    assert stat.S_IMODE(document.stat().st_mode) == 0o600
    officer("export", str(page), *who)
    assert address in page.read_text()
    assert officer("rectify", *who, "--set", "name=Anna Berg", "--set", "phone=+4930555123")["tokens"] == [
        person["token"]
    ]
    assert officer("restrict", *who)["tokens"] == officer("restrict", *who, "--lift")["tokens"]
    officer("withdraw", *who, "--purpose", "order-confirmation", "--kind", "contract")
    officer("opt-out", "--account", account, "--phone", "+4930555123")
    assert acknowledged()["opt_outs"][0]["tool"] == "telephony"
    mine = [one for one in officer("notices")["items"] if one["recipient_token"] == person["token"]]
    assert {one["kind"] for one in mine} == {"rectification", "restriction"}
    officer("notice-done", str(mine[0]["id"]), "--evidence", "ticket 41")
    assert mine[0]["id"] not in {one["id"] for one in officer("notices")["items"]}
    assert "no recipient of this account" in officer(
        "rectify", "--account", account, "--address", "nobody@example.org", "--set", "name=x", status=1, as_json=False
    )


async def test_registers_rules_and_the_end_of_an_account_by_command(road, officer, tmp_path):
    made, address, _ = await known(road)
    account = made.account_id
    rule = officer("retention-rule", "--account", account, "--kind", "recipient", "--unused-days", "30")
    assert rule["unused_days"] == 30
    assert account in {one["account_id"] for one in officer("retention-rules")["items"]}
    assert officer("retention", "--account", account) == {"dry_run": True, "due": [], "erased": 0, "remaining": 0}
    assert [one["state"] for one in officer("processors")["processors"] if one["name"] == "smtp.default"] == [
        "approved"
    ]
    over = officer("object", "smtp.default", "--account", account, status=1, as_json=False)
    assert "notice period" in over
    assert officer("object", "smtp.default", "--account", account, "--late")["objects"] is True
    for name in ("records.md", "records.html", "records.json"):
        officer("records", str(tmp_path / name))
        assert account in (tmp_path / name).read_text()
    officer("processors", str(tmp_path / "page.html"))
    assert "smtp.default" in (tmp_path / "page.html").read_text()

    asked = officer("end-account", account)
    lines = tmp_path / "all.jsonl"
    officer("export-account", account, str(lines))
    person, last = map(json.loads, lines.read_text().splitlines())
    assert (person["fields"]["address"], last["whole"]) == (address, True)
    ended = officer("end-account", account, "--confirm", asked["confirmation"])
    assert (ended["state"], ended["persons"], ended["erased"]) == ("ended", 0, 1)
    with pytest.raises(RuntimeError, match="account-ended"):
        await road.send(made, items([f"after-{address}"]))
