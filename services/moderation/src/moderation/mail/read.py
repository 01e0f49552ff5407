"""Final MIME bytes become the parts that screening reads; whatever the bytes are, nothing is raised."""

from __future__ import annotations

import re
from email.utils import getaddresses
from itertools import islice
from typing import TYPE_CHECKING

from moderation.mail.decoding import decoded_body, decoded_header, decoded_text, header_parameters
from moderation.mail.hypertext import MARKUPS_MAX, read_html
from moderation.mail.parts import (
    DECODED_BYTES_MAX,
    HTML_CHARACTERS_MAX,
    LINKS_MAX,
    MAIL_BYTES_MAX,
    AttachmentPart,
    Correspondent,
    Link,
    MailParts,
    TextPart,
)
from moderation.mail.structure import MailTree
from moderation.text.engine import engine, places

if TYPE_CHECKING:
    from moderation.mail.parts import Degradation
    from moderation.mail.structure import Leaf

_URL = re.compile(r"(?:https?://|www\.)[^\s<>\"]{1,2000}", re.IGNORECASE)
# Addresses without a scheme, as messages write them; endings that are also words count with a path only.
_ENDINGS = (
    "com|net|org|info|biz|xyz|top|icu|online|site|shop|store|club|vip|click|website|buzz|cfd|sbs|cyou|monster|quest"
    "|bond|ru|su|ua|kz|uk|us|ca|br|au|nz|cn|jp|kr|hk|vn|tr|ae|za|ng|tk|ml|ga|cf|gq|pw|cc|tv|ws|eu|io|app|dev|fr|nl"
    "|pl|cz|hu|ro|bg|gr|se|dk|fi|pt|ie|mx|ar|cl|pe|mobi|pro|asia"
)
_WORD_ENDINGS = (
    "co|me|ly|gl|gd|is|to|it|in|no|be|at|ch|de|es|at|so|link|live|work|space|fun|rest|world|life|today|email|support"
    "|services|help|page|id|my|sg|th|ph|il|gg|am|fm|li|st|la|sk|si|hr|lt|lv|ee|lu|tel|name|cloud|digital|center|zone"
)
_BARE = (
    rf"(?i)(?:^|[\s(<\[:,;\"'])(?:[a-z0-9][a-z0-9-]{{0,62}}\.)+"
    rf"(?:(?:{_ENDINGS})(?:/[^\s<>\"]{{0,500}}|[\s)>\],;!?\"']|\.\s|\.?$)|(?:{_WORD_ENDINGS})/[^\s<>\"]{{1,500}})"
)
_URL_ENDS = ".,;:!?'*_~]"
_ONE_MAILBOX = re.compile(r'(?:"([^"\\]*)"[ \t]*|([^"<>\\(),:;@]*))<([^<>\s,"]+)>[ \t]*')
_ONE_ADDRESS = re.compile(r"[^\s<>\"(),:;]+")
_ADDRESS_LIST_CHARACTERS_MAX = 4_000
_LEVELS_MAX = 20


def read_mail(content: bytes) -> MailParts:
    """What screening reads of a mail: subject, texts, links, attachments, senders.

    Text parts count as texts whatever their disposition, and as attachments too if they are meant to be saved.
    The subject of a forwarded message is a text. Limits and what follows from them: `moderation.mail.parts`.
    """
    degraded: set[Degradation] = set()
    if len(content) > MAIL_BYTES_MAX:
        content = content[:MAIL_BYTES_MAX]
        degraded.add("decoded-bytes")
    if content.count(b"\n") != content.count(b"\r\n"):
        content = content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    tree = MailTree(content, degraded)
    reading = _Reading(degraded)
    for leaf in tree.leaves:
        reading.add(leaf)
    headers, *forwarded = tree.messages
    for message in forwarded:
        if subject := decoded_header(message.get("subject", ""), degraded):
            reading.texts.append(TextPart("text", subject))
    return MailParts(
        decoded_header(headers.get("subject", ""), degraded),
        tuple(reading.texts),
        tuple(reading.links),
        tuple(reading.attachments),
        senders=correspondents_in(headers.get("from", ""), degraded),
        reply_to=correspondents_in(headers.get("reply-to", ""), degraded),
        degraded=tuple(sorted(degraded)),
        authentication_results=headers.get("authentication-results", ""),
    )


