"""What screening reads of a mail, and what it is told when something could not be read.

| `degraded` | could not be read | what was done instead |
|---|---|---|
| `addresses` | From or Reply-To | left out |
| `boundary` | a multipart whose boundary is missing or in none of its lines | its body is one text |
| `charset` | octets of a text, a header or a file name; a charset that is none of the web's or of mail's | \
replacement characters, Latin-1, or UTF-8 |
| `decoded-bytes` | a mail beyond 3 MB, parts beyond 2 MB | left out, the one that crosses it in part |
| `headers` | a header block beyond 256 KiB or 1,000 headers | read up to there |
| `html` | HTML beyond 250,000 characters or 8,000 tags of a mail; a script, style or comment that never ends | \
the rest is text, with its tags beyond the limit |
| `links` | links beyond 1,000 | left out |
| `nesting` | parts within more than 20 levels | the innermost is one text |
| `parts` | parts beyond 1,000 | left out |
| `transfer-encoding` | base64 that breaks off or goes on after its end; an unknown encoding | what can be read |
| `unread-part` | what is neither text nor a message: pictures, sound, documents, tables to be saved, archives, \
encrypted content | looked at as a file, nothing in it is read as text; of a message in pieces this one is read |
"""

from __future__ import annotations

from typing import Literal, NamedTuple

PARTS_MAX = 1_000
NESTING_MAX = 20
MAIL_BYTES_MAX = 3 * 1024 * 1024
DECODED_BYTES_MAX = 2 * 1024 * 1024
HEADER_BYTES_MAX = 256 * 1024
HEADERS_MAX = 1_000
HTML_CHARACTERS_MAX = 250_000
LINKS_MAX = 1_000

Degradation = Literal[
    "addresses",
    "boundary",
    "charset",
    "decoded-bytes",
    "headers",
    "html",
    "links",
    "nesting",
    "parts",
    "transfer-encoding",
    "unread-part",
]


class TextPart(NamedTuple):
    """Text that a recipient may see; `html-text` is HTML without its tags, hidden text included."""

    kind: Literal["text", "html-text"]
    text: str


class Link(NamedTuple):
    """Where a link leads, and the text that a recipient sees in its place (None where the address itself is seen).

    `bare` is an address that was written without its scheme.
    """

    url: str
    shown: str | None = None
    bare: bool = False


class AttachmentPart(NamedTuple):
    """A decoded file; `filename` is empty if the mail gives none, `content_type` is in lower case.

    `other_names` are what the mail calls it as well: mail programs differ in which name they take.
    """

    filename: str
    content_type: str
    content: bytes
    other_names: tuple[str, ...] = ()


class Correspondent(NamedTuple):
    """A mailbox as its header shows it."""

    address: str
    name: str | None = None


class MailParts(NamedTuple):
    """A mail taken apart; `degraded` names, in order and each once, what could not be read (see the module).

    `authentication_results` is the topmost header of that name, as it stands.
    """

    subject: str
    texts: tuple[TextPart, ...] = ()
    links: tuple[Link, ...] = ()
    attachments: tuple[AttachmentPart, ...] = ()
    senders: tuple[Correspondent, ...] = ()
    reply_to: tuple[Correspondent, ...] = ()
    degraded: tuple[Degradation, ...] = ()
    authentication_results: str = ""
