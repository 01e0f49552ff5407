"""`waystation send --jsonl` and `--csv` over the running road: every line once, however often the command runs."""

from __future__ import annotations

import json
import uuid

import pytest
from on_the_road import run_command, wait_until_settled

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


def test_a_file_of_messages_is_sent_once_however_often(road, tmp_path):
    run_command(
        road.stack,
        "accounts",
        "create",
        f"Files {uuid.uuid4().hex[:8]}",
        "--inbox",
        "bulk@files.example",
        "--accept-rules",
    )
    recipients = [f"file-{uuid.uuid4().hex[:8]}@example.org" for _ in range(120)]
    lines = [{"recipient": {"address": one}, "content": {"subject": "s", "text": "t"}} for one in recipients]
    lines.insert(3, {"recipient": {"address": "no address"}, "content": {"subject": "s", "text": "t"}})
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    send = ("send", "--from", "bulk@files.example", "--jsonl", str(tmp_path / "m.jsonl"))
    first = run_command(road.stack, *send, "--results", str(tmp_path / "results"), status=1)
    assert (first["accepted"], first["refused"]) == (120, 1)
    assert (first["refusals"][0]["source"], first["refusals"][0]["reason"].partition(" ")[0]) == (
        "line 4",
        "recipient.address",
    )
    ids = [json.loads(line)["id"] for line in (tmp_path / "results").read_text().splitlines()]
    again = run_command(road.stack, *send, status=1)
    assert (again["accepted"], again["refused"]) == (120, 1)
    wait_until_settled(road.stack, [one for one in ids if one])
    seen = [mail.rcpt_to for mail in road.recorded() if mail.rcpt_to in set(recipients)]
    assert sorted(seen) == sorted(recipients)


def test_a_table_of_messages_is_sent(road, tmp_path):
    run_command(
        road.stack,
        "accounts",
        "create",
        f"Tables {uuid.uuid4().hex[:8]}",
        "--inbox",
        "bulk@tables.example",
        "--accept-rules",
    )
    (tmp_path / "m.csv").write_text('to,name,subject,text\nada@example.org,Ada,Hi,"one, two"\n')
    sent = run_command(road.stack, "send", "--from", "bulk@tables.example", "--csv", str(tmp_path / "m.csv"))
    assert (sent["accepted"], sent["refused"]) == (1, 0)
