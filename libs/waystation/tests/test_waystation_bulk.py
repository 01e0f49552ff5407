"""Files of messages: each line is sent once, what is wrong names line and field, and the rest goes on."""

from __future__ import annotations

import csv
import io
import json

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.times import now, rfc3339
from waystation.bulk import (
    COLUMNS,
    LINE_CHARACTERS_MAX,
    Defaults,
    LineError,
    items_from_csv,
    items_from_jsonl,
    opened,
    send_lines,
)
from waystation.door import Door
from waystation.errors import CommandError

FACTS = {"purpose": "correspondence", "legal_basis": {"kind": "contract", "attested": True}}
DEFAULTS = Defaults("hello@shop.example", FACTS)


def message(number=1, **more):
    content = {"subject": "Hi", "text": f"number {number}"}
    return {"recipient": {"address": f"p{number}@mail.example"}, "content": content, **more}


def completed(line):
    return json.loads(DEFAULTS.complete(*line).json)


def jsonl(*items):
    return io.StringIO("".join(f"{item if isinstance(item, str) else json.dumps(item)}\n" for item in items))


class DoorOfAFewRules:
    """A door in memory: keys are remembered, `spam` is refused, and `busy` requests are answered with 503 first."""

    def __init__(self, busy=0, limited=0):
        self.messages = {}
        self.busy, self.limited = busy, limited
        self.slept = []
        self.requests = 0
        self.moment = 0.0

    def __call__(self, request):
        self.requests += 1
        if self.busy:
            self.busy -= 1
            return httpx.Response(503, headers={"retry-after": "3"}, json={"detail": "congested"})
        body = json.loads(request.content)
        if "items" in body:
            return httpx.Response(200, json={"items": [self.answer(item) for item in body["items"]]})
        answer = self.answer(body)
        return httpx.Response(answer["status"], json=answer.get("message") or answer["problem"])

    def answer(self, item):
        if item["content"].get("text") == "spam":
            return refusal(422, detail="no legal basis is named", field="legal_basis", clause="R4.3")
        if self.limited:
            self.limited -= 1
            return refusal(429, detail="too fast", retry_after=2)
        found = self.messages.setdefault(item["idempotency_key"], f"m-{len(self.messages) + 1}")
        return {"status": 202, "message": {"id": found, "acceptance": {"statement": {"admitted_at": rfc3339(now())}}}}

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.moment += seconds

    def send(self, lines, defaults=DEFAULTS):
        http = httpx.Client(base_url="http://door", transport=httpx.MockTransport(self))
        door = Door(http, "wk_shop", 600.0, persistent=True, sleep=self.sleep, clock=lambda: self.moment)
        results = []
        tally = send_lines(door, lines, defaults, told=results.append)
        return tally, results


def refusal(status, **members):
    return {"status": status, "problem": {"status": status, **members}}


def test_a_line_is_an_item_and_what_it_leaves_out_is_filled_in():
    (line,) = items_from_jsonl(jsonl(message(purpose="order")))
    item = completed(line)
    assert (item["tool"], item["inbox"], item["purpose"]) == ("email", "hello@shop.example", "order")
    assert item["legal_basis"] == FACTS["legal_basis"]


def test_a_legal_basis_that_a_line_names_is_not_attested_by_us():
    (line,) = items_from_jsonl(jsonl(message(legal_basis={"kind": "consent"})))
    assert completed(line)["legal_basis"] == {"kind": "consent"}


def test_a_second_run_sends_nothing_twice_and_again_sends_all():
    door = DoorOfAFewRules()
    for _ in range(2):
        tally, _ = door.send(items_from_jsonl(jsonl(*(message(number) for number in range(250)))))
        assert (tally.accepted, tally.refused, tally.exit_status) == (250, 0, 0)
    assert (len(door.messages), door.requests) == (250, 6)
    door.send(items_from_jsonl(jsonl(message(1))), Defaults.of("hello@shop.example", FACTS, again=True))
    assert len(door.messages) == 251


