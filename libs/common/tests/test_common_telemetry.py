"""Traces, measures and log lines, without any service."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from types import SimpleNamespace

import httpx
import pytest
from aiokafka import ConsumerRecord, TopicPartition
from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from common.events import StandingChanged, encode
from common.http.observed import observe
from common.kafka.consumer import RetryableError, Subscription
from common.telemetry.logs import JsonFormatter
from common.telemetry.measuring import Measures, Point, prometheus_text
from common.telemetry.metrics import CONSUMER_LAG, METRICS, PROCESS_DURATION, VERDICTS, Metric
from common.telemetry.process import Telemetry
from common.telemetry.settings import TelemetrySettings
from common.telemetry.tracing import (
    CONTEXTS_HEADER,
    CONTEXTS_MAX,
    OFF,
    Tracer,
    contexts_header,
    end_all,
    in_hand,
)
from common.testing.collector import collector

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = f"00-{TRACE}-b7ad6b7169203331-01".encode()
UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-00".encode()
BROKEN = [
    None,
    b"",
    b"nonsense",
    b"\xff" * 55,
    b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
    b"00-" + b"a" * 32 + b"-" + b"0" * 16 + b"-01",
    b"ff-" + SAMPLED[3:],
    SAMPLED.upper(),
    SAMPLED + b"-more",
]


@pytest.fixture
def exported():
    return InMemorySpanExporter()


@pytest.fixture
def sdk(exported):
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exported))
    yield provider.get_tracer("tests")
    provider.shutdown()


class CountingSdk:
    """The SDK's tracer, counting how often it is asked for a span."""

    def __init__(self, sdk):
        self._sdk, self.asked = sdk, 0

    def start_span(self, *arguments):
        self.asked += 1
        return self._sdk.start_span(*arguments)


def hexadecimal(number, digits):
    return f"{number:0{digits}x}"


def parent_of(span):
    return f"00-{hexadecimal(span.parent.trace_id, 32)}-{hexadecimal(span.parent.span_id, 16)}-01".encode()


# Traces


def test_a_sampled_record_gets_a_span_of_its_own_trace_and_what_it_causes_carries_that_on(sdk, exported):
    span = Tracer(sdk).follow(SAMPLED, "process intake.messages", SpanKind.CONSUMER, {"messaging.system": "kafka"})
    assert re.fullmatch(rf"00-{TRACE}-[0-9a-f]{{16}}-01", span.traceparent.decode())
    assert span.traceparent != SAMPLED
    span.end(None, {"more": 1})
    (ended,) = exported.get_finished_spans()
    assert parent_of(ended) == SAMPLED
    assert dict(ended.attributes) == {"messaging.system": "kafka", "more": 1}


@pytest.mark.parametrize("traceparent", [UNSAMPLED, *BROKEN])
def test_what_is_not_sampled_or_no_context_gets_no_span(sdk, traceparent):
    counting = CountingSdk(sdk)
    tracer = Tracer(counting, ratio=0.0)
    assert tracer.follow(traceparent, "x", SpanKind.CONSUMER) is None
    assert tracer.follow_all([traceparent] * 3, "x", SpanKind.CONSUMER) == []
    with tracer.carry([traceparent]):
        assert not tracer.call("x", {})
    assert counting.asked == 0


def test_without_telemetry_nothing_is_done_at_all():
    def never():
        raise AssertionError("looked at a record")
        yield

    assert not OFF.on
    assert OFF.arrive(SAMPLED, "x", {}) is None
    assert OFF.follow(SAMPLED, "x", SpanKind.CONSUMER) is None
    assert OFF.follow_all(never(), "x", SpanKind.CONSUMER) == ()
    with OFF.carry(never()):
        assert in_hand() is None
        assert OFF.call("x", {}) == ()
    assert OFF.carried(SAMPLED, None) == SAMPLED


def test_the_door_samples_its_share_and_follows_the_callers_decision_when_told_to(sdk):
    tracer = Tracer(sdk, ratio=0.25)
    shares = [tracer.arrive(None, "admit", {}) for _ in range(2000)]
    assert 380 < sum(span is not None for span in shares) < 620
    assert tracer.arrive(SAMPLED, "admit", {}).traceparent[3:35] == TRACE.encode()
    assert not any(tracer.arrive(UNSAMPLED, "admit", {}) for _ in range(50))
    assert len({span.traceparent[3:35] for span in shares if span}) > 380, "each its own trace"


def test_a_door_that_does_not_ask_the_caller_ends_a_decision_that_was_not_followed(sdk):
    none, everything = (Tracer(sdk, ratio=ratio, asks_caller=False) for ratio in (0.0, 1.0))
    assert none.arrive(SAMPLED, "admit", {}) is None
    assert none.carried(SAMPLED, None) is None
    assert none.carried(UNSAMPLED, None) == UNSAMPLED
    assert everything.arrive(UNSAMPLED, "admit", {}).traceparent[3:35] == TRACE.encode()


