"""Messages as `waystation screen` reads them: a line of JSON or a mail file becomes the parts that screening judges."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moderation.examination import NOTHING_KNOWN, Case, Context
from moderation.mail import AttachmentPart, Link, MailParts, TextPart, read_mail
from moderation.mail.parts import LINKS_MAX
from moderation.mail.read import correspondents_in, links_in

if TYPE_CHECKING:
    from common.events.intake import Tool
    from moderation.mail.parts import Degradation

_HTML_HEADERS = b"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
"""Before HTML: it is then read as a mail's is, within the same limits."""
ATTACHMENT_BYTES_MAX = 25 * 1024 * 1024
_TOOLS: dict[str, Tool] = {
    "email": "email", "sms": "telephony", "voice": "telephony", "telephony": "telephony", "chat": "widget",
    "widget": "widget", "form": "form",
}  # fmt: skip


class InputLine(BaseModel):
    """One message; `attachments` are paths of files on this machine."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    id: Any = None
    tool: Literal["email", "sms", "chat", "form", "voice", "telephony", "widget"] = "email"
    text: str = ""
    subject: str = ""
    sender: str = Field(default="", alias="from")
    reply_to: str = ""
    html: str = ""
    attachments: tuple[str, ...] = ()


INPUT = "input"
"""In `degraded`: something is wrong with the line itself; `problem` tells the field."""


def case_of_line(line: bytes) -> tuple[Any, Case, str | None]:
    """Return a line's id, its case and what is wrong with the line; whatever can be read is judged all the same."""
    document, problems, degraded = _document(line)
    if not isinstance(document, dict):
        text = line.decode("utf-8", "replace")
        parts = MailParts("", (TextPart("text", text),), links_in(text), degraded=degraded)
        return None, Case(parts, "email", _WRONG), "; ".join(problems or ["not an object"])
    message = _message(document, problems)
    parts = parts_of(message, problems)
    parts = parts._replace(degraded=tuple(sorted({*parts.degraded, *degraded})))
    context = _WRONG if problems else NOTHING_KNOWN
    return document.get("id"), Case(parts, _TOOLS[message.tool], context), "; ".join(problems) or None


_WRONG = Context(degraded=(INPUT,))


def _document(line: bytes) -> tuple[Any, list[str], tuple[Degradation, ...]]:
    """Return what a line holds; an id that cannot be written again is left out, and said."""
    document, problems, degraded = _json(line)
    if isinstance(document, dict):
        try:
            orjson.dumps(document.get("id"))
        except orjson.JSONEncodeError:
            document["id"] = None
            problems.append("id: nested too deeply to be written again")
    return document, problems, degraded


def _json(line: bytes) -> tuple[Any, list[str], tuple[Degradation, ...]]:
    """Return what a line holds; characters that are none are replaced, and said."""
    try:
        return orjson.loads(line), [], ()
    except orjson.JSONDecodeError as error:
        reason = str(error)
    degraded: tuple[Degradation, ...] = ("charset",)
    try:
        document = json.loads(line.decode("utf-8", "replace"), parse_constant=_no_number)
        # Lone surrogates are no characters, though JSON can write them.
        document = orjson.loads(json.dumps(document, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None, [f"not JSON: {reason}"], degraded
    return document, ["not UTF-8: what is no character was replaced"], degraded


def _no_number(text: str) -> NoReturn:
    raise ValueError(text)


def _message(document: dict[str, Any], problems: list[str]) -> InputLine:
    """Return what the fields say; those that say nothing valid are named and left out."""
    try:
        return InputLine.model_validate(document)
    except ValidationError as error:
        rest = dict(document)
        for wrong in error.errors(include_input=False, include_url=False, include_context=False):
            field, *inside = map(str, wrong["loc"])
            if field == "from" and field not in document:
                field = "sender"
            problems.append(f"{'.'.join([field, *inside])}: {wrong['msg']}")
            given = rest.pop(field, None)
            if field == "attachments" and isinstance(given, list):
                rest[field] = [one for one in given if isinstance(one, str)]
    return _message(rest, problems)  # a sender may be there by its other name too


def parts_of(message: InputLine, problems: list[str]) -> MailParts:
    """Return the parts of a message; links are found in its texts, files that cannot be read are named."""
    texts: list[TextPart] = []
    links: list[Link] = []
    degraded: set[Any] = set()
    if message.text:
        texts.append(TextPart("text", message.text))
        links += links_in(message.text)
    if message.html:
        read = read_mail(_HTML_HEADERS + message.html.encode("utf-8", "replace"))
        texts += read.texts
        links += read.links
        degraded.update(read.degraded)
    if len(links) > LINKS_MAX:
        degraded.add("links")
    attachments = [
        _attachment(number, Path(name), degraded, problems) for number, name in enumerate(message.attachments)
    ]
    return MailParts(
        message.subject,
        tuple(texts),
        tuple(links[:LINKS_MAX]),
        tuple(attachments),
        senders=correspondents_in(message.sender, degraded),
        reply_to=correspondents_in(message.reply_to, degraded),
        degraded=tuple(sorted(degraded)),
    )


def _attachment(number: int, path: Path, degraded: set[Any], problems: list[str]) -> AttachmentPart:
    try:
        with path.open("rb") as file:
            content = file.read(ATTACHMENT_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        degraded.add("attachment-missing")
        problems.append(f"attachments.{number}: cannot be read: {getattr(error, 'strerror', None) or error}")
        content = b""
    if len(content) > ATTACHMENT_BYTES_MAX:
        degraded.add("decoded-bytes")
    return AttachmentPart(path.name, "application/octet-stream", content[:ATTACHMENT_BYTES_MAX])


def case_of_file(path: Path) -> tuple[str, Case, str | None]:
    """Return a mail file's name, its case and what is wrong with the file."""
    name = os.fsencode(path.name).decode("utf-8", "replace")
    try:
        parts = read_mail(path.read_bytes())
    except OSError as error:
        parts = MailParts("", degraded=("headers",))
        return name, Case(parts, "email", _WRONG), f"cannot be read: {error.strerror}"
    if name != path.name:
        return name, Case(parts, "email", _WRONG), "id: the file's name is not UTF-8: what is no character was replaced"
    return name, Case(parts, "email"), None
