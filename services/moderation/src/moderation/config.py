"""What this service reads from its environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from common.config import HttpAddress, ReadableFile, ServiceSettings


class ModerationSettings(ServiceSettings):
    """`MODERATION_*`; the key file holds the Ed25519 key that verdicts are signed with.

    `policy_file` is in force until the topic has an active policy. `mail_server` is the name under which the own
    receiving mail server writes Authentication-Results.
    """

    model_config = SettingsConfigDict(env_prefix="MODERATION_")

    signing_key_file: ReadableFile
    vault_url: HttpAddress
    policy_file: ReadableFile
    mail_server: str = ""
    review_lease_seconds: float = Field(default=900.0, ge=5.0)
    review_second_share: float = Field(default=0.1, ge=0.0, le=1.0)
    review_clock_minutes: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    rejudge_days: int = Field(default=7, ge=1, le=14)
    rejudge_messages_max: int = Field(default=1000, ge=1)
    clamd_socket: Path | None = None
    rspamd_url: HttpAddress | None = None
    scanner_seconds_max: float = Field(default=2.0, gt=0.0, le=10.0)
