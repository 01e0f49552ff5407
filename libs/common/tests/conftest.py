"""Keys and signed messages that the tests of the shared library begin with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.events.intake import Instruction, MessageAdmitted, SealedContent
from common.events.screening import Verdict
from common.security.signing import Signer, TrustedKeys

ADMITTED_AT = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


@dataclass(frozen=True)
class KeyPair:
    """A signer and the keys that trust it, for one purpose."""

    signer: Signer
    trusted: TrustedKeys
    private: Ed25519PrivateKey


@pytest.fixture
def key_pair():
    def make(purpose):
        private = Ed25519PrivateKey.generate()
        return KeyPair(Signer(purpose, private), TrustedKeys(purpose, [private.public_key()]), private)

    return make


@pytest.fixture
def sealed():
    return SealedContent(capsule=b"capsule", envelope=b"envelope", content=b"content")


@pytest.fixture
def instruction(sealed):
    return Instruction(
        message_id="0198f2a0-0000-7000-8000-000000000001",
        account_id="acme",
        user_id="u1",
        grants=("root", "g1"),
        rules_version="2026-01",
        tool="email",
        direction="outbound",
        inbox_id="support",
        recipient_token="rt_one",
        purpose="order update",
        legal_basis="contract",
        content_digest="ab" * 32,
        content_bytes=1234,
        sealed_digest=sealed.digest(),
        not_before=ADMITTED_AT,
        not_after=ADMITTED_AT + timedelta(days=1),
        duplicates_allowed=False,
        admitted_at=ADMITTED_AT,
    )


@pytest.fixture
def admitted(key_pair, instruction, sealed):
    """A genuine admitted message with the keys that verify it."""
    keys = key_pair("instruction")
    return MessageAdmitted(instruction=keys.signer.sign([instruction.statement()])[0], sealed=sealed), keys


@pytest.fixture
def verdict_on():
    def make(instruction_digest, action="allow"):
        return Verdict(
            message_id="0198f2a0-0000-7000-8000-000000000001",
            instruction_digest=instruction_digest,
            content_digest="ab" * 32,
            action=action,
            clauses=(),
            rules=(),
            evidence=(),
            degraded=(),
            policy="1",
            engine="1",
            screened_at="2026-01-31T09:30:01.000Z",
        )

    return make
