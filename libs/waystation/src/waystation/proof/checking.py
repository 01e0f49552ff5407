"""Checking signed statements with public keys, and what they say about each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from common.security.merkle import leaf_hash
from common.security.signing import PURPOSES, TIME_FIELDS, SignatureError, TrustedKeys, canonical, proof_root
from waystation.proof.documents import UncheckableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from common.security.signing import Purpose
    from waystation.proof.documents import Part

_NUMBERS_MAX = 1_000
HANDED = frozenset({"handed_over", "delivered"})


class Code(StrEnum):
    """Why a statement is refused; docs/proof.md has them all."""

    CHANGED_STATEMENT = "changed-statement"
    BROKEN_PATH = "broken-path"
    OTHER_BATCH = "other-batch"
    UNKNOWN_KEY = "unknown-key"
    WRONG_PURPOSE = "wrong-purpose"
    BAD_SIGNATURE = "bad-signature"
    RETIRED_KEY = "retired-key"
    OTHER_INSTRUCTION = "other-instruction"
    OTHER_CONTENT = "other-content"


@dataclass(frozen=True, slots=True)
class PublishedKeys:
    """The public keys of each purpose, from `<folder>/<purpose>/*.pem`."""

    folder: Path
    by_purpose: Mapping[Purpose, TrustedKeys]

    @classmethod
    def from_folder(cls, folder: Path) -> PublishedKeys:
        """Load what is there; a folder without any key is an error."""
        found: dict[Purpose, TrustedKeys] = {}
        for purpose in PURPOSES:
            if any((folder / purpose).glob("*.pem")):
                try:
                    found[purpose] = TrustedKeys.from_folder(purpose, folder)
                except (OSError, ValueError, TypeError) as error:
                    raise UncheckableError(f"the {purpose} keys in {folder} cannot be read: {error}") from None
        if not found:
            raise UncheckableError(
                f"there are no public keys in {folder}",
                f"it must hold {', '.join(PURPOSES)}, each with *.pem; waystation keys export DIR writes that",
            )
        return cls(folder, found)

    def verify(self, part: Part) -> None:
        """Check signature, path and term, or raise SignatureError."""
        keys = self.by_purpose.get(part.purpose)
        if keys is None:
            raise SignatureError(f"{part.purpose}: no key was published for this purpose")
        keys.verify(part.signed)

    def purpose_of(self, key: str, *, but: Purpose) -> Purpose | None:
        """Return another purpose that a key was published for."""
        return next((one for one, keys in self.by_purpose.items() if one != but and key in keys), None)

    def signed_for(self, part: Part) -> Purpose | None:
        """Return another purpose that the signature is good for, whatever the key was published for."""
        own = self.by_purpose.get(part.purpose)
        if own is None or part.signed.proof.key not in own:
            return None
        for purpose in PURPOSES:
            if purpose != part.purpose:
                try:
                    TrustedKeys(purpose, own.keys.values()).verify(part.signed)
                except SignatureError:
                    continue
                return purpose
        return None


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a statement proves nothing."""

    code: Code
    text: str


@dataclass(frozen=True, slots=True)
class Checked:
    """One signed statement after the check; `digest` is its leaf hash, by which other statements name it."""

    part: Part
    digest: str
    refused: Refused | None

    @property
    def proved(self) -> bool:
        """Whether the statement was signed as it stands."""
        return self.refused is None

    @property
    def claims(self) -> Mapping[str, Any]:
        """The statement."""
        return self.part.signed.statement


@dataclass(frozen=True, slots=True)
class MessageProof:
    """Everything that was found about one message; `open_points` is what the file does not prove."""

    message_id: str
    checked: Sequence[Checked]
    open_points: Sequence[str] = field(default_factory=tuple)

    @property
    def proved(self) -> bool:
        """Whether every statement is."""
        return all(one.proved for one in self.checked)


