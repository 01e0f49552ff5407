"""Service tokens: only a known principal, only for this audience, only for a while."""

from __future__ import annotations

import base64
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.security.tokens import LIFETIME_SECONDS, TokenError, TokenIssuer, TokenVerifier

KEY = Ed25519PrivateKey.generate()
OTHER = Ed25519PrivateKey.generate()


@pytest.fixture
def vault():
    return TokenVerifier("vault", {"routing": KEY.public_key(), "moderation": OTHER.public_key()})


def claims(**changes):
    now = int(time.time())
    given = {"iss": "routing", "aud": "vault", "iat": now, "exp": now + 60, **changes}
    return {name: value for name, value in given.items() if value is not None}


def bearer(payload, key=KEY, algorithm="EdDSA"):
    return "Bearer " + jwt.encode(payload, key, algorithm=algorithm)


def by_hand(header, payload):
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, payload))
    return "Bearer " + ".".join((*parts, ""))


def test_the_principal_behind_a_token_is_told(vault):
    assert vault.principal(TokenIssuer("routing", KEY).headers("vault")["authorization"]) == "routing"
    assert vault.principal(TokenIssuer("moderation", OTHER).headers("vault")["authorization"]) == "moderation"


def test_a_token_is_reused_per_audience():
    issuer = TokenIssuer("routing", KEY)
    assert issuer.token("vault") == issuer.token("vault")
    assert issuer.token("vault") != issuer.token("enforcement")
    payload = jwt.decode(issuer.token("vault"), options={"verify_signature": False})
    assert payload["exp"] - payload["iat"] == LIFETIME_SECONDS


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic cm91dGluZzpwYXNz",
        "Bearer x.y.z",
        "Bearer ü",
        "Bearer " + "a" * 20_000,
        bearer(claims(aud="ingestion")),
        bearer(claims(aud=None)),
        bearer(claims(exp=int(time.time()) - 60)),
        bearer(claims(exp=None)),
        bearer(claims(iat=None)),
        bearer(claims(iat=int(time.time()) + 600)),
        bearer(claims(iss="ghost")),
        bearer(claims(iss=None)),
        bearer(claims(), key=OTHER),
        bearer(claims(iss="moderation"), key=KEY),
        by_hand({"alg": "none", "typ": "JWT"}, claims()),
        by_hand({"alg": "EdDSA", "typ": "JWT"}, claims()),
        by_hand({"alg": "EdDSA", "typ": "JWT"}, claims(iss=["routing"])),
        by_hand({"alg": "EdDSA", "typ": "JWT"}, ["routing"]),
    ],
)
def test_what_proves_nothing_is_refused(vault, authorization):
    for _ in range(2):
        with pytest.raises(TokenError):
            vault.principal(authorization)


def test_a_token_under_the_public_key_as_shared_secret_is_refused(vault):
    public = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    with pytest.raises(TokenError):
        vault.principal(bearer(claims(), key=public, algorithm="HS256"))


def test_identities_are_read_from_their_folder(tmp_path):
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "routing.pem").write_bytes(
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    assert TokenVerifier.from_folder("vault", tmp_path).principal(bearer(claims())) == "routing"
