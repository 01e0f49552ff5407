"""Dead letters: what is open, replaying and discarding, over records held in memory."""

from __future__ import annotations

import pytest

from waystation.commands.dlq_commands import _corrections, view
from waystation.dlq import DeadLetter, DeadLetterOffice, Handled, Replay, replay_of
from waystation.errors import CommandError

SOURCE, GROUP = "intake.messages", "moderation.screening"
TOPIC = f"{SOURCE}.{GROUP}.dlq"


def letter(offset, *, reason="value: the record is empty", partition=0, value=b"{}", extra=(), **why):
    headers = {
        "dlq_reason": reason,
        "dlq_topic": SOURCE,
        "dlq_partition": "4",
        "dlq_offset": "17",
        "dlq_group": GROUP,
        **why,
    }
    own = tuple((name, text.encode()) for name, text in headers.items())
    return DeadLetter(TOPIC, partition, offset, 1_000, b"rt_1", value, (("ce_type", b"x"), *extra, *own))


class LettersInMemory:
    """Dead letters in lists; replays are kept, or fail when told to."""

    def __init__(self, *letters):
        self.stored = list(letters)
        self.sent = []
        self.down = False

    def topics(self):
        return [TOPIC]

    def bounds(self, topic):
        partitions = {one.partition for one in self.stored} or {0}
        offsets = {p: [one.offset for one in self.stored if one.partition == p] or [0] for p in partitions}
        return {p: (min(found), max(found) + bool(self.stored)) for p, found in offsets.items()}

    def read(self, topic, partition, start, end):
        yield from (one for one in self.stored if one.partition == partition and start <= one.offset < end)

    def send(self, replays):
        if self.down:
            raise CommandError("Kafka is away")
        self.sent += replays


def office(tmp_path, *letters):
    return DeadLetterOffice(LettersInMemory(*letters), Handled(tmp_path / "handled.json"))


def test_a_replay_is_the_untouched_record_for_its_old_partition():
    assert replay_of(letter(3, value=b"\x00broken", extra=(("traceparent", b"00"),))) == Replay(
        SOURCE,
        4,
        b"rt_1",
        b"\x00broken",
        (("ce_type", b"x"), ("traceparent", b"00"), ("dlq_replayed_from", f"{TOPIC}:0:3".encode())),
    )


def test_a_corrected_header_replaces_every_one_of_its_name_and_is_noted():
    replay = replay_of(letter(3, extra=(("CE_TYPE", b"y"), ("ce_type", b"z"))), {"ce_type": b"right", "new": b"1"})
    assert replay.value == b"{}"
    assert replay.headers == (
        ("CE_TYPE", b"y"),
        ("ce_type", b"right"),
        ("new", b"1"),
        ("dlq_replayed_from", f"{TOPIC}:0:3".encode()),
        ("dlq_corrected", b"ce_type,new"),
    )


def test_a_second_replay_tells_only_of_its_own_corrections():
    again = letter(9, extra=(("dlq_corrected", b"ce_type"), ("dlq_replayed_from", b"before")))
    assert replay_of(again).headers == (("ce_type", b"x"), ("dlq_replayed_from", f"{TOPIC}:0:9".encode()))


@pytest.mark.parametrize("text", ["ce_type", "=value", "dlq_topic=other", "a b=c"])
def test_a_header_that_is_no_pair_or_belongs_to_the_dead_letter_is_not_set(text):
    with pytest.raises(CommandError, match="cannot be set"):
        _corrections([text])


def test_an_empty_record_is_replayed_empty():
    replay = replay_of(DeadLetter(TOPIC, 0, 0, 0, b"", None, letter(0).headers))
    assert (replay.key, replay.value) == (None, None)


def test_a_record_that_came_with_dlq_headers_of_its_own_goes_where_the_group_says():
    forged = letter(1, extra=(("dlq_topic", b"screening.verdicts"), ("dlq_partition", b"0")))
    assert (replay_of(forged).topic, replay_of(forged).partition) == (SOURCE, 4)


