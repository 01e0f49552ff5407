"""Which root key a deployment has: `file`, `aws:KEY`, `transit:NAME`, or a plug-in's; and the change between them.

A plug-in is imported when it is named, so its libraries are needed by who uses it only. Another package brings its own
by an entry point of the group `waystation.vault.roots`, called with what follows the colon.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from vault.errors import KeyFileError
from vault.keys.blobs import BlobError
from vault.keys.root import RootKey
from vault.kms.aws import AwsRoot
from vault.kms.transit import TransitRoot

if TYPE_CHECKING:
    from vault.keys.epochs import Root

PLUG_INS = "waystation.vault.roots"


@dataclass(frozen=True, slots=True)
class RootSettings:
    """What is needed to find a root."""

    key_file: Path | None = None
    passphrase: str | None = None
    aws_endpoint: str | None = None
    transit_url: str | None = None
    transit_token: str | None = None


class EitherRoot:
    """Wraps with the present root and unwraps with that or the other one, while a deployment changes its root."""

    def __init__(self, present: Root, other: Root) -> None:
        self._present = present
        self._other = other

    def wrap(self, key: bytes, place: bytes) -> bytes:
        """Return the key wrapped by the present root."""
        return self._present.wrap(key, place)

    def unwrap(self, blob: bytes, place: bytes) -> bytes:
        """Return the key, whichever of the two wrapped it; services differ in how they refuse a foreign blob."""
        try:
            return self._present.unwrap(blob, place)
        except (BlobError, KeyFileError) as refusal:
            try:
                return self._other.unwrap(blob, place)
            except BlobError:
                raise refusal from None

    def describe(self) -> str:
        """Return both."""
        return f"{self._present.describe()}, or {self._other.describe()}"


def find_root(name: str, settings: RootSettings) -> Root:
    """Return the root of a name, or raise KeyFileError saying what is missing."""
    kind, _, rest = name.partition(":")
    if kind == "file":
        path = Path(rest) if rest else settings.key_file
        if path is None:
            raise KeyFileError("VAULT_ROOT_KEY_FILE names no file: the root `file` needs one")
        return RootKey.from_file(path, settings.passphrase)
    if kind == "aws" and rest:
        return _aws(rest, settings)
    if kind == "transit" and rest:
        return _transit(rest, settings)
    for plug_in in entry_points(group=PLUG_INS, name=kind):
        root: Root = plug_in.load()(rest)
        return root
    raise KeyFileError("VAULT_ROOT is none of file, aws:KEY, transit:NAME, and no installed package brings it")


def _aws(key_id: str, settings: RootSettings) -> Root:
    try:
        return AwsRoot(key_id, endpoint=settings.aws_endpoint)
    except ImportError:
        raise KeyFileError("VAULT_ROOT names AWS KMS: install waystation-vault[aws]") from None


def _transit(key_name: str, settings: RootSettings) -> Root:
    if settings.transit_url is None or settings.transit_token is None:
        raise KeyFileError("VAULT_TRANSIT_URL and VAULT_TRANSIT_TOKEN are needed for the root transit:NAME")
    try:
        return TransitRoot(settings.transit_url, settings.transit_token, key_name)
    except ImportError:
        raise KeyFileError("VAULT_ROOT names a transit engine: install waystation-vault[transit]") from None


def refuse_file_in_production(name: str, *, production: bool, accepted: bool) -> None:
    """Raise KeyFileError when a production deployment would trust a file, unless it was told to in so many words."""
    if production and name.partition(":")[0] == "file" and not accepted:
        raise KeyFileError(
            "VAULT_PRODUCTION is set and the root key is a file: use a key management service, "
            "or set VAULT_FILE_ROOT_IN_PRODUCTION=accepted"
        )
