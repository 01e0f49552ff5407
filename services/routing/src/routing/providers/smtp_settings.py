"""How to reach an SMTP submission server: one frozen value, written as an URL."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit


class Security(StrEnum):
    """How the connection is protected; a missing protection is never silently done without."""

    PLAIN = "smtp"
    STARTTLS = "smtp+starttls"
    TLS = "smtps"


DEFAULT_PORTS: Final = {Security.PLAIN: 25, Security.STARTTLS: 587, Security.TLS: 465}


@dataclass(frozen=True, slots=True)
class SmtpSettings:
    """One provider's server, credentials, limits and patience.

    `connect_timeout_seconds` covers TCP, greeting, TLS, EHLO and AUTH together. `final_reply_timeout_seconds` is the
    wait after the final dot: RFC 5321 4.5.3.2.6 says ten minutes, and giving up early leaves a mail in doubt.
    `ca_file` is a PEM file trusted instead of the system's authorities. An empty `helo_name` means the own address
    literal. `line_octets_max` is RFC 5321 4.5.3.1.6 without CRLF: relays break longer lines, which would alter content.
    """

    host: str
    port: int
    security: Security = Security.PLAIN
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    helo_name: str = ""
    connections: int = 16
    messages_per_connection_max: int = 1000
    line_octets_max: int = 998
    connect_timeout_seconds: float = 30.0
    command_timeout_seconds: float = 60.0
    final_reply_timeout_seconds: float = 600.0
    idle_seconds: float = 20.0

    def tls_context(self) -> ssl.SSLContext | None:
        """A verifying client context; None for a plain connection. Raises OSError when the CA file cannot be read."""
        if self.security is Security.PLAIN:
            return None
        return ssl.create_default_context(cafile=self.ca_file)


_TEXT_OPTIONS: Final = frozenset({"ca_file", "helo_name"})
_COUNT_OPTIONS: Final = frozenset({"connections", "messages_per_connection_max", "line_octets_max"})
_SECONDS_OPTIONS: Final = frozenset(
    {"connect_timeout_seconds", "command_timeout_seconds", "final_reply_timeout_seconds", "idle_seconds"},
)


def parse_smtp_url(url: str) -> SmtpSettings:
    """Settings from `smtp://`, `smtps://` or `smtp+starttls://[user:password@]host[:port][?option=value&...]`.

    Options are the other fields of `SmtpSettings`. User and password are percent-decoded. Raises ValueError, without
    repeating the URL (it may hold a password), when something is unknown, missing, or would send a password in clear.
    """
    parts = urlsplit(url)
    if parts.scheme not in {member.value for member in Security}:
        raise ValueError("SMTP URL: use smtp://, smtps:// or smtp+starttls://")
    security = Security(parts.scheme)
    if not parts.hostname or parts.path not in {"", "/"} or parts.fragment:
        raise ValueError("SMTP URL: write scheme://[user:password@]host[:port][?option=value]")
    if (parts.username is None) != (parts.password is None):
        raise ValueError("SMTP URL: give both user and password, or neither")
    if parts.username is not None and security is Security.PLAIN and not _is_loopback(parts.hostname):
        raise ValueError("SMTP URL: a password needs smtps:// or smtp+starttls:// unless the host is loopback")
    settings = SmtpSettings(
        host=parts.hostname,
        port=_port(parts) or DEFAULT_PORTS[security],
        security=security,
        username=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )
    options: dict[str, Any] = {name: _option(name, text) for name, text in parse_qsl(parts.query)}
    return replace(settings, **options)


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError:
        raise ValueError("SMTP URL: the port must be a number below 65536; percent-encode user and password") from None


def _option(name: str, text: str) -> str | int | float:
    if name in _TEXT_OPTIONS:
        if not text.isprintable() or (name == "helo_name" and (not text.isascii() or " " in text)):
            raise ValueError(f"SMTP URL: option {name} holds a character it cannot have")
        return text
    if name not in _COUNT_OPTIONS | _SECONDS_OPTIONS:
        raise ValueError(f"SMTP URL: unknown option {name}; see SmtpSettings for those there are")
    try:
        value = int(text) if name in _COUNT_OPTIONS else float(text)
    except ValueError:
        raise ValueError(f"SMTP URL: option {name} needs a number") from None
    if not value > 0:
        raise ValueError(f"SMTP URL: option {name} must be above zero")
    return value


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
