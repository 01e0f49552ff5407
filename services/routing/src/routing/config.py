"""What routing reads from its environment, prefix ROUTING_."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import SettingsConfigDict

from common.config import HttpAddress, ReadableFile, ServiceSettings
from routing.providers.smtp_settings import parse_smtp_url


def _smtp_url(url: str) -> str:
    parse_smtp_url(url)
    return url


def _in_a_folder(path: Path) -> Path:
    if not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.R_OK | os.W_OK)):
        raise ValueError("this process may not write there, or the folder is missing")
    return path


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
    attempts_open_max: int = Field(256, ge=1, le=1024)
    journal_file: Annotated[Path, AfterValidator(_in_a_folder)] | None = None
    cycle_seconds: float = Field(0.01, ge=0)
    settling_cycle_seconds: float = Field(0.25, ge=0)