class _Reading:
    """What has been read of one mail so far, within its limits."""

    def __init__(self, degraded: set[Degradation]) -> None:
        self.degraded = degraded
        self.texts: list[TextPart] = []
        self.links: list[Link] = []
        self.attachments: list[AttachmentPart] = []
        self.decoded_bytes_left = DECODED_BYTES_MAX
        self.html_characters_left = HTML_CHARACTERS_MAX
        self.markups_left = MARKUPS_MAX

    def add(self, leaf: Leaf) -> None:
        body = leaf.body
        if len(body) > self.decoded_bytes_left:
            self.degraded.add("decoded-bytes")
            body = body[: self.decoded_bytes_left]
        octets = decoded_body(body, leaf.headers.get("content-transfer-encoding", ""), self.degraded)
        self.decoded_bytes_left = max(0, self.decoded_bytes_left - len(body))
        disposition, filename = _disposition(leaf, self.degraded)
        readable = leaf.content_type in ("text/plain", "text/html")
        if readable:
            text = decoded_text(octets, leaf.parameters.get("charset", ""), self.degraded)
            self._add_text(leaf.content_type, text.replace("\r\n", "\n"))
        if not readable or filename or disposition == "attachment":
            self.attachments.append(AttachmentPart(filename, leaf.content_type, octets))

    def _add_text(self, content_type: str, text: str) -> None:
        if content_type == "text/plain":
            self.texts.append(TextPart("text", text))
            self._add_links(list(links_in(text)))
            return
        html, rest = text[: self.html_characters_left], text[self.html_characters_left :]
        self.html_characters_left -= len(html)
        seen, links = read_html(html, LINKS_MAX + 1, self.markups_left)
        tags = html.count("<")
        self.texts.append(TextPart("html-text", seen + rest))
        self._add_links(links)
        if rest or tags > self.markups_left:
            self.degraded.add("html")
        self.markups_left = max(0, self.markups_left - tags)

    def _add_links(self, links: list[Link]) -> None:
        room = LINKS_MAX - len(self.links)
        self.links += links[:room]
        if len(links) > room:
            self.degraded.add("links")


def links_in(text: str) -> tuple[Link, ...]:
    """Return the addresses written in a text, with or without their scheme, at most LINKS_MAX + 1."""
    if "." not in text:
        return ()
    links: list[Link] = []
    if "://" in text or "www." in text.lower():
        links = [Link(_trimmed(match[0])) for match in islice(_URL.finditer(text), LINKS_MAX + 1)]
    # A dot with white space or nothing behind it is in no address.
    if text.count(".") > text.count(". ") + text.count(".\n") + text.endswith("."):
        data = text.encode("utf-8", "replace")
        for start, end in places(engine(_BARE), data, LINKS_MAX + 1 - len(links)):
            written = _trimmed(data[start:end].decode("utf-8", "replace").strip(" \t\r\n\f\v()<>[]:,;\"'!?."))
            links.append(Link(f"http://{written}", written, bare=True))
    return tuple(links)


def _trimmed(url: str) -> str:
    """Without the punctuation of the sentence around it; a closing bracket stays if it was opened within."""
    url = url.rstrip(_URL_ENDS)
    unopened = url.count(")") - url.count("(")
    if unopened > 0 and url.endswith(")"):
        closing = len(url) - len(url.rstrip(")"))
        url = url[: len(url) - min(unopened, closing)].rstrip(_URL_ENDS)
    return url


def _disposition(leaf: Leaf, degraded: set[Degradation]) -> tuple[str, str]:
    """The disposition in lower case, and the file name or an empty string."""
    disposition, parameters = header_parameters(leaf.headers.get("content-disposition", ""), degraded)
    filename = parameters.get("filename", leaf.parameters.get("name", ""))
    return disposition, decoded_header(filename, degraded)


def can_be_addresses(value: str) -> bool:
    """Return whether `email.utils` can read a text as addresses: it calls itself for each bracket and each colon."""
    levels = max(value.count("("), value.count(":"))
    return len(value) <= _ADDRESS_LIST_CHARACTERS_MAX and levels <= _LEVELS_MAX


def correspondents_in(value: str, degraded: set[Degradation]) -> tuple[Correspondent, ...]:
    """Return the mailboxes of a header's value."""
    if not value:
        return ()
    if not can_be_addresses(value):
        degraded.add("addresses")
        return ()
    pairs = _pairs(value)
    if not pairs:
        degraded.add("addresses")
    return tuple(
        Correspondent(decoded_header(address, degraded), decoded_header(shown, degraded).strip() or None)
        for shown, address in pairs
    )


def _pairs(value: str) -> list[tuple[str, str]]:
    if match := _ONE_MAILBOX.fullmatch(value):
        return [(match[1] or match[2] or "", match[3])]
    if _ONE_ADDRESS.fullmatch(value.strip()):
        return [("", value.strip())]
    return [(shown, address) for shown, address in getaddresses([value]) if address]