def check(parts: Iterable[Part], keys: PublishedKeys, mail: bytes | None = None) -> list[MessageProof]:
    """Check all statements, by message in the order of their first appearance; `mail` are the bytes to compare."""
    by_message: dict[str, list[Part]] = {}
    for part in parts:
        by_message.setdefault(part.message_id, []).append(part)
    return [_message(message_id, found, keys, mail) for message_id, found in by_message.items()]


def _message(message_id: str, parts: Sequence[Part], keys: PublishedKeys, mail: bytes | None) -> MessageProof:
    checked = [_signature(part, keys) for part in parts]
    named = _named_digest(checked)
    instruction = next((one for one in checked if one.proved and one.part.purpose == "instruction"), None)
    told = [_explained(one, named) for one in checked]
    linked = [_linked(one, instruction.digest if instruction else named, instruction) for one in told]
    linked = [_with_content(one, mail) for one in linked]
    return MessageProof(message_id, linked, tuple(_open_points(linked, mail)))


def _signature(part: Part, keys: PublishedKeys) -> Checked:
    try:
        leaf = leaf_hash(canonical(part.signed.statement))
    except TypeError:
        text = "the statement holds a number beyond 64 bits: it has no canonical form"
        return Checked(part, "", Refused(Code.CHANGED_STATEMENT, text))
    refused = _document_refused(part, leaf)
    if refused is None:
        try:
            keys.verify(part)
        except SignatureError as error:
            refused = _why(part, keys, str(error))
    return Checked(part, leaf.hex(), refused)


def _document_refused(part: Part, leaf: bytes) -> Refused | None:
    """What is wrong before any key is looked at."""
    if part.leaf is not None and part.leaf != leaf.hex():
        text = f"the statement is not the one that was signed: its leaf hash is {leaf.hex()}, not {part.leaf[:64]}"
        return Refused(Code.CHANGED_STATEMENT, text)
    try:
        root = proof_root(leaf, part.signed.proof)
    except (ValueError, SignatureError) as error:
        return Refused(Code.BROKEN_PATH, str(error))
    if part.root is not None and part.root != root.hex():
        text = f"the path is of another statement or batch: it leads to {root.hex()}, not to the root {part.root[:64]}"
        return Refused(Code.OTHER_BATCH, text)
    return None


def _why(part: Part, keys: PublishedKeys, said: str) -> Refused:
    """Which refusal it is; that it is one was decided by the verification itself."""
    key, own = part.signed.proof.key, keys.by_purpose.get(part.purpose)
    if own is None or key not in own:
        if (other := keys.purpose_of(key, but=part.purpose)) is not None:
            return Refused(Code.WRONG_PURPOSE, f"key {key} signs {other}s, and this is said to be a {part.purpose}")
        return Refused(Code.UNKNOWN_KEY, f"no key {key[:64]} was ever published for {part.purpose}s")
    if "key that signed it" in said or "retired key" in said:
        return Refused(Code.RETIRED_KEY, said.partition(": ")[2])
    if (other := keys.signed_for(part)) is not None:
        return Refused(Code.WRONG_PURPOSE, f"it was signed as a {other}, and this is said to be a {part.purpose}")
    if part.root is not None:
        return Refused(Code.BAD_SIGNATURE, f"key {key} has not signed the root {part.root}")
    text = "statement, path and signature do not belong together: one of them was changed or is of another batch"
    return Refused(Code.BAD_SIGNATURE, text)


def _named_digest(checked: Sequence[Checked]) -> str | None:
    """Return the instruction that the proved verdicts and receipts are about."""
    about = (one.claims for one in checked if one.proved and one.part.purpose != "instruction")
    return next((str(claims.get("instruction_digest")) for claims in about), None)


def _explained(one: Checked, named: str | None) -> Checked:
    """A verdict or receipt that names the instruction tells whether its statement or its signature was changed."""
    if one.refused is None or one.refused.code is not Code.BAD_SIGNATURE or one.part.purpose != "instruction":
        return one
    if named is None or one.part.root is not None:
        return one
    if one.digest == named:
        text = "the statement is the one that the verdict or receipt names; its path or signature is of another batch"
        return Checked(one.part, one.digest, Refused(Code.OTHER_BATCH, text))
    text = f"the statement is not the one that the verdict or receipt names: its leaf hash is {one.digest}, not {named}"
    return Checked(one.part, one.digest, Refused(Code.CHANGED_STATEMENT, text))


