"""How a service reaches Kafka."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class KafkaAccess:
    """Bootstrap servers and the SCRAM credentials of one principal."""

    bootstrap: str
    username: str
    password: str

    def client_options(self) -> dict[str, Any]:
        """Return the options every aiokafka client takes."""
        return {
            "bootstrap_servers": self.bootstrap,
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "SCRAM-SHA-256",
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
        }
