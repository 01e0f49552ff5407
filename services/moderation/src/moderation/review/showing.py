"""What a reviewer sees: the parts of a message with the places that rules found; blurred unless asked otherwise.

Content is opened here for a person, through the vault and under a case, and nowhere else in this service.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

from common.contracts.vault import OpenCall, OpenItem
from common.http.problems import TYPE_PREFIX
from common.security.sealing import SealError, unseal
from moderation.mail import read_mail

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from common.contracts.vault import OpenAnswer
    from moderation.mail import AttachmentPart, MailParts

BLUR = "\u2592"
PART_CHARACTERS_MAX = 100_000
LINKS_SHOWN_MAX = 300
_READABLE = re.compile(r"\w")


class Opener(Protocol):
    """The vault, as far as review needs it."""

    async def open(self, call: OpenCall, /) -> Sequence[OpenAnswer]:
        """Return the message keys, an answer per item, in order."""


class ContentGoneError(Exception):
    """A case's content cannot be shown; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Characters of a part that a rule found."""

    rule: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ShownPart:
    """A readable part with what was found in it; `text` is blurred character by character unless it was revealed."""

    name: str
    text: str
    cut: bool
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class ShownFile:
    """An attachment: never its bytes."""

    name: str
    filename: str
    content_type: str
    size_bytes: int
    sha256: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """A message as a reviewer sees it."""

    parts: tuple[ShownPart, ...]
    files: tuple[ShownFile, ...]


async def open_content(row: Mapping[str, Any], vault: Opener) -> bytes:
    """Open a claimed case's content for a person; the vault writes down who asks, for which case.

    Raises:
        ContentGoneError: the case has no content any more, or the recipient was erased.
    """
    if row["content"] is None:
        raise ContentGoneError("the case is closed, its content is not kept here any more")
    message_id = str(row["message_id"])
    item = OpenItem(
        account_id=row["account_id"], message_id=message_id, token=row["recipient_token"], capsule=row["capsule"]
    )
    (answer,) = await vault.open(OpenCall(purpose="review", case_id=str(row["case_id"]), items=[item]))
    if answer.message_key is None:
        kind = str((answer.problem or {}).get("type", "")).removeprefix(TYPE_PREFIX)
        raise ContentGoneError(f"the vault does not open it: {kind or 'no key'}")
    try:
        content = unseal(answer.message_key, message_id, "content", row["content"])
    except SealError as error:
        raise ContentGoneError(str(error)) from None
    if sha256(content).hexdigest() != row["content_digest"]:
        raise ContentGoneError("its SHA-256 is not the one that was instructed")
    return content


def shown(content: bytes, evidence: Sequence[Mapping[str, Any]], *, reveal: bool) -> Shown:
    """Return the parts of a mail with the spans of its verdict's evidence."""
    mail = read_mail(content)
    marks: dict[str, list[Mark]] = {}
    for found in evidence:
        marks.setdefault(found["part"], []).append(Mark(found["rule"], found["start"], found["end"]))
    parts = tuple(_part(name, text, marks.get(name, []), reveal=reveal) for name, text in _texts(mail))
    files = tuple(_file(number, attachment, marks, reveal=reveal) for number, attachment in enumerate(mail.attachments))
    return Shown(parts, files)


def blurred(text: str) -> str:
    """Return a text with every letter and digit hidden, as long as it was."""
    return _READABLE.sub(BLUR, text)


def _texts(mail: MailParts) -> Iterator[tuple[str, str]]:
    """Yield readable parts under the names that evidence has for them."""
    for number, sender in enumerate(mail.senders):
        yield f"from[{number}]", f"{sender.name or ''} <{sender.address}>".strip()
    if mail.subject:
        yield "subject", mail.subject
    for number, part in enumerate(mail.texts):
        yield f"{'text' if part.kind == 'text' else 'html'}[{number}]", part.text
    for number, link in enumerate(mail.links[:LINKS_SHOWN_MAX]):
        yield f"link[{number}]", link.url


def _part(name: str, text: str, marks: Sequence[Mark], *, reveal: bool) -> ShownPart:
    seen = text[:PART_CHARACTERS_MAX]
    inside = sorted((mark for mark in marks if mark.start < len(seen)), key=lambda mark: (mark.start, mark.end))
    return ShownPart(name, seen if reveal else blurred(seen), len(text) > len(seen), tuple(inside))


def _file(number: int, attachment: AttachmentPart, marks: Mapping[str, Sequence[Mark]], *, reveal: bool) -> ShownFile:
    found = [*marks.get(f"attachment[{number}]", ()), *marks.get(f"filename[{number}]", ())]
    return ShownFile(
        f"attachment[{number}]",
        attachment.filename if reveal else blurred(attachment.filename),
        attachment.content_type,
        len(attachment.content),
        sha256(attachment.content).hexdigest(),
        tuple(sorted({mark.rule for mark in found})),
    )
