"""Final MIME bytes become the parts that screening reads; whatever the bytes are, nothing is raised."""

from __future__ import annotations

import re
from email.utils import getaddresses
from itertools import islice
from typing import TYPE_CHECKING

from moderation.mail.decoding import decoded_body, decoded_header, decoded_text, header_parameters, parameter_values
from moderation.mail.hypertext import MARKUPS_MAX, read_html
from moderation.mail.parts import (
    DECODED_BYTES_MAX,
    HTML_CHARACTERS_MAX,
    LINKS_MAX,
    MAIL_BYTES_MAX,
    NESTING_MAX,
    PARTS_MAX,
    AttachmentPart,
    Correspondent,
    Link,
    MailParts,
    TextPart,
)
from moderation.mail.structure import MailTree, is_message
from moderation.text.engine import engine, places

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moderation.mail.parts import Degradation
    from moderation.mail.structure import Headers, Leaf

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
_NAME = r"[!#$%&'*+.^_`{|}~0-9a-z-]+"
_MEDIA_TYPE = re.compile(rf"({_NAME})/{_NAME}")
# All others that have a name: `plain/text` is not one of them, and mail programs show what they do not know as text.
_KINDS_OF_FILES = frozenset(("application", "audio", "chemical", "font", "image", "model", "multipart", "video"))
_HTML_TYPES = frozenset(("text/html", "text/x-amp-html", "application/xhtml+xml"))
_TYPES_OF_ENDINGS = {
    "eml": "message/rfc822", "htm": "text/html", "html": "text/html", "txt": "text/plain", "xhtml": "text/html",
}  # fmt: skip
# They tell who signed or how something is encrypted, and nothing to a reader.
_SAYS_NOTHING = frozenset(
    ("application/pgp-encrypted", "application/pgp-signature", "application/pkcs7-signature",
     "application/x-pkcs7-signature")
)  # fmt: skip
_FOLDED_TYPES = frozenset(
    ("text/calendar", "text/directory", "text/vcard", "text/x-vcalendar", "text/x-vcard", "text/x-vcf")
)
# Data for programs, which models take for spam; no mail program shows what of it is meant to be saved.
_DATA_TYPES = frozenset(("text/css", "text/csv", "text/javascript", "text/tab-separated-values", "text/xml"))
_A_TAG = re.compile(r"</?[a-zA-Z]")
_ADDRESS_LIST_CHARACTERS_MAX = 4_000
_LEVELS_MAX = 20


