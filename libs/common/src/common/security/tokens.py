"""Short-lived, audience-bound tokens between services and from operators (JWT, RFC 7519, EdDSA)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import jwt

from common.security.signing import load_private_key, load_public_key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

LIFETIME_SECONDS = 300
_RENEW_BEFORE_SECONDS = 60
_CACHED_TOKENS_MAX = 256
_LEEWAY_SECONDS = 10
_LOOK_EVERY_SECONDS = 1.0


class TokenError(Exception):
    """The caller did not prove who it is; the text says why."""


class TokenIssuer:
    """Proves this principal's identity to other services; tokens are reused until a minute before their end."""

    def __init__(self, principal: str, key: Ed25519PrivateKey) -> None:
        self._principal = principal
        self._key = key
        self._tokens: dict[str, tuple[str, float]] = {}

    @classmethod
    def from_file(cls, principal: str, path: Path) -> TokenIssuer:
        """Load the identity key (PKCS #8 PEM) of a principal."""
        return cls(principal, load_private_key(path))

    def token(self, audience: str) -> str:
        """Return a token that only `audience` accepts."""
        now = time.time()
        text, ends = self._tokens.get(audience, ("", 0.0))
        if ends - _RENEW_BEFORE_SECONDS > now:
            return text
        ends = now + LIFETIME_SECONDS
        claims = {"iss": self._principal, "aud": audience, "iat": int(now), "exp": int(ends)}
        text = jwt.encode(claims, self._key, algorithm="EdDSA")
        self._tokens[audience] = (text, ends)
        return text

    def headers(self, audience: str) -> dict[str, str]:
        """Return the Authorization header for a call to `audience`."""
        return {"authorization": f"Bearer {self.token(audience)}"}


class TokenVerifier:
    """Tells which principal sent a request to this audience."""

    def __init__(self, audience: str, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._audience = audience
        self._keys = dict(keys)
        self._folder: Path | None = None
        self._look_at = 0.0
        self._seen: dict[str, tuple[str, float]] = {}

    @classmethod
    def from_folder(cls, audience: str, folder: Path) -> TokenVerifier:
        """Load `folder/identity/<principal>.pem`, and again when a principal is met that was not there."""
        verifier = cls(audience, _load_identities(folder / "identity"))
        verifier._folder = folder / "identity"
        return verifier

    def principal(self, authorization: str | None) -> str:
        """Return the principal behind an Authorization header, or raise TokenError."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise TokenError("a bearer token of a service or an operator is needed")
        principal, ends = self._seen.get(token, ("", 0.0))
        if ends > time.time():
            return principal
        principal, ends = self._check(token)
        if len(self._seen) >= _CACHED_TOKENS_MAX:
            self._seen.clear()
        self._seen[token] = (principal, ends)
        return principal

    def _check(self, token: str) -> tuple[str, float]:
        try:
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
            key = self._key_of(issuer) if isinstance(issuer, str) else None
            if key is None:
                raise TokenError("the token names no principal known here")
            claims = jwt.decode(
                token,
                key,
                algorithms=["EdDSA"],
                audience=self._audience,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "iss", "aud"]},
            )
        except jwt.InvalidTokenError as error:
            raise TokenError(f"the token is not valid here: {error}") from None
        return str(claims["iss"]), float(claims["exp"])

    def _key_of(self, issuer: str) -> Ed25519PublicKey | None:
        """Return a principal's key; look at the folder for one that came later, at most once a second."""
        if issuer not in self._keys and self._folder is not None and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK_EVERY_SECONDS
            self._keys |= _load_identities(self._folder)
        return self._keys.get(issuer)


def _load_identities(folder: Path) -> dict[str, Ed25519PublicKey]:
    return {path.name.removesuffix(".pem"): load_public_key(path) for path in folder.glob("*.pem")}