def _linked(one: Checked, named: str | None, instruction: Checked | None) -> Checked:
    """What is said later must be about the instruction beside it, and about its content where it names that."""
    if one.refused is not None or one.part.purpose == "instruction":
        return one
    if one.claims.get("instruction_digest") != named:
        text = f"it is about the instruction {one.claims.get('instruction_digest')}, not about {named}"
        return Checked(one.part, one.digest, Refused(Code.OTHER_INSTRUCTION, text))
    if one.part.is_revision or instruction is None:
        return one
    if one.claims.get("content_digest") != instruction.claims.get("content_digest"):
        text = "its content_digest is not the one that was instructed"
        return Checked(one.part, one.digest, Refused(Code.OTHER_CONTENT, text))
    return one


def _with_content(one: Checked, mail: bytes | None) -> Checked:
    if one.refused is not None or one.part.purpose != "instruction":
        return one
    sealed = one.part.sealed
    if sealed is not None and sealed.digest() != one.claims.get("sealed_digest"):
        text = "the sealed content beside the instruction is not the one that was instructed"
        return Checked(one.part, one.digest, Refused(Code.OTHER_CONTENT, text))
    if mail is not None and sha256(mail).hexdigest() != one.claims.get("content_digest"):
        text = "the mail given is not the one that was instructed: its SHA-256 is " + sha256(mail).hexdigest()
        return Checked(one.part, one.digest, Refused(Code.OTHER_CONTENT, text))
    return one


def _open_points(checked: Sequence[Checked], mail: bytes | None) -> Iterable[str]:
    proved = {purpose: [one for one in checked if one.proved and one.part.purpose == purpose] for purpose in PURPOSES}
    if not proved["instruction"]:
        yield "what was instructed, and by whom: no instruction is proved"
    elif mail is None:
        yield "which bytes were instructed: give the mail with --mail to compare its SHA-256"
    verdicts = [one for one in proved["verdict"] if not one.part.is_revision]
    revisions = [one for one in proved["verdict"] if one.part.is_revision]
    if not verdicts:
        yield "that the content was screened: no verdict is proved"
    if verdicts or revisions:
        yield from _revision_points(revisions)
    if not proved["receipt"]:
        yield "what became of it: no receipt is proved"
    else:
        yield from _receipt_points(proved["receipt"])


def _revision_points(revisions: Sequence[Checked]) -> Iterable[str]:
    numbers = _numbers(revisions, "revision")
    if not numbers:
        yield "that the verdict still holds: no later word on it is among these"
        return
    if missing := _missing(numbers):
        yield f"what was said before: revisions {missing} are not among these"
    yield f"that no later word came: revision {numbers[-1]} is the last one here"


def _numbers(checked: Sequence[Checked], name: str) -> list[int]:
    return sorted(int(one.claims.get(name, 0)) for one in checked)


def _missing(numbers: Sequence[int]) -> str:
    """Return the numbers that are missing before the last one."""
    there = set(numbers)
    missing = [str(number) for number in range(1, min(numbers[-1], _NUMBERS_MAX)) if number not in there]
    return ", ".join(missing)


def _receipt_points(receipts: Sequence[Checked]) -> Iterable[str]:
    numbers = _numbers(receipts, "sequence")
    if missing := _missing(numbers):
        yield f"the steps before: receipts {missing} are not among these"
    yield f"that nothing came later: receipt {numbers[-1]} is the last one here"
    if any(one.claims.get("state") in HANDED for one in receipts):
        yield "that the provider has it: a receipt proves that routing said so"


def said_at(one: Checked) -> str:
    """Return when the statement says that it was made."""
    return str(one.claims.get(TIME_FIELDS[one.part.purpose]))
