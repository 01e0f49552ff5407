"""What the vault reads from its environment."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

from common.config import ReadableFile, ServiceSettings


class VaultSettings(ServiceSettings):
    """The vault's settings, `VAULT_*`."""

    model_config = SettingsConfigDict(env_prefix="VAULT_", frozen=True, extra="ignore")

    root_key_file: ReadableFile
    processors_file: ReadableFile
    accounts_cached_max: int = 10_000
