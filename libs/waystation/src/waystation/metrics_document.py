"""`docs/metrics.md`, generated from the registry of metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.telemetry.metrics import METRICS

if TYPE_CHECKING:
    from common.telemetry.metrics import Metric


def metrics_document() -> str:
    """Return the page: each metric with what it tells, and the question that it answers."""
    return "\n".join(
        [
            "# Metrics",
            "",
            "Generated from `libs/common/src/common/telemetry/metrics.py` by `make contracts`; do not edit.",
            "How to turn telemetry on, and which alerts to set: [telemetry.md](telemetry.md).",
            "",
            "Every series has the labels `service_name` and `service_instance_id`; over OTLP these are attributes of",
            "the resource. In Prometheus the dots of attributes are underscores.",
            "",
            "| question | metric (OTLP) | in Prometheus |",
            "|---|---|---|",
            *(
                f"| {metric.answers} | [`{metric.name}`](#{_anchor(metric)}) | `{metric.prometheus_name}` |"
                for metric in METRICS
            ),
            *(line for metric in METRICS for line in _section(metric)),
            "",
        ]
    )


def _row(metric: Metric) -> str:
    return f"| {metric.answers} | [`{metric.name}`](#{_anchor(metric)}) | `{metric.prometheus_name}` |"


def _section(metric: Metric) -> list[str]:
    lines = ["", f"## {metric.name}", f"{metric.tells}", "", f"A {metric.kind} in `{metric.unit}`."]
    if metric.attributes:
        lines.append(f"Attributes: {', '.join(f'`{name}`' for name in metric.attributes)}.")
    if metric.bounds:
        lines.append(f"Buckets up to {', '.join(f'{bound:g}' for bound in metric.bounds)}.")
    return lines


def _anchor(metric: Metric) -> str:
    return metric.name.replace(".", "")
