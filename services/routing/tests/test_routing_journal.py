"""The journal: what a killed process had stored is there for the next one, and nothing else is believed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from routing.domain import AttemptResult, Outcome, Reply
from routing.journal import BOOT_ID_FILE, SLOT_BYTES, Journal, JournalError, JournalFile
from routing.settlement import SealedReply

IDS = [f"0198c0de-0000-7000-8000-{number:012d}" for number in range(4)]
ACCEPTED = Outcome(AttemptResult.ACCEPTED, "accepted at final dot: 250 2.0.0", Reply(250, "2.0.0", "queued"))
REPLY = SealedReply(b"\x01sealed", "d" * 64)
WORKER = f"""
import sys, time
from pathlib import Path
from routing.domain import AttemptResult, Outcome, Reply
from routing.journal import Journal, JournalFile
from routing.settlement import SealedReply
journal = Journal(8, JournalFile(Path(sys.argv[1])))
free, ahead, beyond, known = [journal.begin(one, 1 + place) for place, one in enumerate({IDS!r})]
free.free()
beyond.beyond()
known.beyond()
known.known(3, {ACCEPTED!r}, {REPLY!r})
print("ready", flush=True)
time.sleep(60)
""".replace("<AttemptResult.ACCEPTED: 'accepted'>", "AttemptResult.ACCEPTED")


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "routing-1.journal"


def left_over(path, boot_id_file=BOOT_ID_FILE):
    with JournalFile(path, boot_id_file) as file:
        return file.left_over()


def one_begun(path):
    """A journal in which one attempt is begun, as a process leaves it that ends without settling."""
    with JournalFile(path) as file:
        journal = Journal(2, file)
        journal.begin(IDS[0], 7)


def test_what_a_killed_process_had_stored_is_there_for_the_next_and_not_before_it_is_dead(path):
    worker = subprocess.Popen([sys.executable, "-c", WORKER, path], stdout=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "ready\n"
    with pytest.raises(JournalError, match="another process uses it"):
        JournalFile(path)
    worker.kill()
    worker.communicate()
    ahead, beyond, known = left_over(path)
    assert (ahead.message_id, ahead.epoch, ahead.beyond, ahead.known) == (IDS[1], 2, False, None)
    assert (beyond.message_id, beyond.beyond, beyond.known) == (IDS[2], True, None)
    number, outcome, reply = known.known
    assert (known.message_id, known.beyond, number, reply) == (IDS[3], True, 3, REPLY)
    assert (outcome.result, outcome.reason, outcome.reply.code) == (ACCEPTED.result, ACCEPTED.reason, 250)


def test_nothing_readable_of_a_reply_is_kept(path):
    with JournalFile(path) as file:
        Journal(1, file).begin(IDS[0], 1).known(1, ACCEPTED, REPLY)
    assert b"queued" not in path.read_bytes()


def test_a_new_journal_has_nothing_left_over_and_slots_are_used_again(path):
    assert left_over(path) == []
    with JournalFile(path) as file:
        journal = Journal(2, file)
        for _ in range(10):
            first, second = journal.begin(str(uuid4()), 1), journal.begin(str(uuid4()), 1)
            first.free()
            second.free()
        journal.begin(IDS[0], 7)
    assert [(one.message_id, one.epoch) for one in left_over(path)] == [(IDS[0], 7)]


def test_beginning_anew_forgets_what_was_left(path):
    one_begun(path)
    with JournalFile(path) as file:
        Journal(5, file)
    assert left_over(path) == []


def test_a_reply_that_does_not_fit_leaves_its_digest(path):
    with JournalFile(path) as file:
        Journal(1, file).begin(IDS[0], 1).known(1, ACCEPTED, SealedReply(b"x" * SLOT_BYTES, "d" * 64))
    assert left_over(path)[0].known[2] == SealedReply(None, "d" * 64)


def test_a_reason_that_does_not_fit_leaves_the_attempt_as_far_as_it_had_come(path):
    with JournalFile(path) as file:
        entry = Journal(1, file).begin(IDS[0], 1)
        entry.beyond()
        entry.known(1, Outcome(AttemptResult.REFUSED, "x" * SLOT_BYTES), None)
    assert (left_over(path)[0].beyond, left_over(path)[0].known) == (True, None)


def test_without_a_file_nothing_survives_and_everything_else_is_the_same():
    journal = Journal(1)
    entry = journal.begin(IDS[0], 1)
    entry.beyond()
    entry.known(1, ACCEPTED, REPLY)
    entry.free()
    journal.begin(IDS[1], 1)
    assert not journal.survives


def test_a_journal_of_another_boot_is_not_believed(path, tmp_path):
    one_begun(path)
    other = tmp_path / "boot_id"
    other.write_text(f"{uuid4()}\n")
    with pytest.raises(JournalError, match="another boot"):
        left_over(path, other)


def test_a_system_without_a_boot_id_has_no_journal(path, tmp_path):
    with pytest.raises(JournalError, match="nothing else tells one boot from another"):
        JournalFile(path, tmp_path / "missing")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: b"", None),
        (lambda content: b"something else entirely", "cut short"),
        (lambda content: b"\x00" * len(content), "no journal of this format"),
        (lambda content: content[:-SLOT_BYTES], "cut short"),
        (
            lambda content: content.replace(bytes.fromhex("0198c0de"), bytes.fromhex("0198c0df")),
            "slot in it is damaged",
        ),
        (lambda content: content.replace(b"accepted at", b"accepted ax"), "outcome in it is damaged"),
    ],
)
def test_a_damaged_journal_is_not_believed(path, damage, said):
    with JournalFile(path) as file:
        journal = Journal(2, file)
        journal.begin(IDS[0], 1)
        journal.begin(IDS[1], 1).known(1, ACCEPTED, REPLY)
    path.write_bytes(damage(path.read_bytes()))
    if said is None:
        assert left_over(path) == []
        return
    with pytest.raises(JournalError, match=said):
        left_over(path)
