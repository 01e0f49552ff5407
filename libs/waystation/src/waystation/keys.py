"""Signing keys of a stack: published before they sign, kept after they have signed, retired with a date.

Readers take a new public key from the folder when they meet its id, and signers look at their file before each batch:
none of this stops anything. What a key has signed verifies for as long as its public half is in the folder.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from common.security.signing import TERMS_FILE, Purpose, key_id, load_private_key, load_public_key, read_terms
from common.times import rfc3339
from waystation.errors import CommandError
from waystation.stack.credentials import PRIVATE, SIGNING_PURPOSES, new_private_pem, public_pem, signing_key
from waystation.stack.layout import Layout, write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

KeyState = Literal["signs", "published", "verifies", "retired"]
_SIGNERS = {purpose: service for service, purpose in SIGNING_PURPOSES.items()}


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A public key: it `signs` now, is `published` to sign next, only `verifies`, or is `retired`."""

    purpose: str
    key: str
    state: KeyState
    published_at: datetime | None
    retired_at: datetime | None
    file: Path


@dataclass(frozen=True, slots=True)
class Keyring:
    """The signing keys of one stack."""

    layout: Layout

    def keys(self) -> list[SigningKey]:
        """Every published key, by purpose and age."""
        return [key for purpose in get_args(Purpose) for key in self._of(purpose)]

    def publish(self, purpose: Purpose, now: datetime) -> str:
        """Make a key that will sign next and publish its public half; one that waits already stays. Return its id."""
        with self._changing(purpose):
            return self._publish(purpose, now)

    def rotate(self, purpose: Purpose, now: datetime) -> tuple[str, str]:
        """Let the published next key sign, making one first when there is none. Return the old and the new id."""
        with self._changing(purpose):
            old, new = _id_of(self._private(purpose)), self._publish(purpose, now)
            self._next(purpose).replace(self._private(purpose))
            return old, new

    def retire(self, key: str, at: datetime) -> SigningKey:
        """Say until when a key was good: what it signed until then verifies, what tells a later time does not."""
        found = next((one for one in self.keys() if one.key == key), None)
        if found is None:
            raise CommandError(f"no published key has the id {key}", "waystation keys list shows all")
        if found.state in {"signs", "published"}:
            raise CommandError(f"key {key} {_WHY_NOT[found.state]}", f"first: waystation keys rotate {found.purpose}")
        if found.retired_at is not None and at > found.retired_at:
            raise CommandError(
                f"key {key} was good until {rfc3339(found.retired_at)}: what it signed later stays refused",
                "an earlier time may be given: --at",
            )
        with self._changing(found.purpose):
            self._note(found.purpose, key, retired_at=rfc3339(at))
        return next(one for one in self.keys() if one.key == key)

    def export(self, folder: Path) -> list[SigningKey]:
        """Copy all public keys with their terms into a folder: what a verifier needs, and nothing secret."""
        keys = self.keys()
        for key in keys:
            (folder / key.purpose).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(key.file, folder / key.purpose / f"{key.key}.pem")
        for purpose in {key.purpose for key in keys}:
            if (terms := self._published(purpose) / TERMS_FILE).exists():
                shutil.copyfile(terms, folder / purpose / TERMS_FILE)
        return keys

    def _of(self, purpose: Purpose) -> list[SigningKey]:
        terms = read_terms(self._published(purpose))
        signs, waits = _id_of(self._private(purpose)), _id_of(self._next(purpose))
        found = []
        for path in sorted(self._published(purpose).glob("*.pem")):
            key = key_id(load_public_key(path))
            term = terms.get(key)
            retired_at = term.retired_at if term else None
            state: KeyState = "signs" if key == signs else "published" if key == waits else "verifies"
            state = "retired" if retired_at else state
            found.append(SigningKey(purpose, key, state, term.published_at if term else None, retired_at, path))
        return sorted(found, key=lambda one: (one.published_at is not None, one.published_at or 0, one.key))

    def _publish(self, purpose: Purpose, now: datetime) -> str:
        waiting = self._next(purpose)
        if not waiting.exists():
            write_atomically(waiting, new_private_pem(), PRIVATE)
        key = _id_of(waiting)
        public = self._published(purpose) / f"{key}.pem"
        if not public.exists():
            self._note(purpose, key, published_at=rfc3339(now))
            write_atomically(public, public_pem(waiting.read_bytes()))
        return key

    def _note(self, purpose: str, key: str, **term: str) -> None:
        path = self._published(purpose) / TERMS_FILE
        terms: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        terms[key] = {**terms.get(key, {}), **term}
        write_atomically(path, json.dumps(terms, indent=2) + "\n")

    def _published(self, purpose: str) -> Path:
        return self.layout.trusted / purpose

    def _private(self, purpose: Purpose) -> Path:
        return signing_key(self.layout, _SIGNERS[purpose])

    def _next(self, purpose: Purpose) -> Path:
        return self._private(purpose).with_suffix(".next.pem")

    @contextmanager
    def _changing(self, purpose: str) -> Iterator[None]:
        """One change of keys at a time."""
        if not self._private(checked_purpose(purpose)).exists():
            raise CommandError(
                f"there is no key for {purpose}s in {self.layout.home}", "start the stack: waystation up"
            )
        with (self.layout.secrets / "signing" / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


_WHY_NOT = {"signs": "signs now", "published": "was published to sign next"}


def checked_purpose(text: str) -> Purpose:
    """Return the purpose of that name, or raise CommandError."""
    if text not in get_args(Purpose):
        raise CommandError(
            f"nothing is signed for the purpose {text!r}", f"choose from: {', '.join(get_args(Purpose))}"
        )
    return text  # type: ignore[return-value]


def _id_of(private: Path) -> str:
    return key_id(load_private_key(private).public_key()) if private.exists() else ""
