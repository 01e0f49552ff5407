"""A collector that speaks OTLP over HTTP (protobuf) within the test's process and keeps what it is sent."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, slots=True)
class KeptSpan:
    """A span as it arrived; ids are hexadecimal, times seconds."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    started: float
    seconds: float
    failed: bool
    attributes: dict[str, Any]


@dataclass(slots=True)
class Collector:
    """What arrived so far."""

    url: str = ""
    spans: list[KeptSpan] = field(default_factory=list)
    metrics: dict[str, set[str]] = field(default_factory=dict)
    """Names of metrics by service."""
    requests: int = 0
    answers: threading.Event = field(default_factory=threading.Event)
    """Cleared, the collector takes requests and does not answer them."""
    close: Callable[[], None] = lambda: None
    """Stop listening, for good."""

    def trace(self, trace_id: str) -> list[KeptSpan]:
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.started)


@contextmanager
def collector() -> Iterator[Collector]:
    """Run a collector on a free port of this machine."""
    kept = Collector()
    kept.answers.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            kept.requests += 1
            kept.answers.wait()
            if self.path == "/v1/traces":
                kept.spans += _spans(body)
            elif self.path == "/v1/metrics":
                _keep_metrics(body, kept)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="collector", daemon=True)
    thread.start()

    def close() -> None:
        kept.answers.set()
        server.shutdown()
        server.server_close()
        thread.join()

    kept.close = close
    kept.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield kept
    finally:
        if thread.is_alive():
            kept.close()


def _spans(body: bytes) -> list[KeptSpan]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        KeptSpan(
            service=_attributes(resource.resource.attributes)["service.name"],
            name=span.name,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            kind=span.kind,
            started=span.start_time_unix_nano / 1e9,
            seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
            failed=span.status.code == 2,
            attributes=_attributes(span.attributes),
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _keep_metrics(body: bytes, kept: Collector) -> None:
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        names = kept.metrics.setdefault(_attributes(resource.resource.attributes)["service.name"], set())
        names.update(metric.name for scope in resource.scope_metrics for metric in scope.metrics)


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
