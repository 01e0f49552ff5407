"""Settings that every service reads from its environment, each with the service's own prefix."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.kafka.settings import KafkaAccess


class ServiceSettings(BaseSettings):
    """What each service needs; a subclass sets `env_prefix` and adds its own."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    instance: str
    http_host: str = "127.0.0.1"
    http_port: int
    kafka_bootstrap: str
    kafka_username: str
    kafka_password: SecretStr
    postgres_dsn: SecretStr
    identity_key_file: Path
    trusted_keys_dir: Path

    @property
    def kafka(self) -> KafkaAccess:
        """How this service reaches Kafka."""
        return KafkaAccess(self.kafka_bootstrap, self.kafka_username, self.kafka_password.get_secret_value())
