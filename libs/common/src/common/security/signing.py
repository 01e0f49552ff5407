"""Statements signed by the batch: one Ed25519 signature over a Merkle root, an inclusion path per statement.

A statement is a JSON object of strings, integers, booleans, nulls, arrays and objects (no floating point), hashed in
its canonical form (RFC 8785, which for such values is: keys sorted, no white space, UTF-8). It is verified as it was
received, so a field that a reader does not know stays covered by the signature.

Keys change while processes run. A signer looks at its file before each batch, so a batch never mixes keys; a reader
looks at its folder once a second, and at once when it meets a key that it does not know.

SignatureError
    ├── a proof that leads nowhere (malformed path)
    ├── a key that was never published for the purpose
    ├── a signature that does not fit the root
    └── a statement dated after its key was retired
"""

from __future__ import annotations

import logging
import time
from base64 import urlsafe_b64encode
from binascii import a2b_base64
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar

import msgspec
import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from common.security.merkle import ProvenTree, leaf_hash, root_and_paths, root_from_path
from common.times import parse_rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Purpose = Literal["instruction", "verdict", "receipt", "vault", "policy"]
Statement = dict[str, Any]
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")

PURPOSES: tuple[Purpose, ...] = ("instruction", "verdict", "receipt")
TIME_FIELDS: Mapping[Purpose, str] = {
    "instruction": "admitted_at",
    "verdict": "screened_at",
    "receipt": "occurred_at",
    "vault": "at",
    "policy": "changed_at",
}
"""Where a statement says when it was made."""
TERMS_FILE = "keys.json"
LOOK_EVERY_SECONDS = 1.0
_VERIFIED_ROOTS_MAX = 4096
_TREES_IN_HAND_MAX = 32

log = logging.getLogger(__name__)


class SignatureError(Exception):
    """A statement is not signed by a published key for its purpose; the text says why."""


def raised_or(checked: T | SignatureError) -> T:
    """Return what was checked, or raise what is wrong with it."""
    if isinstance(checked, SignatureError):
        raise checked
    return checked


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

    def read(self, shape: type[M]) -> M:
        """Return the statement as a model; ValueError when it has another shape."""
        return shape.model_validate(self.statement)


class SentProof(msgspec.Struct, frozen=True, gc=False):
    """A `Proof` as it was sent."""

    key: str
    signature: str
    size: int
    index: int
    path: str


class SentStatement(msgspec.Struct, frozen=True, gc=False):
    """A `Signed` as it was sent: its statement stays JSON, so that it is hashed as it came and read once."""

    statement: msgspec.Raw
    proof: SentProof

    def __post_init__(self) -> None:
        if memoryview(self.statement)[0] != ord("{"):
            raise ValueError("a statement is an object")

    @classmethod
    def of(cls, signed: Signed) -> Self:
        """Return what would have been sent."""
        return cls(msgspec.Raw(to_json(signed.statement)), SentProof(**signed.proof.__dict__))

    def read(self, shape: type[M]) -> M:
        """Return the statement as a model; ValueError when it has another shape."""
        return shape.model_validate_json(bytes(self.statement))

    def taken_apart(self) -> Signed:
        """Return it as a model; SignatureError when it is nested too deep for that."""
        try:
            statement = from_json(bytes(self.statement))
        except ValueError:
            raise SignatureError("the statement cannot be read") from None
        return Signed(statement=statement, proof=Proof(**msgspec.structs.asdict(self.proof)))

    def claims(self) -> Statement | None:
        """Return what the statement says, whoever signed it; None when it cannot be read."""
        try:
            return self.taken_apart().statement
        except SignatureError:
            return None


class SignedJson(NamedTuple):
    """A statement in its canonical JSON, its digest (hexadecimal), and its proof as JSON: for events made in bulk."""

    statement: bytes
    digest: str
    proof: bytes

    @property
    def whole(self) -> bytes:
        """The JSON of the `Signed` that this is."""
        return b'{"statement":%b,"proof":%b}' % (self.statement, self.proof)


def canonical(statement: Statement) -> bytes:
    """Return the canonical JSON of a statement (RFC 8785 for values without floating point)."""
    return orjson.dumps(statement, option=orjson.OPT_SORT_KEYS)


def statement_digest(statement: Statement) -> str:
    """Return the RFC 6962 leaf hash of a statement, hexadecimal: the name other statements use for it."""
    return leaf_hash(canonical(statement)).hex()


def proof_root(leaf: bytes, proof: Proof) -> bytes:
    """Return the root that a proof leads to from a leaf hash; ValueError or SignatureError when it leads nowhere."""
    return root_from_path(leaf, proof.index, proof.size, _unb64(proof.path))


