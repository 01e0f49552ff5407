"""HTML as the text that a reader may see and the links behind it, in one pass over the tags.

Hidden text is text here too: what is hidden from the recipient is worth screening. Scripts and styles are left out.
"""

from __future__ import annotations

import re
from html import unescape

from moderation.mail.parts import Link

# The attribute grammar of the HTML standard's tokenizer, 13.2.5.32 to 13.2.5.39; possessive, so no tag is read twice.
_ATTRIBUTE = (
    r"""[\s/]*+([^\s/>][^\s/>=]*+)"""
    r"""(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>"'][^\s>]*+)|(?=>)))?+"""
)
_ATTRIBUTES = re.compile(_ATTRIBUTE)
_UNCAPTURED = re.sub(r"\((?!\?)", "(?:", _ATTRIBUTE)
_TAG = re.compile(rf"<(/?)([a-zA-Z][^\s/>]*+)((?:{_UNCAPTURED})*+)[\s/]*+>")
_MARKUP = re.compile(r"<(?=[a-zA-Z/!?])")  # another angle bracket is text
_TAG_START = re.compile(r"</?[a-zA-Z]")
_COMMENT_END = re.compile(r"--!?>")
_CONDITIONAL = re.compile(r"<!--\[if[^\]<>]{0,80}\]>(?:<!-->|-->)?", re.IGNORECASE)  # shown by some readers
_URL_NOISE = re.compile(r"[\t\r\n]")
_UNSEEN = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in ("script", "style")}
_ADDRESS_ATTRIBUTE = {"a": "href", "area": "href", "base": "href", "form": "action", "iframe": "src", "img": "src"}
_SEPARATE_LINES = frozenset(
    ("address", "article", "aside", "blockquote", "br", "center", "dd", "div", "dl", "dt", "footer", "form", "header")
) | frozenset(
    (
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "li",
        "main",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "table",
        "title",
        "tr",
        "ul",
    )
)
_SEPARATE_WORDS = frozenset(("td", "th", "option", "img", "input", "button", "select"))


MARKUPS_MAX = 8_000
"""Tags, comments and declarations of a mail that are read; what follows is text with its tags."""


def read_html(html: str, links_max: int, markups_max: int = MARKUPS_MAX) -> tuple[str, list[Link]]:
    """The text of an HTML document, lines apart where blocks are, and at most `links_max` links in their order."""
    scanner = _Scanner(html, links_max, markups_max)
    scanner.scan()
    lines = (" ".join(line.split()) for line in "".join(scanner.pieces).split("\n"))
    return "\n".join(line for line in lines if line), scanner.links


class _Scanner:
    def __init__(self, html: str, links_max: int, markups_max: int) -> None:
        self.html = html
        self.markups_max = markups_max
        self.links_max = links_max
        self.pieces: list[str] = []
        self.links: list[Link] = []
        self.anchor: tuple[str, int] | None = None

    def scan(self) -> None:
        html, at, markups = self.html, 0, 0
        while (start := _MARKUP.search(html, at)) is not None and markups < self.markups_max:
            tag_at, markups = start.start(), markups + 1
            self._text(html[at:tag_at])
            tag = _TAG.match(html, tag_at)
            if tag is not None:
                at = self._tag(tag)
            elif _TAG_START.match(html, tag_at):
                at = tag_at + 1  # a tag that never ends: the rest is text, and no tag in it is looked for
                break
            else:
                at = self._markup(tag_at)
        self._text(html[at:])
        self._close_anchor()

    def _markup(self, at: int) -> int:
        """Past a comment or a declaration."""
        html = self.html
        if conditional := _CONDITIONAL.match(html, at):
            return conditional.end()
        if html.startswith("<!--", at):
            end = _COMMENT_END.search(html, at + 2)
            return end.end() if end else len(html)
        closing = html.find(">", at)
        return closing + 1 if closing >= 0 else len(html)

    def _text(self, raw: str) -> None:
        if raw:
            text = raw.replace("\n", " ")  # runs of white space are joined at the end
            self.pieces.append(unescape(text) if "&" in text else text)

    def _tag(self, tag: re.Match[str]) -> int:
        name = tag[2].lower()
        if name == "a":
            self._close_anchor()
        if not tag[1] and name in _ADDRESS_ATTRIBUTE:
            self._address(name, tag[3])
        if name in _SEPARATE_LINES:
            self.pieces.append("\n")
        elif name in _SEPARATE_WORDS:
            self.pieces.append(" ")
        if not tag[1] and name in _UNSEEN:
            end = _UNSEEN[name].search(self.html, tag.end())
            return end.start() if end else len(self.html)
        return tag.end()

    def _address(self, name: str, attributes: str) -> None:
        wanted = _ADDRESS_ATTRIBUTE[name]
        for attribute, double, single, bare in _ATTRIBUTES.findall(attributes):
            if attribute.lower() == wanted:
                url = _URL_NOISE.sub("", unescape(double or single or bare)).strip()
                if name == "a":
                    self.anchor = url, len(self.pieces)
                else:
                    self._link(url, None)
                return

    def _close_anchor(self) -> None:
        if self.anchor is not None:
            url, start = self.anchor
            self.anchor = None
            self._link(url, " ".join("".join(self.pieces[start:]).split()) or None)

    def _link(self, url: str, shown: str | None) -> None:
        if url and not url.startswith(("#", "cid:", "data:image/")) and len(self.links) < self.links_max:
            self.links.append(Link(url, shown))
