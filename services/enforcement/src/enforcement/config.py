"""What this service reads from its environment, prefix ENFORCEMENT_."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

from common.config import HttpAddress, ServiceSettings


class Settings(ServiceSettings):
    """Settings of one copy of enforcement."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_prefix="ENFORCEMENT_")

    vault_url: HttpAddress
