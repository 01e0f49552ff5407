"""What the door reads from its environment, prefix `INGESTION_`."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from common.config import HttpAddress, ReadableFile, ServiceSettings


class Settings(ServiceSettings):
    """Settings of one copy of the door."""

    model_config = SettingsConfigDict(env_prefix="INGESTION_", frozen=True, extra="ignore")

    signing_key_file: ReadableFile
    vault_url: HttpAddress
    rules_file: ReadableFile = Path("deploy/rules/1.yaml")

    content_bytes_max: int = 700_000
    """Limit of one final mail: with its envelope it must fit a Kafka record."""
    messages_per_second_max: float = 10_000.0
    """Rate of one account."""
    messages_burst_max: int = 20_000
    cycle_seconds: float = 0.06
    batches_in_flight_max: int = 3

    outbox_records_max: int = 2_000
    """Beyond this many unpublished messages batches are asked to come back."""
    outbox_seconds_max: float = 20.0
    backlog_seconds_max: float = 60.0
    """Batches are asked to come back when the road is this far behind the door."""
    singles_factor: float = 3.0
    """Single messages are let in up to this multiple of the three bounds."""
