"""What the vault reads from its environment."""

from __future__ import annotations

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from common.config import ServiceSettings


class VaultSettings(ServiceSettings):
    """The vault's settings, `VAULT_*`."""

    model_config = SettingsConfigDict(env_prefix="VAULT_", frozen=True, extra="ignore")

    root_key_file: Path
    processors_file: Path
    accounts_cached_max: int = 10_000