def test_a_call_for_a_batch_stands_in_the_trace_of_each_sampled_message(sdk, exported):
    tracer = Tracer(sdk)
    other = SAMPLED.replace(b"0af7", b"1111")
    with tracer.carry([SAMPLED, None, UNSAMPLED, other]):
        spans = tracer.call("POST /v1/open:batch", {"url.template": "/v1/open:batch"})
    assert in_hand() is None
    header = contexts_header(spans)
    end_all(spans)
    ended = exported.get_finished_spans()
    assert [parent_of(span) for span in ended] == [SAMPLED, other]
    assert {span.attributes["waystation.batch.messages"] for span in ended} == {4}
    assert header.encode().split(b",") == [span.traceparent for span in spans]


def test_a_call_names_a_bounded_number_of_contexts(sdk):
    tracer = Tracer(sdk)
    with tracer.carry([SAMPLED] * (CONTEXTS_MAX + 20)):
        assert len(tracer.call("x", {})) == CONTEXTS_MAX


async def test_a_served_call_has_a_span_under_each_context_it_names_and_broken_ones_are_ignored(sdk, exported):
    telemetry = Telemetry("vault", "vault-1", TelemetrySettings())
    telemetry.tracer = Tracer(sdk)
    app = FastAPI()

    @app.post("/v1/open:batch")
    async def open_batch(fail: bool = False) -> dict[str, str]:
        if fail:
            raise RuntimeError
        return {}

    observe(app, telemetry)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://vault") as client:
        header = b",".join([SAMPLED, b"nonsense", UNSAMPLED, b"", b"\xff\xfe"])
        assert (await client.post("/v1/open:batch", headers={CONTEXTS_HEADER: header})).status_code == 200
        await client.post("/v1/open:batch?fail=true", headers={CONTEXTS_HEADER: SAMPLED})
        await client.post("/v1/open:batch")
        await client.request("BREW", "/nowhere/at-all")
        shown = (await client.get("/metrics")).text
    first, second = exported.get_finished_spans()
    assert (first.name, parent_of(first), first.kind) == ("POST /v1/open:batch", SAMPLED, SpanKind.SERVER)
    assert second.attributes["error.type"] == "500"
    (durations,) = [
        f for f in text_string_to_metric_families(shown) if f.name == "http_server_request_duration_seconds"
    ]
    counts = {
        (s.labels["http_request_method"], s.labels["http_route"], s.labels["http_response_status_code"]): s.value
        for s in durations.samples
        if s.name.endswith("_count")
    }
    assert counts == {
        ("POST", "/v1/open:batch", "200"): 2,
        ("POST", "/v1/open:batch", "500"): 1,
        ("_OTHER", "", "404"): 1,
    }


# A subscription


class Consumer:
    def __init__(self):
        self.places = {TopicPartition(StandingChanged.TOPIC, 0)}

    def assignment(self):
        return self.places

    async def commit(self, offsets):
        pass

    def seek(self, place, offset):
        pass


def standing(offset, traceparent):
    event = StandingChanged(
        account_id="acme",
        standing="good",
        revision=offset,
        clause=None,
        reason="",
        complaint_id=None,
        decided_by="machine",
        since="2026-01-31T09:30:00.000Z",
    )
    key, value, headers = encode(event, traceparent=traceparent)[1:]
    return ConsumerRecord(StandingChanged.TOPIC, 0, offset, 0, 0, key, value, None, len(key), len(value), headers)


def subscription(tracer, handler, publisher=None):
    made = Subscription(
        StandingChanged, "tests.group", handler, publisher, instance="tests-1", cycle_seconds=0, tracer=tracer
    )
    made._subscriber = SimpleNamespace(consumer=Consumer())
    made.health.assigned = True
    return made


async def test_a_batch_gives_each_sampled_record_a_span_and_every_record_the_context_to_carry_on(sdk, exported):
    counting, carried, held = CountingSdk(sdk), [], []

    async def handler(batch):
        carried.extend(received.traceparent for received in batch)
        held.append(in_hand())

    records = [standing(number, context) for number, context in enumerate([SAMPLED, UNSAMPLED, None, b"\xff"])]
    await subscription(Tracer(counting), handler)._consume(records)
    (span,) = exported.get_finished_spans()
    assert counting.asked == 1, "no span is made for a record that is not sampled"
    assert (span.name, parent_of(span)) == ("process enforcement.standings", SAMPLED)
    assert span.attributes["messaging.batch.message_count"] == 4
    assert carried[0][3:35] == TRACE.encode()
    assert carried[0] != SAMPLED
    assert carried[1:] == [UNSAMPLED, None, b"\xff"]
    assert (held[0].contexts, held[0].messages) == ((carried[0],), 4)


