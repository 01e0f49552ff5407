"""The example clients of `examples/kafka`, run as a reader of their README would run them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from on_the_road import run_command, wait_for, wait_until_settled

from common.events import ReceiptIssued, StandingChanged, encode
from common.ids import new_id
from common.security.signing import Proof, Signed
from waystation.operator import ServiceClient
from waystation.rehearsal import items
from waystation.stack import checkout_folder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

EXAMPLES = checkout_folder() / "examples" / "kafka"
needs_kcat = pytest.mark.skipif(shutil.which("kcat") is None, reason="needs kcat: apt-get install kcat")


@pytest.fixture(scope="module")
def client_file(road, tmp_path_factory):
    path = tmp_path_factory.mktemp("client") / "client.conf"
    run_command(road.stack, "kafka", "config", "--write", str(path))
    return str(path)


@pytest.fixture(scope="module")
def keys(road, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "keys"
    run_command(road.stack, "keys", "export", str(folder))
    return folder


@pytest.fixture(scope="module")
async def message(road):
    """One message that was handed over."""
    account = road.create_account("of the examples")
    (admitted,) = await road.send(account, items(["reader@example.org"], tag="examples"))
    assert wait_until_settled(road.stack, [admitted.message_id]) == {admitted.message_id: "handed_over"}
    return admitted


def run(*command, status=0):
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, cwd=EXAMPLES)
    assert done.returncode == status, done.stdout + done.stderr
    return [line.split("\t") for line in done.stdout.splitlines()]


def python(name, *arguments, status=0):
    return run(sys.executable, name, *arguments, status=status)


def standing_set(road, account, standing):
    with ServiceClient(road.stack) as operator:
        body = {"standing": standing, "reason": "set by a test"}
        return operator.post("enforcement", f"/v1/standings/{account}", body)["revision"]


def held_by_example(client_file):
    return {row[0]: (row[1], row[2]) for row in python("standings.py", client_file)}


def test_standings_tells_the_newest_revision_of_each_account(road, bus, client_file):
    account = f"example-{new_id()}"
    standing_set(road, account, "suspended")
    standing_set(road, account, "good")
    wait_for(lambda: held_by_example(client_file).get(account) == ("good", "2"), "the second revision is read")
    late = StandingChanged(
        account_id=account,
        standing="blocked",
        revision=1,
        clause=None,
        reason="a revision that comes late",
        complaint_id=None,
        decided_by="person",
        since="2026-01-31T09:30:00.000Z",
    )
    bus.written("enforcement", [encode(late)])
    assert held_by_example(client_file)[account] == ("good", "2")


async def test_receipts_are_followed_in_a_group_and_not_told_again(road, client_file, message):
    group = f"tests.{new_id()}"
    told = [row for row in python("follow_receipts.py", client_file, group, "6") if row[1] == message.message_id]
    assert told[-1][3] == "handed_over"
    assert [int(row[2]) for row in told] == sorted({int(row[2]) for row in told})
    assert [row for row in python("follow_receipts.py", client_file, group, "6") if row[1] == message.message_id] == []


async def test_verdicts_are_read_with_their_policy(client_file, message):
    ((_, message_id, action, clauses, policy),) = python("verdicts.py", client_file, message.message_id)
    assert (message_id, action, clauses) == (message.message_id, "allow", "-")
    assert policy.startswith("road@sha256:")


async def test_signatures_are_verified_with_public_keys_alone(road, bus, client_file, keys, message):
    """The topic may hold what other tests forged: judged by what a forgery of our own adds."""
    before = verified(client_file, keys)
    genuine = next(
        json.loads(record.value())["receipt"]
        for record in bus.read("routing.receipts")
        if message.message_id in str(record.value())
    )
    forged = Signed(statement={**genuine["statement"], "state": "refused"}, proof=Proof(**genuine["proof"]))
    (place,) = bus.written("routing", [encode(ReceiptIssued(receipt=forged))])
    after = verified(client_file, keys)
    assert after["genuine"] >= before["genuine"] > 0
    assert after["wrong"] == {*before["wrong"], f"partition {place.partition} offset {place.offset}"}


def verified(client_file, keys):
    """What the example says: how many receipts are genuine, and the places of those that are not."""
    done = subprocess.run(
        [sys.executable, "verify_receipts.py", client_file, str(keys / "receipt")],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        cwd=EXAMPLES,
    )
    *wrong, total = done.stdout.splitlines()
    assert done.returncode == (1 if wrong else 0), done.stderr
    return {"genuine": int(total.split()[0]), "wrong": {line.partition(":")[0] for line in wrong}}


@needs_kcat
def test_kcat_reads_the_whole_of_the_compacted_topic(road, client_file):
    account = f"example-{new_id()}"
    standing_set(road, account, "warned")

    def lines():
        """The topic may hold what other tests wrote: only lines that name our account are looked at."""
        return [json.loads(line[0]) for line in run("sh", "standings.sh", client_file) if account in line[0]]

    found = wait_for(lines, "kcat reads the standing")
    assert found[-1]["standing"] == "warned"


@needs_kcat
async def test_kcat_finds_the_receipts_of_one_message(client_file, message):
    rows = run("sh", "receipts.sh", client_file, message.message_id)
    assert {json.loads(row[1])["receipt"]["statement"]["message_id"] for row in rows} == {message.message_id}