def read_mail(content: bytes) -> MailParts:
    """What screening reads of a mail: subject, texts, links, attachments, senders.

    Text parts count as texts whatever their disposition, and as attachments too if they are meant to be saved. What is
    no media type is text (RFC 2045, 5.2), and so is a file whose name says that it is one.
    The subject of a forwarded message is a text. Limits and what follows from them: `moderation.mail.parts`.
    """
    degraded: set[Degradation] = set()
    if len(content) > MAIL_BYTES_MAX:
        content = content[:MAIL_BYTES_MAX]
        degraded.add("decoded-bytes")
    reading = _Reading(degraded)
    reading.walk(content, 0)
    headers, *forwarded = reading.messages
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
        self.messages: list[Headers] = []
        self.parts_left = PARTS_MAX
        self.decoded_bytes_left = DECODED_BYTES_MAX
        self.html_characters_left = HTML_CHARACTERS_MAX
        self.markups_left = MARKUPS_MAX

    def walk(self, content: bytes, level: int) -> None:
        """Read a message that lies within `level` others."""
        if content.count(b"\n") != content.count(b"\r\n"):
            content = content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        tree = MailTree(content, self.degraded, level, self.parts_left)
        self.parts_left = max(0, self.parts_left - tree.parts)
        self.messages += tree.messages
        for leaf in tree.leaves:
            self._add(leaf, level)

    def _add(self, leaf: Leaf, level: int) -> None:
        body = leaf.body
        if len(body) > self.decoded_bytes_left:
            self.degraded.add("decoded-bytes")
            body = body[: self.decoded_bytes_left]
        octets = decoded_body(body, leaf.headers.get("content-transfer-encoding", ""), self.degraded)
        self.decoded_bytes_left = max(0, self.decoded_bytes_left - len(body))
        disposition, filename, *other_names = _disposition(leaf, self.degraded)
        data = disposition == "attachment" and leaf.content_type in _DATA_TYPES
        content_type = "" if data else _read_as(leaf.content_type, filename, octets)
        if is_message(content_type) and level < NESTING_MAX:
            self.walk(octets, level + 1)
        elif content_type == "":
            if octets.strip() and leaf.content_type not in _SAYS_NOTHING:
                self.degraded.add("unread-part")
        else:
            if is_message(content_type):
                self.degraded.add("nesting")
            text = decoded_text(octets, leaf.parameters.get("charset", ""), self.degraded)
            self._add_text(content_type, text.replace("\r\n", "\n"))
        if not content_type or filename or disposition == "attachment":
            self.attachments.append(AttachmentPart(filename, leaf.content_type, octets, tuple(other_names)))

    def _add_text(self, content_type: str, text: str) -> None:
        if content_type in _FOLDED_TYPES:
            text = text.replace("\n ", "").replace("\n\t", "").replace("\\n", "\n")
        if content_type not in _HTML_TYPES:
            self.texts.append(TextPart("text", text))
            self._add_links(list(links_in(text)))
        if content_type in _HTML_TYPES or (content_type != "text/plain" and _A_TAG.search(text)):
            self._add_html(text)

    def _add_html(self, text: str) -> None:
        html, rest = text[: self.html_characters_left], text[self.html_characters_left :]
        self.html_characters_left -= len(html)
        page = read_html(html, LINKS_MAX + 1, self.markups_left, rest)
        tags = html.count("<")
        self.texts.append(TextPart("html-text", page.text))
        if page.shown:
            self.texts.append(TextPart("html-text", page.shown))
        self._add_links(links_of_page(page.links, f"{page.text}\n{page.shown}"))
        if rest or tags > self.markups_left or not page.whole:
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


def links_of_page(anchors: Sequence[Link], seen: str) -> list[Link]:
    """Return the links of HTML and the addresses written in its text, each once.

    What an anchor shows in its own place leads where the anchor does, whatever address it is.
    """
    written = links_in(seen)
    shown = {link.url for link in links_in("\n".join(link.shown or "" for link in anchors))} if written else ()
    links = {(link.url, link.shown): link for link in anchors}
    urls = {link.url for link in anchors}
    links |= {(link.url, None): link for link in written if link.url not in urls and link.url not in shown}
    return list(links.values())


def _trimmed(url: str) -> str:
    """Without the punctuation of the sentence around it; a closing bracket stays if it was opened within."""
    url = url.rstrip(_URL_ENDS)
    unopened = url.count(")") - url.count("(")
    if unopened > 0 and url.endswith(")"):
        closing = len(url) - len(url.rstrip(")"))
        url = url[: len(url) - min(unopened, closing)].rstrip(_URL_ENDS)
    return url


def _read_as(content_type: str, filename: str, octets: bytes) -> str:
    """The type that a part is read as; empty for a file that is not read."""
    form = _MEDIA_TYPE.fullmatch(content_type)
    if form is None or content_type in _HTML_TYPES or form[1] in ("text", "message"):
        return content_type or "text"
    if form[1] not in _KINDS_OF_FILES:
        return "" if b"\0" in octets else content_type
    return _TYPES_OF_ENDINGS.get(filename.rpartition(".")[2].strip().lower(), "") if form[1] == "application" else ""


def _disposition(leaf: Leaf, degraded: set[Degradation]) -> list[str]:
    """The disposition in lower case, the file name or an empty string, and other names that are given."""
    value = leaf.headers.get("content-disposition", "")
    disposition, parameters = header_parameters(value, degraded)
    given = [parameters.get("filename", ""), leaf.parameters.get("name", "")]
    if value.count("name") > 1:
        given += parameter_values(value, "filename", degraded)
    if "name" in leaf.parameters:
        given += parameter_values(leaf.headers.get("content-type", ""), "name", degraded)
    names = dict.fromkeys(decoded_header(name, degraded) for name in given if name)
    return [disposition, *(names or [""])]


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
