"""Messages as `waystation screen` reads them: a line of JSON or a mail file becomes the parts that screening judges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moderation.mail import AttachmentPart, Link, MailParts, TextPart, read_mail
from moderation.mail.hypertext import read_html
from moderation.mail.parts import HTML_CHARACTERS_MAX, LINKS_MAX
from moderation.mail.read import correspondents_in, links_in
from moderation.screening import Case

if TYPE_CHECKING:
    from common.events.intake import Tool

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


def case_of_line(line: bytes) -> tuple[Any, Case, str | None]:
    """Return a line's id, its case and what is wrong with the line; what can be read is judged all the same."""
    try:
        document = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        text = line.decode("utf-8", "replace")
        return (
            None,
            Case(MailParts("", (TextPart("text", text),), degraded=("charset",)), "email"),
            f"not JSON: {error}",
        )
    identity = document.get("id") if isinstance(document, dict) else None
    try:
        message = InputLine.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        problem = f"{'.'.join(map(str, first['loc'])) or 'line'}: {first['msg']}"
        written = document.get("text") if isinstance(document, dict) else None
        texts = (TextPart("text", written),) if isinstance(written, str) else ()
        return identity, Case(MailParts("", texts, degraded=("charset",)), "email"), problem
    return identity, Case(parts_of(message), _TOOLS[message.tool]), None


def parts_of(message: InputLine) -> MailParts:
    """Return the parts of a message; links are found in its texts."""
    texts: list[TextPart] = []
    links: list[Link] = []
    degraded: set[Any] = set()
    if message.text:
        texts.append(TextPart("text", message.text))
        links += links_in(message.text)
    if message.html:
        seen, hidden = read_html(message.html[:HTML_CHARACTERS_MAX], LINKS_MAX)
        texts.append(TextPart("html-text", seen))
        links += hidden or links_in(seen)
    attachments = [_attachment(Path(name), degraded) for name in message.attachments]
    return MailParts(
        message.subject,
        tuple(texts),
        tuple(links[:LINKS_MAX]),
        tuple(attachments),
        senders=correspondents_in(message.sender, degraded),
        reply_to=correspondents_in(message.reply_to, degraded),
        degraded=tuple(sorted(degraded)),
    )


def _attachment(path: Path, degraded: set[Any]) -> AttachmentPart:
    try:
        with path.open("rb") as file:
            content = file.read(ATTACHMENT_BYTES_MAX + 1)
    except OSError:
        degraded.add("attachment-missing")
        content = b""
    if len(content) > ATTACHMENT_BYTES_MAX:
        degraded.add("decoded-bytes")
    return AttachmentPart(path.name, "application/octet-stream", content[:ATTACHMENT_BYTES_MAX])


def case_of_file(path: Path) -> tuple[str, Case, str | None]:
    """Return a mail file's name, its case and what is wrong with the file."""
    try:
        return path.name, Case(read_mail(path.read_bytes()), "email"), None
    except OSError as error:
        return path.name, Case(MailParts("", degraded=("headers",)), "email"), f"cannot be read: {error.strerror}"
