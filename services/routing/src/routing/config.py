"""What routing reads from its environment, prefix ROUTING_."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.config import ServiceSettings


class RoutingSettings(ServiceSettings):
    """Settings of routing. Times in seconds."""

    model_config = SettingsConfigDict(env_prefix="ROUTING_", frozen=True, extra="ignore")

    vault_url: str
    signing_key_file: Path
    smtp_url: str
    lease_seconds: float = Field(12.0, ge=2.0)
    lease_margin_seconds: float = Field(3.0, gt=0)
    retry_seconds_first: float = Field(30.0, gt=0)
    deliveries_in_memory_max: int = Field(1000, ge=64)
    attempts_open_max: int = Field(64, ge=1, le=64)
    cycle_seconds: float = Field(0.01, ge=0)
