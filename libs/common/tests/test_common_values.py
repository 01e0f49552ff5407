"""Ids, times, queries, logs, outbox columns: the small values that everything else is made of."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.events import StandingChanged, encode
from common.ids import claimed_id, new_id, new_recipient_token
from common.kafka.records import Record
from common.outbox import outbox_columns
from common.postgres.queries import load_queries, parse_queries
from common.telemetry.logs import JsonFormatter, configure_logs
from common.times import now, parse_rfc3339, rfc3339

ZONES = st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone)
MOMENTS = st.datetimes(datetime.min + timedelta(2), datetime.max - timedelta(2), timezones=ZONES)  # noqa: DTZ901  hypothesis adds the zone
CANARY = "jane.roe@example.org"


def test_ids_grow_with_time_and_never_repeat():
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", one) for one in ids)


def test_a_recipient_token_is_128_random_bits_with_a_prefix():
    tokens = {new_recipient_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(re.fullmatch(r"rt_[A-Za-z0-9_-]{22}", token) for token in tokens)


@pytest.mark.parametrize(
    ("claimed", "kept"),
    [
        (None, ""),
        (b"01a2\xff\x00", "01a2??"),
        ("a\0b\x1f\ud800\u00e9\n", "a?b????"),
        (["x\0"], "['x\\x00']"),
        ("\0" * 500, "?" * 100),
    ],
)
def test_what_a_forged_record_claims_to_be_can_be_stored(claimed, kept):
    assert claimed_id(claimed) == kept


@given(MOMENTS)
def test_a_time_survives_to_the_millisecond(moment):
    text = rfc3339(moment)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert timedelta(0) <= moment - parse_rfc3339(text) < timedelta(milliseconds=1)


@given(MOMENTS, MOMENTS)
def test_texts_of_times_sort_as_the_times_do(one, other):
    if abs(one - other) >= timedelta(milliseconds=1):
        assert (one < other) == (rfc3339(one) < rfc3339(other))


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-31", "2026-01-31T09:30:00", "2026-13-01T00:00:00Z"])
def test_what_is_no_time_or_has_no_zone_is_refused(text):
    with pytest.raises(ValueError):
        parse_rfc3339(text)


def test_now_has_a_zone():
    assert now().tzinfo is UTC


def test_queries_are_found_by_name():
    text = "-- name: insert_things\n-- Inserts.\nINSERT INTO things\nVALUES ($1)\n\n-- name: list_things\nSELECT 1\n"
    queries = parse_queries(text)
    assert queries["insert_things"] == "-- Inserts.\nINSERT INTO things\nVALUES ($1)"
    assert queries["list_things"] == "SELECT 1"
    assert len(queries) == 2


def test_a_query_defined_twice_is_an_error():
    with pytest.raises(ValueError, match="one is defined twice"):
        parse_queries("-- name: one\nSELECT 1\n-- name: two\nSELECT 2\n-- name: one\nSELECT 3\n")


@pytest.mark.parametrize("text", ["", "SELECT 1", "-- a comment only", "  -- name: indented\nSELECT 1"])
def test_a_file_without_names_has_no_queries(text):
    assert parse_queries(text) == {}


def test_queries_come_from_a_package(tmp_path, monkeypatch):
    package = tmp_path / "things_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "queries.sql").write_text("-- name: one\nSELECT 'ü'\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_queries("things_package") == {"one": "SELECT 'ü'"}


def fail():
    raise ValueError(CANARY)


def failed_record():
    try:
        fail()
    except ValueError:
        return logging.LogRecord("vault", logging.ERROR, __file__, 1, "item %d failed", (3,), sys.exc_info())


def test_a_log_line_names_type_and_place_of_an_error_and_not_its_text():
    text = JsonFormatter("vault").format(failed_record())
    line = json.loads(text)
    assert (line["level"], line["service"], line["logger"]) == ("error", "vault", "vault")
    assert (line["message"], line["error"]) == ("item 3 failed", "ValueError")
    assert line["at"].startswith("fail:")
    assert CANARY not in text
    assert "\n" not in text


def test_the_text_of_a_chained_error_is_not_logged_either():
    def chained():
        try:
            fail()
        except ValueError as error:
            raise RuntimeError(CANARY) from error

    try:
        chained()
    except RuntimeError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    assert CANARY not in JsonFormatter("vault").format(record)


def test_the_loop_reports_a_lost_task_without_the_text_of_its_error():
    lines = []

    class Lines(logging.Handler):
        def emit(self, record):
            lines.append(self.format(record))

    handler = Lines()
    handler.setFormatter(JsonFormatter("vault"))
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)

    async def fail_later():
        fail()

    async def lose_a_task():
        task = asyncio.ensure_future(fail_later())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task

    try:
        asyncio.run(lose_a_task())
    finally:
        logger.removeHandler(handler)
    assert [json.loads(line)["message"] for line in lines] == ["Task exception was never retrieved"]
    assert CANARY not in "".join(lines)


def test_logs_of_a_process_are_json_on_standard_error(capsys):
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        configure_logs("routing")
        logging.getLogger("routing.dispatch").info("claimed %d", 64)
        logging.getLogger("aiokafka").info("chatter")
    finally:
        root.handlers[:], root.level = before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [json.loads(line)["message"] for line in captured.err.splitlines()] == ["claimed 64"]


def test_outbox_columns_stand_row_by_row():
    event = StandingChanged(
        account_id="acme",
        standing="good",
        revision=1,
        clause=None,
        reason="",
        complaint_id=None,
        decided_by="machine",
        since="2026-01-31T09:30:00.000Z",
    )
    record = encode(event, traceparent=b"00-1-2-01")
    topics, keys, values, headers = outbox_columns([record, Record("t", None, None, (("x", None),))])
    assert (topics, keys, values) == (["enforcement.standings", "t"], [b"acme", b""], [record.value, b""])
    assert json.loads(headers[0]) == {name: value.decode() for name, value in record.headers}
    assert json.loads(headers[1]) == {"x": ""}
    assert outbox_columns([]) == ([], [], [], [])
