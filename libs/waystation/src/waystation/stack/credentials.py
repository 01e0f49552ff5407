"""Passwords and keys of a stack: made once, kept in files that only their owner reads."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from waystation.stack.layout import SERVICES, Layout, write_atomically

ADMIN = "admin"
BROKER = "broker"
OPERATOR = "operator"
KAFKA_PRINCIPALS = (ADMIN, OPERATOR, *SERVICES)
SUPERUSER = "postgres"
DATABASE_ROLES = (SUPERUSER, *SERVICES, *(f"{service}_owner" for service in SERVICES))
SIGNING_PURPOSES = {
    "ingestion": "instruction",
    "moderation": "verdict",
    "routing": "receipt",
    "vault": "vault",
    "operator": "policy",
}
ROOT_KEY_BYTES = 32
PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class Passwords:
    """Passwords by Kafka principal and by PostgreSQL role."""

    kafka: dict[str, str]
    postgres: dict[str, str]

    def __repr__(self) -> str:
        return f"Passwords(kafka: {len(self.kafka)}, postgres: {len(self.postgres)})"


def ensure_passwords(layout: Layout) -> Passwords:
    """Read `passwords.json`, completed with a password for each principal or role that has none yet."""
    path = layout.secrets / "passwords.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"kafka": {}, "postgres": {}}
    wanted = {"kafka": (BROKER, *KAFKA_PRINCIPALS), "postgres": DATABASE_ROLES}
    complete = {
        kind: {name: known[kind].get(name) or secrets.token_urlsafe(24) for name in names}
        for kind, names in wanted.items()
    }
    if complete != known:
        write_atomically(path, json.dumps(complete, indent=2) + "\n", PRIVATE)
    return Passwords(**complete)


def ensure_keys(layout: Layout) -> None:
    """Make the keys that do not exist yet, and publish their public halves."""
    for principal in (*SERVICES, OPERATOR):
        _ensure_key(identity_key(layout, principal), layout.trusted / "identity" / f"{principal}.pem")
    for service, purpose in SIGNING_PURPOSES.items():
        _ensure_signing_key(signing_key(layout, service), layout.trusted / purpose, service)
    if not root_key(layout).exists():
        text = base64.b64encode(secrets.token_bytes(ROOT_KEY_BYTES)).decode() + "\n"
        write_atomically(root_key(layout), text, PRIVATE)


def enroll(layout: Layout, principal: str) -> Path:
    """Make a person's key, unless there is one, and publish its public half; return the private key's file."""
    private = identity_key(layout, principal)
    _ensure_key(private, layout.trusted / "identity" / f"{principal}.pem")
    return private


def identity_key(layout: Layout, principal: str) -> Path:
    """The private key by which a principal proves itself to services."""
    return layout.secrets / "identity" / f"{principal}.pem"


def signing_key(layout: Layout, service: str) -> Path:
    """The private key by which a service signs its statements."""
    return layout.secrets / "signing" / f"{SIGNING_PURPOSES[service]}.pem"


def public_pem(private_pem: bytes) -> str:
    """The public half of a private key, SubjectPublicKeyInfo."""
    key = load_pem_private_key(private_pem, password=None)
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def new_private_pem() -> str:
    """A fresh Ed25519 private key, PKCS #8."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def root_key(layout: Layout) -> Path:
    """The vault's root key, base64."""
    return layout.secrets / "vault-root.key"


def _ensure_key(private: Path, public: Path) -> None:
    private.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    public.parent.mkdir(parents=True, exist_ok=True)
    if not private.exists():
        write_atomically(private, new_private_pem(), PRIVATE)
    if not public.exists():
        write_atomically(public, public_pem(private.read_bytes()))


def _ensure_signing_key(private: Path, published: Path, service: str) -> None:
    """Publish the first key under its service's name; after a rotation the published ones have names of their own."""
    if not private.exists() or not any(published.glob("*.pem")):
        _ensure_key(private, published / f"{service}.pem")
