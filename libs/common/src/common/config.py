"""Settings that every service reads from its environment, each with the service's own prefix.

A secret may also stand in a file of the folder of secrets, named as its variable (`/run/secrets/ROUTING_POSTGRES_DSN`,
in any case): containers keep passwords out of the environment that way. The environment wins.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, DirectoryPath, Field, FilePath, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from common.kafka.settings import KafkaAccess
from common.telemetry.logs import configure_logs
from common.telemetry.settings import TelemetrySettings

SECRETS_FOLDER = Path("/run/secrets")
EXIT_MISCONFIGURED = 78
"""EX_CONFIG of sysexits.h: starting the same thing again will not help."""
TYPO_SIMILARITY = 0.9
_SERVER = re.compile(r"[^\s:,/]+:\d{1,5}")

log = logging.getLogger(__name__)


def _readable(path: Path) -> Path:
    if not os.access(path, os.R_OK):
        raise ValueError("this process may not read it")
    return path


def _http_address(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s]+(/\S*)?", text):
        raise ValueError("is not an address such as http://vault:8000")
    return text


def _kafka_servers(text: str) -> str:
    if not all(_SERVER.fullmatch(server) for server in text.split(",")):
        raise ValueError("is not a list of servers such as kafka-1:9092,kafka-2:9092")
    return text


def _postgres_address(text: SecretStr) -> SecretStr:
    if not re.match(r"postgres(ql)?://", text.get_secret_value()):
        raise ValueError("is not a connection string such as postgresql://role:password@host:5432/database")
    return text


ReadableFile = Annotated[FilePath, AfterValidator(_readable)]
ReadableFolder = Annotated[DirectoryPath, AfterValidator(_readable)]
HttpAddress = Annotated[str, AfterValidator(_http_address)]
KafkaServers = Annotated[str, AfterValidator(_kafka_servers)]
PostgresAddress = Annotated[SecretStr, AfterValidator(_postgres_address)]


class ServiceSettings(BaseSettings):
    """What each service needs; a subclass sets `env_prefix` and adds its own."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    instance: str
    http_host: str = "127.0.0.1"
    http_port: int
    kafka_bootstrap: KafkaServers
    kafka_username: str
    kafka_password: SecretStr
    postgres_dsn: PostgresAddress
    identity_key_file: ReadableFile
    trusted_keys_dir: ReadableFolder
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)
    """Read from OpenTelemetry's own variables, `OTEL_*`, which all services share."""

    @property
    def kafka(self) -> KafkaAccess:
        """How this service reaches Kafka."""
        return KafkaAccess(self.kafka_bootstrap, self.kafka_username, self.kafka_password.get_secret_value())


Settings = TypeVar("Settings", bound=ServiceSettings)


def read_settings(service: str, kind: type[Settings], secrets_folder: Path = SECRETS_FOLDER) -> Settings:
    """Return a service's settings, or end the process with one log line that names each wrong variable.

    Raises:
        SystemExit: with EXIT_MISCONFIGURED.
    """
    faults = _misspelt(kind)
    telemetry = TelemetrySettings.model_construct()
    try:
        telemetry = TelemetrySettings()
    except ValidationError as error:
        faults += _faults(TelemetrySettings, error)
    try:
        settings = kind(_secrets_dir=secrets_folder if secrets_folder.is_dir() else None, telemetry=telemetry)
    except ValidationError as error:
        faults += _faults(kind, error)
    if not faults:
        return settings
    configure_logs(service)
    log.critical("%s cannot start: %s (its README lists all settings)", service, "; ".join(faults))
    raise SystemExit(EXIT_MISCONFIGURED)


def variable(kind: type[BaseSettings], name: str) -> str:
    """The environment variable of a setting."""
    return f"{kind.model_config['env_prefix']}{name}".upper()


def _faults(kind: type[BaseSettings], error: ValidationError) -> list[str]:
    """What is wrong with which variable; never its value, which may be a password."""
    faults = []
    for fault in error.errors(include_input=False, include_url=False):
        name = variable(kind, str(fault["loc"][0]))
        what = "is not set" if fault["type"] == "missing" else fault["msg"].removeprefix("Value error, ")
        faults.append(f"{name}{' ' if what.startswith('is ') else ': '}{what}")
    return faults


def _misspelt(kind: type[ServiceSettings]) -> list[str]:
    """Variables that are no setting and look like one: a default would be taken in silence."""
    known = {variable(kind, name) for name in kind.model_fields}
    given = {name.upper() for name in EnvSettingsSource(kind).env_vars if name.upper().startswith(variable(kind, ""))}
    faults = []
    for name in sorted(given - known):
        meant = difflib.get_close_matches(name, known - given, n=1, cutoff=TYPO_SIMILARITY)
        faults += [f"{name} is no setting, {one} is" for one in meant]
    return faults