@pytest.mark.parametrize(
    "why",
    [
        {"dlq_topic": "screening.verdicts"},
        {"dlq_group": "routing.planning"},
        {"dlq_topic": ""},
        {"dlq_partition": "x"},
        {"dlq_partition": ""},
    ],
)
def test_a_record_that_does_not_come_from_the_topics_own_source_is_not_replayed(tmp_path, why):
    desk = office(tmp_path, letter(0, **why), letter(1))
    done = desk.replay(desk.open_letters(TOPIC))
    assert (done.replayed, len(done.refused), len(desk.letters.sent)) == (1, 1, 1)
    assert [one.offset for one in desk.open_letters(TOPIC)] == [0]


def test_what_was_handled_is_hidden_and_stays_known_to_the_next_command(tmp_path):
    desk = office(tmp_path, letter(0), letter(1), letter(2))
    desk.replay(iter([desk.one(TOPIC, 0, 1)]))
    desk.discard(iter([desk.one(TOPIC, 0, 2)]))
    again = office(tmp_path, letter(0), letter(1), letter(2))
    assert [one.offset for one in again.open_letters(TOPIC)] == [0]
    assert [one.action for one in again.open_letters(TOPIC, with_handled=True)] == [None, "replayed", "discarded"]


def test_a_record_is_not_replayed_twice(tmp_path):
    desk = office(tmp_path, letter(0))
    desk.replay(iter([desk.one(TOPIC, 0, 0)]))
    with pytest.raises(CommandError, match="was replayed before"):
        desk.one(TOPIC, 0, 0)


def test_a_replay_that_kafka_did_not_take_stays_open(tmp_path):
    desk = office(tmp_path, letter(0))
    desk.letters.down = True
    with pytest.raises(CommandError):
        desk.replay(desk.open_letters(TOPIC))
    assert [one.offset for one in desk.open_letters(TOPIC)] == [0]


def test_an_offset_that_does_not_exist_is_not_taken_for_the_next_one(tmp_path):
    desk = office(tmp_path, letter(5))
    with pytest.raises(CommandError, match="no record at 0:4"):
        desk.one(TOPIC, 0, 4)


def test_an_unknown_topic_names_those_that_exist(tmp_path):
    with pytest.raises(CommandError) as caught:
        list(office(tmp_path).open_letters("intake.messages"))
    assert TOPIC in caught.value.next_step


def test_the_summary_counts_open_records_and_their_reasons(tmp_path):
    desk = office(tmp_path, letter(0, reason="a"), letter(1, reason="b"), letter(2, reason="a"), letter(3, reason="c"))
    desk.discard(iter([desk.one(TOPIC, 0, 3)]))
    (summary,) = desk.summaries()
    assert (summary.open, summary.handled, summary.scanned_all) == (3, 1, True)
    assert dict(summary.reasons) == {"a": 2, "b": 1}
    assert summary.oldest_seconds > 0


def test_a_topic_without_records_has_an_empty_summary(tmp_path):
    (summary,) = office(tmp_path).summaries()
    assert (summary.open, summary.oldest_seconds, dict(summary.reasons)) == (0, None, {})


def test_marks_of_records_that_retention_removed_are_not_counted(tmp_path):
    desk = office(tmp_path, letter(0), letter(1))
    desk.discard(iter([desk.one(TOPIC, 0, 0)]))
    (summary,) = office(tmp_path, letter(1)).summaries()
    assert (summary.open, summary.handled) == (1, 0)


def test_a_hundred_and_one_records_are_replayed_in_two_steps(tmp_path):
    desk = office(tmp_path, *(letter(n) for n in range(101)))
    assert desk.replay(desk.open_letters(TOPIC)).replayed == 101
    assert len(desk.letters.sent) == 101


def test_a_damaged_file_of_marks_says_what_to_do(tmp_path):
    desk = office(tmp_path, letter(0))
    (tmp_path / "handled.json").write_text("{")
    with pytest.raises(CommandError) as caught:
        list(desk.open_letters(TOPIC))
    assert "remove it" in caught.value.next_step


def test_what_is_shown_is_printable_and_short():
    shown = view(letter(0, value=b"\x1b[31m\xff" + b"x" * 5000, reason="r\x1b[2J"))
    assert shown["size_bytes"] == 5006
    assert len(shown["preview"]) < 230
    assert "\x1b" not in str(shown)
