"""One message through all services is one trace; a collector that is away or asleep changes nothing."""

from __future__ import annotations

import asyncio
import json
import secrets
import time

import httpx
import pytest
from on_the_road import wait_for, wait_until_settled
from prometheus_client.parser import text_string_to_metric_families

from common.telemetry.metrics import METRICS
from common.testing.collector import collector
from waystation.rehearsal import items
from waystation.stack import SERVICES

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

ON_THE_ROAD = ("vault", "moderation", "ingestion", "routing")

OF_OPERATORS_AND_NIGHTS = {"waystation_shadow_differences", "waystation_policies_refused", "waystation_replays"}
"""Counted by policy in shadow, by refused policy, by replay: shown only where other tests of the road did that."""


@pytest.fixture(scope="module")
def kept():
    with collector() as running:
        yield running


@pytest.fixture(scope="module")
def traced(road, kept):
    """The road with telemetry on; everything that a caller's trace context asks for is traced."""
    often = {"OTEL_METRIC_EXPORT_INTERVAL": "1000", "OTEL_BSP_SCHEDULE_DELAY": "500"}
    with Restarted(road, {"OTEL_EXPORTER_OTLP_ENDPOINT": kept.url, **often}):
        yield road


class Restarted:
    """The services of the road with other variables of OpenTelemetry's, then as they were."""

    def __init__(self, road, environment):
        self._stack = road.stack
        self._environment = environment

    def __enter__(self):
        self._restart(self._environment)

    def __exit__(self, *_):
        self._restart({})

    def _restart(self, environment):
        for service in reversed(SERVICES):
            self._stack.stop_service(service)
        for service in SERVICES:
            own = {"ROUTING_RETRY_SECONDS_FIRST": "0.5"} if service == "routing" else {}
            self._stack.start_service(service, extra_env={**own, **environment}, wait=False)
        for service in SERVICES:
            self._stack.wait_ready(service)


def send(road, recipients, *, headers=None):
    """Send messages in one request; return their ids."""
    account = road.create_account(f"Traced {time.time_ns()}")
    answer = httpx.post(
        f"{road.stack.url('ingestion')}/v1/messages:batch",
        json={"items": items(recipients, tag=secrets.token_hex(4))},
        headers={"authorization": f"Bearer {account.api_key}", **(headers or {})},
        timeout=30,
        trust_env=False,
    )
    return [item["message"]["id"] for item in answer.raise_for_status().json()["items"]]


def one_of(spans, service, name):
    (found,) = [span for span in spans if (span.service, span.name) == (service, name)]
    return found


def test_one_message_is_one_trace_through_all_services(traced, kept):
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    (message_id,) = send(traced, ["trace@kunden.example"], headers={"traceparent": f"00-{trace_id}-{caller}-01"})
    assert wait_until_settled(traced.stack, [message_id]) == {message_id: "handed_over"}

    tree = [
        ("ingestion", "admit message", None),
        ("ingestion", "POST /v1/seal:batch", ("ingestion", "admit message")),
        ("vault", "POST /v1/seal:batch", ("ingestion", "POST /v1/seal:batch")),
        ("ingestion", "send intake.messages", ("ingestion", "admit message")),
        ("moderation", "process intake.messages", ("ingestion", "admit message")),
        ("moderation", "POST /v1/open:batch", ("moderation", "process intake.messages")),
        ("vault", "POST /v1/open:batch", ("moderation", "POST /v1/open:batch")),
        ("moderation", "send screening.verdicts", ("moderation", "process intake.messages")),
        ("routing", "process screening.verdicts", ("moderation", "process intake.messages")),
        ("routing", "POST /v1/disclose:batch", ("routing", "process screening.verdicts")),
        ("vault", "POST /v1/disclose:batch", ("routing", "POST /v1/disclose:batch")),
        ("routing", "hand over smtp.default", ("routing", "process screening.verdicts")),
        ("routing", "send routing.receipts", ("routing", "hand over smtp.default")),
        ("vault", "process routing.receipts", ("routing", "hand over smtp.default")),
        ("ingestion", "process routing.receipts", ("routing", "hand over smtp.default")),
    ]
    wait_for(lambda: len(kept.trace(trace_id)) >= len(tree), "the last spans reach the collector", 10)
    spans = kept.trace(trace_id)
    assert sorted((span.service, span.name) for span in spans) == sorted(row[:2] for row in tree)
    for service, name, parent in tree:
        above = caller if parent is None else one_of(spans, *parent).span_id
        assert one_of(spans, service, name).parent_id == above, (service, name)
    assert not any(span.failed for span in spans)
    assert one_of(spans, "ingestion", "admit message").attributes["waystation.message.id"] == message_id
    assert one_of(spans, "routing", "hand over smtp.default").attributes["waystation.result"] == "accepted"


