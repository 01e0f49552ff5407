"""What this service reads from its environment."""

from __future__ import annotations

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