def test_a_key_of_the_file_is_kept_and_a_repeated_line_goes_once():
    door = DoorOfAFewRules()
    tally, _ = door.send(items_from_jsonl(jsonl(message(1), message(1), message(2, idempotency_key="order-2"))))
    assert (tally.accepted, tally.repeated) == (2, 1)
    assert "order-2" in door.messages


def test_what_is_wrong_names_line_and_field_and_the_rest_is_sent():
    lines = [
        message(1),
        "{not json",
        "",
        "[]",
        json.dumps({"recipient": {}, "content": {}}),
        json.dumps({"recipient": {"address": "a@b.example"}}),
        message(2, content={"subject": "Hi", "text": "spam"}),
        '{"recipient": {"address": "a@b.example"}, "content": {"text": "\\ud800"}}',
        "NaN",
        json.dumps(message(reference=1)).replace('"reference": 1', '"reference": 1e400'),
        message(3),
    ]
    tally, results = DoorOfAFewRules().send(items_from_jsonl(jsonl(*lines)))
    assert (tally.accepted, tally.refused, tally.exit_status) == (2, 8, 1)
    told = {sent.source: sent.reason for sent in results if not sent.accepted}
    assert told == {
        "line 2": "is no JSON at character 2",
        "line 4": "is no JSON object",
        "line 5": "recipient.address: is missing or no text",
        "line 6": "content: is missing or no object",
        "line 7": "legal_basis: no legal basis is named (clause R4.3)",
        "line 8": "holds what is no UTF-8, or half a surrogate pair",
        "line 9": "is no JSON",
        "line 10": "holds a number that JSON cannot hold",
    }
    shown = [line.partition(":")[0] for line in tally.text().splitlines()[1:]]
    assert shown == ["line 2", "line 4", "line 5", "line 6", "line 7", "line 8", "line 9", "line 10"]


def test_a_line_beyond_the_limit_is_passed_over_without_being_held():
    long = '{"x": "' + "y" * (3 * LINE_CHARACTERS_MAX) + '"}'
    first, second = items_from_jsonl(jsonl(long, message(1)))
    assert first == LineError("line 1", f"is longer than {LINE_CHARACTERS_MAX} characters")
    assert second[0] == "line 2"


def test_a_busy_door_is_waited_for_as_it_says():
    door = DoorOfAFewRules(busy=3)
    tally, _ = door.send(items_from_jsonl(jsonl(message(1), message(2))))
    assert (tally.accepted, door.slept) == (2, [3.0, 3.0, 3.0])


def test_items_that_came_too_fast_are_sent_again_alone():
    door = DoorOfAFewRules(limited=2)
    tally, _ = door.send(items_from_jsonl(jsonl(*(message(number) for number in range(5)))))
    assert (tally.accepted, tally.refused, door.requests, door.slept) == (5, 0, 2, [2.0])


def test_a_door_that_stays_busy_stops_the_run_and_says_that_repeating_is_safe():
    door = DoorOfAFewRules(busy=10_000)
    tally, _ = door.send(items_from_jsonl(jsonl(message(1), message(2))))
    assert (tally.accepted, tally.exit_status) == (0, 3)
    assert "nothing is sent twice" in tally.text()
    assert 600 <= door.moment < 620


def test_a_door_that_is_away_for_a_moment_is_tried_again():
    door = DoorOfAFewRules()
    answer, failures = door.__call__, [httpx.ConnectError("refused"), httpx.ReadError("reset")]

    def flaky(request):
        if failures:
            raise failures.pop()
        return answer(request)

    http = httpx.Client(base_url="http://door", transport=httpx.MockTransport(flaky))
    reached = Door(http, "wk_shop", 600.0, persistent=True, sleep=door.sleep, clock=lambda: door.moment)
    tally = send_lines(reached, items_from_jsonl(jsonl(message(1))), DEFAULTS, told=lambda _: None)
    assert (tally.accepted, len(door.slept)) == (1, 2)


