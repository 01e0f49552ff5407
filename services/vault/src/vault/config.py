"""What the vault reads from its environment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, SecretStr
from pydantic_settings import SettingsConfigDict

from common.config import ReadableFile, ServiceSettings

Purpose = Literal[
    "intake", "screening", "delivery", "inbox", "complaints", "review", "case", "legal-basis", "data-protection"
]  # fmt: skip


class VaultSettings(ServiceSettings):
    """The vault's settings, `VAULT_*`."""

    model_config = SettingsConfigDict(env_prefix="VAULT_", frozen=True, extra="ignore")

    signing_key_file: ReadableFile
    root: str = "file"
    other_root: str | None = None
    root_key_file: ReadableFile | None = None
    production: bool = False
    file_root_in_production: Literal["accepted"] | None = None
    aws_endpoint: str | None = None
    transit_url: str | None = None
    transit_token: SecretStr | None = None
    root_passphrase: SecretStr | None = None
    keys_dir: Path
    processors_file: ReadableFile
    epoch_hours: float = 24.0
    operator_name: str = "not set: VAULT_OPERATOR_NAME"
    operator_contact: str = "not set: VAULT_OPERATOR_CONTACT"
    protection_officer: str = "not set: VAULT_PROTECTION_OFFICER"
    accounts_cached_max: int = 10_000
    items_per_second: Mapping[Purpose, PositiveFloat] = Field(default_factory=dict)