def key_id(public: Ed25519PublicKey) -> str:
    """Return the first 16 hexadecimal digits of SHA-256 over the raw public key."""
    return sha256(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def _signed_bytes(purpose: Purpose, size: int, root: bytes) -> bytes:
    return b"waystation/%s/v1\x00" % purpose.encode() + size.to_bytes(8, "big") + root


class Signer:
    """Signs batches of statements for one purpose with one private key at a time."""

    def __init__(self, purpose: Purpose, key: Ed25519PrivateKey) -> None:
        self._purpose = purpose
        self._source: _KeyFile | None = None
        self._use(key)

    @classmethod
    def from_file(cls, purpose: Purpose, path: Path, trusted: Path | None = None) -> Signer:
        """Load an Ed25519 private key (PKCS #8 PEM), and load it again when the file changes.

        With the folder of public keys, a key whose public half is not in it is not used: nobody would believe it.
        Raises ValueError when that is the first key; one that comes later is logged, and the present one stays.
        """
        source = _KeyFile(path, None if trusted is None else trusted / purpose)
        stamp = source.stamp()
        signer = cls(purpose, source.load())
        signer._source, source.used = source, stamp
        return signer

    @property
    def key(self) -> str:
        """The id of the key that signs now."""
        return self._key_id

    def sign(self, statements: Sequence[Statement]) -> list[Signed]:
        """Sign a non-empty batch: one signature, one inclusion path each."""
        signature, paths = self._sign([leaf_hash(canonical(statement)) for statement in statements])
        size = len(statements)
        return [
            Signed.model_construct(
                statement=statement,
                proof=Proof.model_construct(
                    key=self._key_id, signature=signature, size=size, index=index, path=_b64(path)
                ),
            )
            for index, (statement, path) in enumerate(zip(statements, paths, strict=True))
        ]

    def sign_json(self, statements: Sequence[bytes]) -> list[SignedJson]:
        """Sign a non-empty batch of statements given in canonical JSON, without a model for each."""
        leaves = [leaf_hash(statement) for statement in statements]
        signature, paths = self._sign(leaves)
        head = f'{{"key":"{self._key_id}","signature":"{signature}","size":{len(statements)},"index":'.encode()
        return [
            SignedJson(statement, leaf.hex(), b'%b%d,"path":"%b"}' % (head, index, urlsafe_b64encode(path)))
            for index, (statement, leaf, path) in enumerate(zip(statements, leaves, paths, strict=True))
        ]

    def _sign(self, leaves: list[bytes]) -> tuple[str, list[bytes]]:
        """Sign the root with the key of this moment: a batch has one key."""
        if self._source is not None and (key := self._source.changed()) is not None:
            self._use(key)
            log.info("%ss are signed with key %s from now on", self._purpose, self._key_id)
        root, paths = root_and_paths(leaves)
        return _b64(self._key.sign(_signed_bytes(self._purpose, len(leaves), root))), paths

    def _use(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._key_id = key_id(key.public_key())


_Stamp = tuple[object, ...]


@dataclass(slots=True)
class _KeyFile:
    """A private key's file, looked at before each batch."""

    path: Path
    published: Path | None
    used: _Stamp = ()
    refused: _Stamp = ()

    def stamp(self) -> _Stamp:
        found = self.path.stat()
        return found.st_mtime_ns, found.st_ino, found.st_size

    def load(self) -> Ed25519PrivateKey:
        key = load_private_key(self.path)
        if self.published is not None and key_id(key.public_key()) not in _load_keys(self.published):
            raise ValueError(f"the public half of {self.path} is not in {self.published}: publish it first")
        return key

    def changed(self) -> Ed25519PrivateKey | None:
        """Return a key that was put into the file since the last look, if it may be used."""
        stamp: _Stamp = ()
        try:
            stamp = self.stamp()
            if stamp == self.used:
                return None
            key = self.load()
        except (OSError, ValueError, TypeError) as error:
            if stamp != self.refused:
                log.error("the signing key that was put in place is not used, the earlier one is: %s", error)  # noqa: TRY400
                self.refused = stamp
            return None
        self.used = stamp
        return key


class KeyTerm(BaseModel):
    """From when to when a public key is good, RFC 3339. A retired key proves what was said until then."""

    model_config = ConfigDict(frozen=True)

    published_at: datetime | None = None
    retired_at: datetime | None = None


_TERMS = TypeAdapter(dict[str, KeyTerm])


def read_terms(folder: Path) -> dict[str, KeyTerm]:
    """Return the terms of the keys in `trusted/<purpose>` by key id; a key that is not named has no end.

    Raises ValueError when the file is there and cannot be understood.
    """
    try:
        return _TERMS.validate_json((folder / TERMS_FILE).read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
        raise ValueError(f"{folder / TERMS_FILE} cannot be understood{f' at {where}' if where else ''}") from None


def _load_keys(folder: Path) -> dict[str, Ed25519PublicKey]:
    return {key_id(key): key for key in map(load_public_key, sorted(folder.glob("*.pem")))}


class TrustedKeys:
    """The published public keys of one purpose; several at a time, so that keys can be rotated."""

    def __init__(
        self, purpose: Purpose, keys: Iterable[Ed25519PublicKey], terms: Mapping[str, KeyTerm] | None = None
    ) -> None:
        self._purpose = purpose
        self._keys = {key_id(key): key for key in keys}
        self._terms = dict(terms or {})
        self._folder: Path | None = None
        self._stamp: _Stamp = ()
        self._look_at = 0.0
        self._look_every_seconds = LOOK_EVERY_SECONDS
        self._root_is_signed = lru_cache(maxsize=_VERIFIED_ROOTS_MAX)(self._check_root)
        self._tree_of = lru_cache(maxsize=_TREES_IN_HAND_MAX)(lambda _key, _signature, size: ProvenTree(size))

    @classmethod
    def from_folder(
        cls, purpose: Purpose, folder: Path, *, look_every_seconds: float = LOOK_EVERY_SECONDS
    ) -> TrustedKeys:
        """Load `folder/<purpose>/*.pem` (SubjectPublicKeyInfo) and its terms, and again whenever they change.

        An empty folder is an error at first, and later no reason to forget the keys that were there.
        """
        trusted = cls(purpose, ())
        trusted._folder, trusted._look_every_seconds = folder / purpose, look_every_seconds
        trusted._stamp = _folder_stamp(trusted._folder)
        trusted._load(trusted._folder)
        return trusted

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    @property
    def keys(self) -> Mapping[str, Ed25519PublicKey]:
        """The public keys by id."""
        return self._keys

    def verify(self, signed: Signed | SentStatement) -> str:
        """Return the statement's digest (hexadecimal), or raise SignatureError."""
        if isinstance(signed, SentStatement):
            try:
                return self._verify(bytes(signed.statement), signed.proof)
            except SignatureError:  # what was sent may be another form of what was signed
                return self.verify(signed.taken_apart())
        try:
            text = canonical(signed.statement)
        except TypeError:
            raise SignatureError(f"{self._purpose}: the statement has no canonical form") from None
        return self._verify(text, signed.proof)

    def verify_all(self, signed: Sequence[Signed | SentStatement]) -> list[str | SignatureError]:
        """Return for each the digest, or the error that `verify` raises."""
        return [self._verified(one) for one in signed]

    def _verified(self, signed: Signed | SentStatement) -> str | SignatureError:
        try:
            return self.verify(signed)
        except SignatureError as error:
            return error

    def _verify(self, text: bytes, proof: Proof | SentProof) -> str:
        if self._folder is not None and time.monotonic() >= self._look_at:
            self._look(self._folder)
        leaf = leaf_hash(text)
        tree = self._tree_of(proof.key, proof.signature, proof.size)
        try:
            root = tree.root(leaf, proof.index, _unb64(proof.path))
        except ValueError as error:
            raise SignatureError(f"{self._purpose}: {error}") from None
        self._root_is_signed(proof.key, proof.signature, proof.size, root)
        tree.accept()
        if (term := self._terms.get(proof.key)) is not None and term.retired_at is not None:
            self._check_term(orjson.loads(text), term.retired_at)
        return leaf.hex()

    def _check_root(self, key: str, signature: str, size: int, root: bytes) -> bool:
        if key not in self._keys and self._folder is not None:
            self._look(self._folder)
        public = self._keys.get(key)
        if public is None:
            raise SignatureError(f"{self._purpose}: signed with a key that was never published")
        try:
            public.verify(_unb64(signature), _signed_bytes(self._purpose, size, root))
        except (InvalidSignature, ValueError):
            raise SignatureError(f"{self._purpose}: the signature does not fit the statement") from None
        return True

    def _check_term(self, statement: Statement, retired_at: datetime) -> None:
        field = TIME_FIELDS[self._purpose]
        try:
            said_at = parse_rfc3339(statement[field])
        except (KeyError, TypeError, ValueError):
            raise SignatureError(f"{self._purpose}: signed with a retired key, and {field} tells no time") from None
        if said_at > retired_at:
            raise SignatureError(f"{self._purpose}: its {field} is later than the end of the key that signed it")

    def _look(self, folder: Path) -> None:
        self._look_at = time.monotonic() + self._look_every_seconds
        try:
            stamp = _folder_stamp(folder)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._load(folder)
        except (OSError, ValueError, TypeError) as error:
            log.error("the published keys were changed and cannot be read, the earlier ones hold: %s", error)  # noqa: TRY400
            return
        log.info("published keys for %ss: %s", self._purpose, ", ".join(sorted(self._keys)))

    def _load(self, folder: Path) -> None:
        keys, terms = _load_keys(folder), read_terms(folder)
        if not keys:
            raise FileNotFoundError(f"no public keys for {self._purpose} in {folder}")
        self._keys, self._terms = keys, terms
        self._root_is_signed.cache_clear()


def _folder_stamp(folder: Path) -> _Stamp:
    found = [(path.name, path.stat()) for path in sorted((*folder.glob("*.pem"), folder / TERMS_FILE)) if path.exists()]
    return tuple((name, stat.st_mtime_ns, stat.st_ino, stat.st_size) for name, stat in found)


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
    return urlsafe_b64encode(data).decode()


def _unb64(text: str) -> bytes:
    try:
        return a2b_base64(text.replace("-", "+").replace("_", "/"), strict_mode=True)
    except ValueError:
        raise SignatureError("the proof is not base64url") from None