def test_a_row_is_a_message():
    text = 'to,name,subject,text,basis,basis_reference,from\nada@mail.example,Ada,Hi,"two\nlines",consent,form-7,x@y.example\n'
    ((source, item),) = items_from_csv(io.StringIO(text))
    assert (source, item["recipient"]) == ("line 3", {"address": "ada@mail.example", "name": "Ada"})
    assert (item["content"], item["inbox"]) == ({"subject": "Hi", "text": "two\nlines"}, "x@y.example")
    assert item["legal_basis"] == {"kind": "consent", "reference": "form-7"}


def test_an_empty_field_says_nothing_and_a_basis_without_reference_is_attested():
    (line,) = items_from_csv(io.StringIO("to,name,text,basis\na@b.example,,Hi,consent\n"))
    item = completed(line)
    assert item["recipient"] == {"address": "a@b.example"}
    assert item["legal_basis"] == {"kind": "consent", "attested": True}


@pytest.mark.parametrize(
    ("header", "words"),
    [("", "needs a column"), ("subject,text", "needs a column"), ("to,to", "once"), ("to,telephone", "'telephone'")],
)
def test_a_first_row_that_names_no_columns_is_refused_before_anything_is_sent(header, words):
    with pytest.raises(CommandError, match=words) as refused:
        items_from_csv(io.StringIO(f"{header}\na,b\n"))
    assert "idempotency_key" in refused.value.next_step


def test_rows_of_another_length_are_named_and_the_rest_goes_on():
    found = list(items_from_csv(io.StringIO("to,text\na@b.example\nc@d.example,Hi\n\n")))
    assert found[0] == LineError("line 2", "has 1 fields, the first row names 2")
    assert found[1][1]["recipient"] == {"address": "c@d.example"}


@pytest.mark.parametrize("text", ['"never', '"say "hi" now"', "x" * (LINE_CHARACTERS_MAX + 1)])
def test_a_row_that_is_no_csv_ends_the_run_after_what_stands_before_it(text):
    door = DoorOfAFewRules()
    rows = f"to,text\na@b.example,Hi\nc@d.example,{text}\ne@f.example,Hi\n"
    tally, _ = door.send(items_from_csv(io.StringIO(rows)))
    assert (tally.accepted, tally.refused, tally.exit_status) == (1, 1, 3)
    assert "in the row that begins at line 3" in tally.refusals[0].reason
    assert "stopped: nothing after line" in tally.text()


def test_a_field_may_be_as_long_as_a_line_of_json():
    (line,) = items_from_csv(io.StringIO(f"to,html\na@b.example,{'x' * LINE_CHARACTERS_MAX}\n"))
    assert len(line[1]["content"]["html"]) == LINE_CHARACTERS_MAX


def test_an_item_that_nests_too_deep_to_be_written_is_named():
    content = {"text": "Hi"}
    for _ in range(5_000):
        content = {"text": content}
    assert DEFAULTS.complete("line 1", message(content=content)) == LineError("line 1", "is nested too deep")


def test_a_file_may_begin_with_a_byte_order_mark_and_hold_what_is_no_text(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfto,text\r\na@b.example,\xff\r\n")
    with opened(str(tmp_path / "a.csv")) as lines:
        (line,) = items_from_csv(lines)
    assert "UTF-8" in DEFAULTS.complete(*line).reason


def test_a_file_that_is_not_there_is_told():
    with pytest.raises(CommandError, match="cannot be read"), opened("none.jsonl"):
        pass


@given(st.lists(st.dictionaries(st.sampled_from(sorted(COLUMNS)), st.text(max_size=20)), max_size=5))
def test_any_row_is_read_or_told(rows):
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, sorted(COLUMNS), strict=True)
    writer.writeheader()
    writer.writerows(rows)
    found = list(items_from_csv(io.StringIO(file.getvalue(), newline="")))
    assert len(found) == len(rows)
    for (_, item), row in zip(found, rows, strict=True):
        assert item.get("content", {}).get("subject", "") == row.get("subject", "")


@given(st.text(max_size=200))
def test_any_text_is_read_as_lines_or_told(text):
    for line in items_from_jsonl(io.StringIO(text, newline="")):
        if not isinstance(line, LineError):
            DEFAULTS.complete(*line)
