# ruff: noqa: RUF001  disguised letters are the subject
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moderation.features import HEADS

pytestmark = pytest.mark.timeout(240)  # the first process of a policy compiles its patterns


def screened(lines, *options):
    done = subprocess.run(
        [sys.executable, "-m", "moderation.command", "screen", *options], input=lines, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture(scope="module")
def results():
    lines = [
        {
            "id": 1,
            "tool": "email",
            "text": "We sell fake driving licences and ID cards",
            "from": "Shop <shop@example.com>",
        },
        {"id": "two", "tool": "sms", "text": "See you tomorrow at ten."},
        {"id": 3, "text": "Buy ｆａｋｅ p4ssports in bulk", "html": "<a href='http://203.0.113.7/x'>here</a>"},
        {"id": 4, "text": 7},
        {"id": 5, "text": "see the file", "attachments": ["/nowhere/at/all.pdf"]},
    ]
    written = "\n".join(map(json.dumps, lines)).encode() + b"\nno json\n\n\xff\xfe\n"
    return [json.loads(line) for line in screened(written).splitlines()]


def test_each_line_is_answered_in_its_order(results):
    assert [result["id"] for result in results] == [1, "two", 3, 4, 5, None, None]
    assert all(list(result["scores"]) == list(HEADS) for result in results)
    assert all(0 <= score <= 1 for result in results for score in result["scores"].values())


def test_what_breaks_a_clause_is_blocked_with_evidence_and_no_content(results):
    first = results[0]
    assert (first["action"], first["clauses"], first["rules"]) == ("block", ["R3.a"], ["crime.forged-documents"])
    assert first["evidence"][0]["part"] == "text[0]"
    assert "licences" not in json.dumps(first)
    assert results[1]["action"] == "allow"


def test_a_disguise_does_not_help(results):
    assert results[2]["rules"][0] == "crime.forged-documents"


def test_what_cannot_be_read_is_said_and_the_rest_is_judged(results):
    assert "input" in results[3]["degraded"]
    assert "attachment-missing" in results[4]["degraded"]
    assert {"charset", "input"} <= set(results[5]["degraded"])


def test_what_is_wrong_with_a_line_is_told_by_line_and_field_and_loses_nothing_else():
    lines = [
        b'{"id": 1, "tool": "pigeon", "text": "Order fake passports today", "subject": 5}',
        b"",
        b'{"id": 3, "text": "see \\ud800 Order fake passports today"}',
        b'{"id": 4, "text": "Order fake passports today \xff"}',
        b'{"id": 5, "text": "x", "attachments": ["/nowhere", 7]}',
        b'["Order fake passports today"]',
        b'{"id": 7, "text": ""}',
        b'{"id": {"any": "thing"}, "text": "hello", "more": 1}',
    ]
    found = [json.loads(line) for line in screened(b"\n".join(lines), "--no-models").splitlines()]
    assert [one["id"] for one in found] == [1, 3, 4, 5, None, 7, {"any": "thing"}]
    assert [one["action"] for one in found] == ["block"] * 3 + ["allow", "block", "allow", "allow"]
    problems = [one.get("problem") for one in found]
    assert problems[0].startswith("line 1: tool: Input should be 'email'")
    assert problems[0].endswith("subject: Input should be a valid string")
    assert problems[1:3] == [f"line {n}: not UTF-8: what is no character was replaced" for n in (3, 4)]
    assert problems[3].startswith(
        "line 5: attachments.1: Input should be a valid string; attachments.0: cannot be read"
    )
    assert problems[4:] == ["line 6: not an object", None, None]
    assert [one["degraded"] for one in found[:3]] == [["input", "models"]] + [["charset", "input", "models"]] * 2
    assert found[5]["degraded"] == ["empty", "models"]


def test_each_line_is_answered_whatever_is_wrong_with_one():
    threat = "I am going to kill you tonight, I know where you live."
    lines = [
        b'{"id": 1, "sender": 5, "from": 6, "text": "a"}',
        b'{"id": 2, "sender": 5, "text": "a"}',
        b'{"id": ' + b"[" * 300 + b"]" * 300 + b', "text": "a"}',
        json.dumps({"id": 4, "html": f"<!--{'x' * 250_001}-->{threat}"}).encode(),
        json.dumps({"id": 5, "html": "<b></b>" * 8_100 + threat}).encode(),
        json.dumps({"id": 6, "html": f"<p>{threat}</p><a href='https://a.example'>x</a>"}).encode(),
    ]
    found = [json.loads(line) for line in screened(b"\n".join(lines), "--no-models").splitlines()]
    assert [one["id"] for one in found] == [1, 2, None, 4, 5, 6]
    assert [one["action"] for one in found] == ["allow"] * 3 + ["block"] * 3
    problems = [one.get("problem") for one in found]
    valid = "Input should be a valid string"
    assert problems[0] == f"line 1: from: {valid}; sender: {valid}"
    assert problems[1:3] == [f"line 2: sender: {valid}", "line 3: id: nested too deeply to be written again"]
    assert ["html" in one["degraded"] for one in found] == [False, False, False, True, True, False]


def test_a_mail_file_whose_name_is_no_text_is_judged_among_the_others(tmp_path):
    files = [tmp_path / os.fsdecode(name) for name in (b"a.eml", b"b\xe9.eml", b"c.eml")]
    for file in files:
        file.write_bytes(b"Subject: x\r\n\r\nhello\r\n")
    told = screened(b"", "--no-models", "--eml", *files)
    found = [json.loads(line) for line in told.splitlines()]
    assert [one["id"] for one in found] == ["a.eml", "b\ufffd.eml", "c.eml"]
    assert found[1]["problem"].startswith("id: the file's name is not UTF-8")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{}", b"not a verdict: action: Field required"),
        (b"[]", b"not a verdict: the document: Input should be a valid dictionary"),
        (b'{"verdict": {"statement": 5}}', b"not a verdict: the document: Input should be a valid dictionary"),
        (b"", b"not JSON"),
        (None, b"cannot be read: No such file"),
    ],
)
def test_what_is_no_verdict_is_told_and_not_replayed(tmp_path, content, reason):
    file = tmp_path / "verdict.json"
    if content is not None:
        file.write_bytes(content)
    command = [sys.executable, "-m", "moderation.command", "replay", str(file)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert done.stderr.startswith(f"error {file}: ".encode() + reason)


def test_mail_files_are_judged_and_explained(tmp_path):
    file = tmp_path / "one.eml"
    file.write_bytes(b"Subject: offer\r\n\r\nOrder fake passports today.\r\n")
    told = screened(b"", "--eml", str(file), "--explain")
    assert "one.eml: BLOCK  clauses R3.a" in told
    assert "'Order fake passports'" in told


def test_policies_are_checked_compared_and_tried(tmp_path):
    old = Path(__file__).parents[3] / "deploy" / "policies" / "road.yaml"
    new = tmp_path / "new.yaml"
    new.write_text(old.read_text("utf-8").replace("id: crime.laundering-help", "id: crime.laundering"), "utf-8")
    assert "all examples come out as written" in ran("policy", "check", str(new))
    changes = ran("policy", "diff", str(old), str(new))
    assert "+ rule crime.laundering:" in changes
    assert "- rule crime.laundering-help:" in changes
    new.write_text(
        old.read_text("utf-8").replace(
            "action: block\n    severity: 4", "action: block\n    status: shadow\n    severity: 4"
        ),
        "utf-8",
    )
    lines = b'{"id": 1, "text": "We sell fake driving licences and ID cards"}\n{"id": 2, "text": "hello"}\n'
    told = ran("policy", "backtest", str(new), given=lines)
    assert "messages      2" in told
    assert "newly passed  1" in told
    assert "crime.forged-documents 1" in told
    assert "links.brand_misspelt" in ran("policy", "features")


def ran(*arguments, given=b""):
    command = [sys.executable, "-m", "moderation.command", *arguments]
    return subprocess.run(command, input=given, capture_output=True, check=True).stdout.decode()


def test_a_policy_that_cannot_be_used_is_told_with_its_place(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("id: bad\nversion: 1\ndescription: x\nrules: []\n")
    command = [sys.executable, "-m", "moderation.command", "screen", "--policy", str(file)]
    done = subprocess.run(command, input=b"", capture_output=True, check=False)
    assert done.returncode == 1
    assert b"line 4, column 1: rules" in done.stderr