async def test_a_batch_that_fails_ends_its_spans_with_the_error_and_is_traced_again(sdk, exported):
    async def away(batch):
        raise RetryableError("x@example.org is not to be said")

    subject = subscription(Tracer(sdk), away)
    subject.backoff_seconds_max = 0.001
    await subject._consume([standing(1, SAMPLED)])
    await subject._consume([standing(1, SAMPLED)])
    spans = exported.get_finished_spans()
    assert [span.attributes["error.type"] for span in spans] == ["RetryableError"] * 2
    assert "example.org" not in "".join(span.to_json() for span in spans)
    points = dict(subject.measures.snapshot())[PROCESS_DURATION]
    assert [(point.values[-1], sum(point.buckets)) for point in points] == [("RetryableError", 2)]


async def test_a_record_that_is_dead_lettered_shows_so_in_its_trace_and_in_the_log(sdk, exported, caplog):
    async def bug(batch):
        if any(received.event.revision == 2 for received in batch):
            raise KeyError("secret")

    letters = []

    class Letters:
        async def publish(self, records):
            letters.extend(records)

    formatted = []
    formatter = JsonFormatter("tests")
    handler = logging.Handler()
    handler.emit = lambda record: formatted.append(json.loads(formatter.format(record)))
    logging.getLogger("common.kafka.consumer").addHandler(handler)
    try:
        other = SAMPLED.replace(b"0af7", b"1111")
        await subscription(Tracer(sdk), bug, Letters())._consume([standing(1, SAMPLED), standing(2, other)])
    finally:
        logging.getLogger("common.kafka.consumer").removeHandler(handler)
    assert len(letters) == 1
    failed = {
        hexadecimal(span.context.trace_id, 32): span.attributes.get("error.type")
        for span in exported.get_finished_spans()
    }
    assert failed == {TRACE: None, TRACE.replace("0af7", "1111"): "KeyError"}
    about = next(line for line in formatted if line["message"] == "group tests.group could not handle a record")
    assert about["trace_id"] == TRACE.replace("0af7", "1111")
    assert re.fullmatch("[0-9a-f]{16}", about["span_id"])


# Log lines


def line(tracer, *contexts):
    record = logging.LogRecord("tests", logging.INFO, __file__, 1, "said", (), None)
    with tracer.carry(contexts):
        return json.loads(JsonFormatter("tests").format(record))


def test_a_log_line_names_the_sampled_messages_in_hand(sdk):
    tracer = Tracer(sdk)
    assert line(tracer, SAMPLED)["trace_id"] == TRACE
    assert line(tracer, SAMPLED)["span_id"] == "b7ad6b7169203331"
    assert line(tracer, None, SAMPLED)["trace_ids"] == [TRACE]
    assert len(line(tracer, *[SAMPLED] * 9)["trace_ids"]) == 5
    for contexts in ((), (None,), (UNSAMPLED,), (b"\xff" * 55,), (b"\xff" * 54 + b"1",)):
        assert not {"trace_id", "trace_ids"} & set(line(tracer, *contexts))


# Settings


def test_nothing_is_exported_unless_a_collector_is_named(monkeypatch):
    settings = TelemetrySettings()
    assert not settings.exports
    assert not Telemetry("vault", "vault-1", settings).tracer.on
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert TelemetrySettings().exports
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not TelemetrySettings().exports


@pytest.mark.parametrize(
    ("sampler", "argument", "ratio", "asks_caller"),
    [
        (None, None, 0.01, True),
        ("parentbased_traceidratio", "0.5", 0.5, True),
        ("traceidratio", "1", 1.0, False),
        ("always_on", None, 1.0, False),
        ("parentbased_always_on", "0.2", 1.0, True),
        ("always_off", None, 0.0, False),
    ],
)
def test_samplers_are_those_of_opentelemetry(monkeypatch, sampler, argument, ratio, asks_caller):
    for name, value in {"OTEL_TRACES_SAMPLER": sampler, "OTEL_TRACES_SAMPLER_ARG": argument}.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    settings = TelemetrySettings()
    assert (settings.ratio, settings.asks_caller) == (ratio, asks_caller)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_TRACES_SAMPLER", "often"),
        ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
    ],
)
def test_what_cannot_be_done_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        TelemetrySettings()


# Measures


