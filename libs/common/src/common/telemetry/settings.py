"""What a process reads of OpenTelemetry's own variables; exporters read the rest (`OTEL_EXPORTER_OTLP_HEADERS` ...).

Nothing is traced or pushed without `OTEL_EXPORTER_OTLP_ENDPOINT`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints
from pydantic_settings import BaseSettings, SettingsConfigDict

Sampler = Literal[
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
]


class TelemetrySettings(BaseSettings):
    """`OTEL_*`, as OpenTelemetry defines them, but for the sampler: one message in a hundred unless told otherwise."""

    model_config = SettingsConfigDict(env_prefix="OTEL_", env_ignore_empty=True, frozen=True, extra="ignore")

    sdk_disabled: bool = False
    exporter_otlp_endpoint: Annotated[str, StringConstraints(pattern=r"^(https?://\S+)?$")] = ""
    """Base address of a collector that speaks OTLP over HTTP, such as http://127.0.0.1:4318."""
    exporter_otlp_protocol: Literal["http/protobuf"] = "http/protobuf"
    traces_sampler: Sampler = "parentbased_traceidratio"
    traces_sampler_arg: float = Field(0.01, ge=0, le=1)
    metric_export_interval: int = Field(15_000, ge=1_000)
    """Milliseconds."""

    @property
    def exports(self) -> bool:
        """Whether there is a collector to send to."""
        return bool(self.exporter_otlp_endpoint) and not self.sdk_disabled

    @property
    def ratio(self) -> float:
        """The share of messages that are sampled at the door."""
        if self.traces_sampler.endswith("traceidratio"):
            return self.traces_sampler_arg
        return 1.0 if self.traces_sampler.endswith("always_on") else 0.0

    @property
    def asks_caller(self) -> bool:
        """Whether a caller's own decision is followed."""
        return self.traces_sampler.startswith("parentbased")
