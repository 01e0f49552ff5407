"""What routing reads from its environment, prefix ROUTING_."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from common.config import HttpAddress, ReadableFile, ServiceSettings
from routing.providers.smtp_settings import parse_smtp_url


def _smtp_url(url: str) -> str:
    parse_smtp_url(url)
    return url


class RoutingSettings(ServiceSettings):
    """Settings of routing. Times in seconds."""

    model_config = SettingsConfigDict(env_prefix="ROUTING_", frozen=True, extra="ignore")

    vault_url: HttpAddress
    signing_key_file: ReadableFile
    smtp_url: Annotated[str, AfterValidator(_smtp_url)]
    lease_seconds: float = Field(12.0, ge=2.0)
    lease_margin_seconds: float = Field(3.0, gt=0)
    retry_seconds_first: float = Field(30.0, gt=0)
    deliveries_in_memory_max: int = Field(1000, ge=64)
    attempts_open_max: int = Field(64, ge=1, le=64)
    cycle_seconds: float = Field(0.01, ge=0)