def test_metrics_have_names_of_their_own_and_ascending_bounds():
    for one in (lambda metric: metric.name, lambda metric: metric.prometheus_name):
        assert len({one(metric) for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", metric.name)
        assert bool(metric.bounds) == (metric.kind == "histogram")
        assert list(metric.bounds) == sorted(set(metric.bounds))
        assert metric.tells.endswith(".")
        assert metric.answers.endswith("?")


async def test_measures_are_read_by_prometheus_own_parser():
    measures = Measures()
    measures.counts(VERDICTS).add(2, "allow")
    measures.counts(VERDICTS).add(1, 'a "b" \\ c\nd')
    for seconds in (0.0005, 0.001, 0.3, 99):
        measures.durations(PROCESS_DURATION).record(seconds, "kafka", "t", "g", "")
    measures.sample(CONSUMER_LAG, lambda: answer([Point(("t", "g"), 7)]))
    await measures.refresh()
    text = prometheus_text(measures.snapshot(), {"service_name": "tests"})
    families = {family.name: family for family in text_string_to_metric_families(text)}
    verdicts = {sample.labels["waystation_action"]: sample.value for sample in families["waystation_verdicts"].samples}
    assert verdicts == {"allow": 2, 'a "b" \\ c\nd': 1}
    duration = families["messaging_process_duration_seconds"]
    buckets = {sample.labels.get("le"): sample.value for sample in duration.samples}
    assert (buckets["0.001"], buckets["0.25"], buckets["0.5"], buckets["30.0"], buckets["+Inf"]) == (2, 2, 3, 3, 4)
    sums = {sample.name.rpartition("_")[2]: sample.value for sample in duration.samples if "le" not in sample.labels}
    assert sums == {"sum": pytest.approx(99.3015), "count": 4}
    assert families["waystation_consumer_lag"].samples[0].value == 7
    assert families["waystation_consumer_lag"].samples[0].labels["service_name"] == "tests"


async def answer(points):
    return points


async def test_a_measure_that_cannot_be_read_takes_no_other_with_it():
    async def away():
        raise ConnectionResetError

    measures = Measures()
    measures.counts(VERDICTS).add(1, "allow")
    measures.sample(CONSUMER_LAG, lambda: answer([Point(("t", "g"), 7)]))
    await measures.refresh()
    measures.sample(CONSUMER_LAG, away)
    other = Metric("tests.other", "gauge", "1", "Other.", "Other?")
    measures.sample(other, lambda: answer([Point((), 1)]))
    await measures.refresh()
    assert {metric.name for metric, _ in measures.snapshot()} == {
        "waystation.consumer.lag",
        "tests.other",
        "waystation.verdicts",
    }


# Export


def settings_for(url, **more):
    return TelemetrySettings(
        exporter_otlp_endpoint=url, traces_sampler="always_on", metric_export_interval=1000, **more
    )


async def test_spans_and_measures_arrive_at_a_collector(monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "500")
    with collector() as kept:
        telemetry = Telemetry("routing", "routing-1", settings_for(kept.url))
        telemetry.start()
        telemetry.measures.counts(VERDICTS).add(3, "allow")
        telemetry.measures.durations(PROCESS_DURATION).record(0.2, "kafka", "t", "g", "")
        for _ in range(3):
            telemetry.tracer.arrive(None, "admit message", {}).end()
        async with asyncio.timeout(20):
            while not (len(kept.spans) == 3 and kept.metrics):
                await asyncio.sleep(0.05)
        telemetry.tracer.arrive(None, "the last one", {}).end("Failure")
        await telemetry.stop()
    assert [span.name for span in kept.spans] == ["admit message"] * 3 + ["the last one"]
    assert kept.spans[-1].failed
    assert {span.service for span in kept.spans} == {"routing"}
    assert kept.metrics["routing"] >= {"waystation.verdicts", "messaging.process.duration", "process.cpu.time"}
    spans = dict(telemetry.measures.snapshot())[METRICS[-1]]
    assert {point.values[0]: point.number for point in spans} == {"ended": 4, "exported": 4}


async def test_a_collector_that_never_answers_neither_blocks_nor_fills_the_memory():
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    try:
        with collector() as kept:
            kept.answers.clear()
            telemetry = Telemetry("routing", "routing-1", settings_for(kept.url))
            telemetry.start()
            slowest = 0.0
            for _ in range(10_000):
                before = time.monotonic()
                telemetry.tracer.arrive(None, secrets.token_hex(4), {}).end()
                slowest = max(slowest, time.monotonic() - before)
            assert slowest < 5, "a call that waited for the collector would take its time-out of ten seconds"
            before = time.monotonic()
            await telemetry.stop()
            assert time.monotonic() - before < 8
            ended = {point.values[0]: point.number for point in dict(telemetry.measures.snapshot())[METRICS[-1]]}
            assert ended["ended"] == 10_000
            assert "exported" not in ended
    finally:
        logging.getLogger("opentelemetry").setLevel(logging.NOTSET)