def test_each_message_of_a_batch_keeps_its_own_trace(traced, kept):
    """A hundred messages of a hundred traces leave in few batches; those that are not sampled leave no span."""
    account = traced.create_account(f"Batch {time.time_ns()}")
    wanted = {}
    load = items([f"batch{number}@kunden.example" for number in range(40)], tag=secrets.token_hex(4))

    async def send_each():
        async with httpx.AsyncClient(base_url=traced.stack.url("ingestion"), trust_env=False, timeout=30) as client:

            async def one(number, item):
                trace_id = secrets.token_hex(16)
                flags = "01" if number % 4 == 0 else "00"
                headers = {
                    "authorization": f"Bearer {account.api_key}",
                    "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-{flags}",
                }
                answer = await client.post("/v1/messages", json=item, headers=headers)
                wanted[trace_id] = (answer.raise_for_status().json()["id"], flags == "01")

            await asyncio.gather(*(one(*pair) for pair in enumerate(load)))

    asyncio.run(send_each())
    wait_until_settled(traced.stack, [message_id for message_id, _ in wanted.values()])
    sampled = {trace_id: message_id for trace_id, (message_id, is_sampled) in wanted.items() if is_sampled}

    def whole(trace_id):
        names = {(span.service, span.name) for span in kept.trace(trace_id)}
        return ("ingestion", "process routing.receipts") in names and {service for service, _ in names} == set(
            ON_THE_ROAD
        )

    wait_for(lambda: all(map(whole, sampled)), "every sampled message has its own whole trace")
    for trace_id, message_id in sampled.items():
        ids = {span.attributes.get("waystation.message.id") for span in kept.trace(trace_id)} - {None}
        assert ids == {message_id}, "no other message's span stands in this trace"
    assert not any(kept.trace(trace_id) for trace_id, (_, is_sampled) in wanted.items() if not is_sampled)
    batches = [
        span.attributes["messaging.batch.message_count"]
        for span in kept.spans
        if span.name == "process intake.messages"
    ]
    assert max(batches) > 1, "nothing travelled in a batch: the test shows nothing"


def test_metrics_are_shown_to_prometheus_and_pushed_to_the_collector_under_the_names_of_the_registry(traced, kept):
    (message_id,) = send(traced, ["metrics@kunden.example"])
    wait_until_settled(traced.stack, [message_id])
    known = {metric.prometheus_name.removesuffix("_total") for metric in METRICS}
    shown = {}
    for service in SERVICES:
        answer = httpx.get(f"{traced.stack.url(service)}/metrics", trust_env=False)
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = {family.name: family for family in text_string_to_metric_families(answer.text)}
        assert set(families) <= known
        assert "kunden.example" not in answer.text
        shown[service] = families
    stages = {
        sample.labels["waystation_stage"]
        for families in shown.values()
        for family in families.values()
        if family.name == "waystation_stage_oldest_age_seconds"
        for sample in family.samples
    }
    assert stages == {"outbox", "screening", "rejudging", "planning", "handover", "tracing", "spending"}
    everywhere = set().union(*shown.values())
    assert everywhere - OF_OPERATORS_AND_NIGHTS == known - OF_OPERATORS_AND_NIGHTS
    (lag,) = shown["routing"]["waystation_consumer_lag"].samples
    assert lag.labels["messaging_consumer_group_name"] == "routing.planning"
    accepted = [
        sample.value
        for sample in shown["routing"]["waystation_handover_attempts"].samples
        if sample.labels["waystation_result"] == "accepted"
    ]
    assert accepted[0] >= 1
    wait_for(lambda: set(kept.metrics) == set(SERVICES), "each service pushes its metrics")
    pushed = set().union(*kept.metrics.values())
    assert {"waystation.consumer.lag", "messaging.process.duration", "process.cpu.time"} <= pushed
    assert pushed <= {metric.name for metric in METRICS}


def test_a_collector_that_never_answers_or_is_gone_changes_nothing_on_the_road(traced, kept):
    """The last test of this file: there is no collector after it."""
    logs = {service: traced.stack.layout.log(f"{service}-1") for service in SERVICES}
    sizes = {service: path.stat().st_size for service, path in logs.items()}
    for how, begin in {"silent": kept.answers.clear, "closed": kept.close}.items():
        begin()
        taken = kept.requests
        ids = send(traced, [f"{how}{number}@kunden.example" for number in range(300)], headers=sampled_by_caller())
        assert set(wait_until_settled(traced.stack, ids).values()) == {"handed_over"}
        if how == "silent":
            wait_for(lambda seen=taken: kept.requests > seen, "the collector is asked")
        wait_for(lambda: all(is_ready(traced, service) for service in SERVICES), "every service is ready")
    stopped = time.monotonic()
    traced.stack.stop_service("moderation")
    assert time.monotonic() - stopped < 15, "a process does not wait for its collector"
    for service, path in logs.items():
        said = [json.loads(line) for line in path.read_bytes()[sizes[service] :].splitlines() if line[:1] == b"{"]
        about = [line["message"] for line in said if line["logger"].startswith("opentelemetry")]
        assert len(about) <= 12, f"{service} floods its log: {about}"


def sampled_by_caller():
    return {"traceparent": f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"}


def is_ready(road, service):
    return httpx.get(f"{road.stack.url(service)}/readyz", trust_env=False).status_code == 200
