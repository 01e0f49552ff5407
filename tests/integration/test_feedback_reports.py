"""A feedback report about a mail that the road carried: filed by the command and by HTTP, matched, kept, decided."""

from __future__ import annotations

import uuid

import asyncpg
import httpx
import pytest
from on_the_road import run_command, wait_until_settled

from waystation.rehearsal import INBOX, items
from waystation.stack.credentials import SUPERUSER

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

REPORT = """\
From: <feedback@provider.example>
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary="b"

--b
Content-Type: text/plain

{complainant} has complained.

--b
Content-Type: message/feedback-report

Feedback-Type: {kind}
User-Agent: Provider-FBL/2.1
Version: 1
Original-Rcpt-To: <{complainant}>
Arrival-Date: Sun, 22 Nov 2026 20:49:33 +0000

--b
Content-Type: text/rfc822-headers

{header}
--b--
"""


@pytest.fixture(scope="module")
def account(road):
    return road.create_account("complained about")


@pytest.fixture(scope="module")
async def carried(road, account):
    """The header of a mail as the provider got it, and the message's id."""
    recipient = f"reader-{uuid.uuid4().hex[:8]}@example.org"
    (admitted,) = await road.send(account, items([recipient], tag="feedback"))
    wait_until_settled(road.stack, [admitted.message_id])
    (mail,) = [one for one in road.recorded() if recipient == one.rcpt_to]
    header = mail.content.partition(b"\r\n\r\n")[0].replace(b"\r\n", b"\n").decode()
    return header, admitted.message_id


def report(header, kind="abuse", complainant="jane.roe@example.org"):
    return REPORT.format(header=header, kind=kind, complainant=complainant)


def without(header, *names):
    return "\n".join(line for line in header.split("\n") if not line.startswith(names))


def filed(road, tmp_path, text, status=0):
    (tmp_path / "report.eml").write_text(text)
    return run_command(road.stack, "complaints", "file", "--arf", str(tmp_path / "report.eml"), status=status)


def test_a_report_about_a_carried_mail_is_a_complaint_about_its_account(road, account, carried, tmp_path):
    header, message_id = carried
    found = filed(road, tmp_path, report(header))
    assert (found["account_id"], found["message_id"], found["found_by"]) == (
        account.account_id,
        message_id,
        "Feedback-ID",
    )
    assert found["warning"] is None
    assert filed(road, tmp_path, report(header))["id"] == found["id"], "the same mail is the same complaint"
    listed = run_command(road.stack, "complaints", "list", "--account", account.account_id)["complaints"]
    (complaint,) = [one for one in listed if one["id"] == found["id"]]
    assert (complaint["clause"], complaint["category"], complaint["origin"]) == ("R5.1", "unsolicited", "provider")
    assert complaint["report"]["arrived_at"] == "2026-11-22T20:49:33.000Z"


def test_a_mail_that_names_only_the_message_is_matched_by_what_the_door_knows(road, account, carried, tmp_path):
    header, message_id = carried
    found = filed(road, tmp_path, report(without(header, "Feedback-ID"), kind="fraud"))
    assert (found["account_id"], found["message_id"], found["found_by"]) == (
        account.account_id,
        message_id,
        "Message-ID",
    )


def test_a_redacted_report_is_kept_for_a_person_who_assigns_and_decides(road, account, carried, tmp_path):
    header, _ = carried
    text = report(without(header, "Feedback-ID", "Message-ID") + f"\nMessage-ID: <{uuid.uuid4().hex}@redacted>")
    found = filed(road, tmp_path, text)
    assert (found["account_id"], found["message_id"]) == (None, None)
    assert account.account_id in found["candidates"]
    confirm = ("complaints", "confirm", found["id"], "--standing", "warned", "--reason", "seen")
    assert "assign it first" in run_command(road.stack, *confirm, status=1)["error"]
    waiting = run_command(road.stack, "complaints", "list", "--unmatched", "--state", "received", "--limit", "500")
    (kept,) = [one for one in waiting["complaints"] if one["id"] == found["id"]]
    assert kept["report"]["sender_domain"] == INBOX.partition("@")[2]
    assigned = run_command(road.stack, "complaints", "assign", found["id"], "--account", account.account_id)
    assert assigned["account_id"] == account.account_id
    nobody = run_command(road.stack, "complaints", "assign", found["id"], "--account", "another", status=1)
    assert "no account with the id another" in nobody["error"]
    another = road.create_account("not complained about").account_id
    other = run_command(road.stack, "complaints", "assign", found["id"], "--account", another, status=1)
    assert "another account" in other["error"]
    assert run_command(road.stack, *confirm)["decision"]["standing"] == "warned"


async def test_nothing_of_the_complainant_is_kept(road, carried, tmp_path):
    canary = f"canary-{uuid.uuid4().hex[:12]}"
    filed(road, tmp_path, report(carried[0], complainant=f"{canary}@example.org"))
    connection = await asyncpg.connect(road.stack.dsn("enforcement", SUPERUSER))
    try:
        for table in ("complaints", "feedback_reports"):
            rows = await connection.fetch(f"SELECT row_to_json(t)::text AS row FROM {table} t")
            assert rows
            assert [row for row in rows if canary in row["row"]] == []
    finally:
        await connection.close()
    logs = (road.stack.layout.logs / "enforcement-1.log").read_text("utf-8", "replace")
    assert canary not in logs


@pytest.mark.parametrize(
    ("change", "field", "clause"),
    [
        (("Version: 1\n", ""), "Version", "RFC 5965, 3.1"),
        (("message/feedback-report", "text/plain"), "Content-Type", "RFC 5965, 2"),
        (("Feedback-Type: abuse", "Feedback-Type: not-spam"), "Feedback-Type", "RFC 6430, 2"),
    ],
)
def test_what_is_no_report_is_refused_with_field_and_clause(road, carried, tmp_path, change, field, clause):
    text = report(carried[0]).replace(*change)
    answer = httpx.post(
        road.stack.url("enforcement") + "/v1/complaints:report",
        content=text.encode(),
        headers={"content-type": "message/rfc822"},
        trust_env=False,
    )
    assert answer.status_code == 422
    assert (answer.json()["field"], answer.json()["clause"]) == (field, clause)
    assert clause in filed(road, tmp_path, text, status=1)["error"]


def test_a_report_has_its_type_and_its_limit(road):
    url = road.stack.url("enforcement") + "/v1/complaints:report"
    wrong = httpx.post(url, json={}, trust_env=False)
    assert (wrong.status_code, wrong.json()["type"]) == (415, "urn:waystation:problem:unsupported-media-type")
    large = httpx.post(
        url, content=b"x" * (1024 * 1024 + 1), headers={"content-type": "message/rfc822"}, trust_env=False
    )
    assert (large.status_code, large.json()["limit"]) == (413, 1024 * 1024)
