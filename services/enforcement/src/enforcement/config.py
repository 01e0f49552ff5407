"""What this service reads from its environment, prefix ENFORCEMENT_."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

from common.config import ServiceSettings


class Settings(ServiceSettings):
    """Settings of enforcement; it has none of its own."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_prefix="ENFORCEMENT_")
