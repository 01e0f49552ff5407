"""Statements signed by the batch: one Ed25519 signature over a Merkle root, an inclusion path per statement.

A statement is a JSON object of strings, integers, booleans, nulls, arrays and objects (no floating point), hashed in
its canonical form (RFC 8785, which for such values is: keys sorted, no white space, UTF-8). It is verified as it was
received, so a field that a reader does not know stays covered by the signature.

SignatureError
    ├── a proof that leads nowhere (malformed path)
    ├── a key that was never published for the purpose
    └── a signature that does not fit the root
"""

from __future__ import annotations

import base64
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import BaseModel, ConfigDict

from common.security.merkle import leaf_hash, root_and_paths, root_from_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

Purpose = Literal["instruction", "verdict", "receipt"]
Statement = dict[str, Any]

_VERIFIED_ROOTS_MAX = 4096


class SignatureError(Exception):
    """A statement is not signed by a published key for its purpose; the text says why."""


class Proof(BaseModel):
    """Key id, signature over the root, and the place of a statement in the tree (base64url, padded)."""

    model_config = ConfigDict(frozen=True)

    key: str
    signature: str
    size: int
    index: int
    path: str


class Signed(BaseModel):
    """A statement with its proof."""

    model_config = ConfigDict(frozen=True)

    statement: Statement
    proof: Proof


def canonical(statement: Statement) -> bytes:
    """Return the canonical JSON of a statement (RFC 8785 for values without floating point)."""
    return orjson.dumps(statement, option=orjson.OPT_SORT_KEYS)


def statement_digest(statement: Statement) -> str:
    """Return the RFC 6962 leaf hash of a statement, hexadecimal: the name other statements use for it."""
    return leaf_hash(canonical(statement)).hex()


def key_id(public: Ed25519PublicKey) -> str:
    """Return the first 16 hexadecimal digits of SHA-256 over the raw public key."""
    return sha256(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def _signed_bytes(purpose: Purpose, size: int, root: bytes) -> bytes:
    return b"waystation/%s/v1\x00" % purpose.encode() + size.to_bytes(8, "big") + root


class Signer:
    """Signs batches of statements for one purpose with one private key."""

    def __init__(self, purpose: Purpose, key: Ed25519PrivateKey) -> None:
        self._purpose = purpose
        self._key = key
        self._key_id = key_id(key.public_key())

    @classmethod
    def from_file(cls, purpose: Purpose, path: Path) -> Signer:
        """Load an Ed25519 private key (PKCS #8 PEM)."""
        return cls(purpose, load_private_key(path))

    def sign(self, statements: Sequence[Statement]) -> list[Signed]:
        """Sign a non-empty batch: one signature, one inclusion path each."""
        root, paths = root_and_paths([leaf_hash(canonical(statement)) for statement in statements])
        size = len(statements)
        signature = _b64(self._key.sign(_signed_bytes(self._purpose, size, root)))
        return [
            Signed.model_construct(
                statement=statement,
                proof=Proof.model_construct(
                    key=self._key_id, signature=signature, size=size, index=index, path=_b64(path)
                ),
            )
            for index, (statement, path) in enumerate(zip(statements, paths, strict=True))
        ]


class TrustedKeys:
    """The published public keys of one purpose; several at a time, so that keys can be rotated."""

    def __init__(self, purpose: Purpose, keys: Iterable[Ed25519PublicKey]) -> None:
        self._purpose = purpose
        self._keys = {key_id(key): key for key in keys}
        self._root_is_signed = lru_cache(maxsize=_VERIFIED_ROOTS_MAX)(self._check_root)

    @classmethod
    def from_folder(cls, purpose: Purpose, folder: Path) -> TrustedKeys:
        """Load `folder/<purpose>/*.pem` (SubjectPublicKeyInfo); an empty folder is an error."""
        paths = sorted((folder / purpose).glob("*.pem"))
        if not paths:
            raise FileNotFoundError(f"no public keys for {purpose} in {folder / purpose}")
        return cls(purpose, [load_public_key(path) for path in paths])

    def verify(self, signed: Signed) -> str:
        """Return the statement's digest (hexadecimal), or raise SignatureError."""
        proof = signed.proof
        try:
            leaf = leaf_hash(canonical(signed.statement))
        except TypeError:
            raise SignatureError(f"{self._purpose}: the statement has no canonical form") from None
        try:
            root = root_from_path(leaf, proof.index, proof.size, _unb64(proof.path))
        except ValueError as error:
            raise SignatureError(f"{self._purpose}: {error}") from None
        self._root_is_signed(proof.key, proof.signature, proof.size, root)
        return leaf.hex()

    def _check_root(self, key: str, signature: str, size: int, root: bytes) -> bool:
        public = self._keys.get(key)
        if public is None:
            raise SignatureError(f"{self._purpose}: signed with a key that was never published")
        try:
            public.verify(_unb64(signature), _signed_bytes(self._purpose, size, root))
        except (InvalidSignature, ValueError):
            raise SignatureError(f"{self._purpose}: the signature does not fit the statement") from None
        return True


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Load an Ed25519 private key from a PKCS #8 PEM file."""
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError(f"{path} holds no Ed25519 private key")
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Load an Ed25519 public key from a SubjectPublicKeyInfo PEM file."""
    key = load_pem_public_key(path.read_bytes())
    if not isinstance(key, Ed25519PublicKey):
        raise TypeError(f"{path} holds no Ed25519 public key")
    return key


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode()


def _unb64(text: str) -> bytes:
    try:
        return base64.b64decode(text, altchars=b"-_", validate=True)
    except ValueError:
        raise SignatureError("the proof is not base64url") from None
