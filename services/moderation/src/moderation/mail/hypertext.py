"""HTML as the text that a reader may see and the links behind it, in one pass over the tags.

Hidden text is text here too: what is hidden from the recipient is worth screening. Scripts and styles are left out.
Where hidden elements stand within what is seen, a second pass reads the page without them: they may part words.
"""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from typing import NamedTuple

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
_DECLARATION_END = re.compile(">")
_CONDITIONAL = re.compile(r"<!--\[if[^\]<>]{0,80}\]>(?:<!-->|-->)?", re.IGNORECASE)  # shown by some readers
_URL_NOISE = re.compile(r"[\t\r\n]")
_UNSEEN = frozenset(("script", "style"))
_RAW_ENDS = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in (*_UNSEEN, "title", "textarea", "xmp", "iframe", "noembed", "noframes")
}
"""Elements in which no tag and no comment begins."""
_MARKS = re.compile(r"<[a-zA-Z/!?][^<>]*+>")
# Where a script or style is none, as within svg or select, the end of what surrounds it or one of these shows it.
_SEEN_AFTER_ALL = re.compile(
    r"</[a-z]|<(?:b|big|blockquote|body|br|center|code|dd|div|dl|dt|em|embed|font|h[1-6]|head|hr|i|img|li|listing|menu"
    r"|meta|nobr|ol|p|pre|ruby|s|small|span|strong|strike|sub|sup|table|tt|u|ul|var)[\s/>]",
    re.IGNORECASE,
)
_CDATA = "<![CDATA["
_VOID = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")
)
_MAY_DIFFER = re.compile(r"hidden|display|visibility|font-size|<(?:img|input|select)", re.IGNORECASE)
_STYLE_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_HIDDEN_STYLE = re.compile(
    r"display\s*+:\s*+none|visibility\s*+:\s*+(?:hidden|collapse)"
    r"|font-size\s*+:\s*+(?:0+(?:\.0*)?(?![.\d])|\.0+(?!\d)|[01]?(?:\.\d+)?(?:px|pt))",
    re.IGNORECASE,
)
_INLINE_STYLE = re.compile(r"display\s*+:\s*+(?:inline|contents)", re.IGNORECASE)
_SELECTOR = re.compile(r"[.#]?[\w-]+")
_HIDDEN_ATTRIBUTES = frozenset(
    (("input", "type", "hidden"), *(("img", size, value) for size in ("width", "height") for value in ("0", "1")))
)
_WITHOUT_VALUE_SHOWN = frozenset(("checkbox", "hidden", "radio"))
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
_WITHOUT_SPACE = frozenset(("img", "input", "select"))


MARKUPS_MAX = 8_000
"""Tags, comments and declarations of a mail that are read; what follows is text with its tags."""


class Page(NamedTuple):
    """What an HTML document says: its text, lines apart where blocks are, and its links in their order.

    `shown` is the text without what is hidden, empty where no line of it differs. `whole` is false where a script, a
    style or a comment never ends; what follows is in the text.
    """

    text: str
    links: list[Link]
    shown: str
    whole: bool


def read_html(html: str, links_max: int, markups_max: int = MARKUPS_MAX, rest: str = "") -> Page:
    """Read an HTML document, and at most `links_max` of its links; `rest` stands behind it and is text as it is.

    What a comment that ends in the rest hides is read behind it: so large a comment would leave no room for the rest.
    """
    scanner = _Scanner(html, links_max, markups_max, whole=not rest)
    scanner.scan()
    lines = scanner.lines()
    shown: list[str] = []
    if _MAY_DIFFER.search(html):
        again = _Scanner(html, 0, markups_max, _Elements(_hiding(scanner.styles)), whole=not rest)
        again.scan()
        shown = again.lines()
        if set(lines).issuperset(shown):
            shown = []
    text = "\n".join(lines) + rest + _MARKS.sub("", scanner.swallowed)
    return Page(text, scanner.links, "\n".join(shown), not scanner.cut)


def _hiding(styles: list[str]) -> frozenset[str]:
    """Return the names, `.classes` and `#ids` of elements that rules hide."""
    found: set[str] = set()
    for rule in _without_comments("}".join(styles)).split("}"):
        head, _, body = rule.rpartition("{")
        if _HIDDEN_STYLE.search(body):
            for selector in head.rpartition("{")[2].split(","):
                found.update(_SELECTOR.findall("".join(selector.split()[-1:]))[-1:])
    return frozenset(found)


def _without_comments(style: str) -> str:
    return _STYLE_COMMENT.sub("", style) if style.count("/*") == style.count("*/") else style


class _Elements:
    """Which elements are open, and whether one of them is hidden."""

    def __init__(self, hiding: frozenset[str]) -> None:
        self.hiding = hiding
        self.open: list[tuple[str, bool]] = []
        self.count: Counter[str] = Counter()
        self.hidden_from: int | None = None

    def start(self, name: str, attributes: str) -> tuple[bool, bool]:
        """Return whether an element that starts here is hidden, and whether it stays in its line."""
        if self.count["p"] and name in _SEPARATE_LINES and name != "br":
            self.end("p")
        hidden, inline = self._style(name, attributes)
        if name not in _VOID:
            if hidden and self.hidden_from is None:
                self.hidden_from = len(self.open)
            self.open.append((name, inline))
            self.count[name] += 1
        return hidden or self.hidden_from is not None, inline

    def end(self, name: str) -> tuple[bool, bool]:
        """Return the same of an element that ends here."""
        hidden, inline = self.hidden_from is not None, False
        if self.count[name]:
            last = ""
            while last != name:
                last, inline = self.open.pop()
                self.count[last] -= 1
            if self.hidden_from is not None and len(self.open) <= self.hidden_from:
                self.hidden_from = None
        return hidden, inline

    def _style(self, name: str, attributes: str) -> tuple[bool, bool]:
        hidden, inline = name in self.hiding, False
        for attribute, value in _values(attributes) if attributes else ():
            if attribute == "style":
                style = _without_comments(value)
                hidden = hidden or _HIDDEN_STYLE.search(style) is not None
                inline = _INLINE_STYLE.search(style) is not None
            elif attribute == "hidden" or (name, attribute, value.lower()) in _HIDDEN_ATTRIBUTES:
                hidden = True
            elif attribute == "class":
                hidden = hidden or any(f".{word}" in self.hiding for word in value.split())
            elif attribute == "id":
                hidden = hidden or f"#{value}" in self.hiding
        return hidden, inline


def _values(attributes: str) -> list[tuple[str, str]]:
    return [
        (attribute.lower(), unescape(double or single or bare).strip())
        for attribute, double, single, bare in _ATTRIBUTES.findall(attributes)
    ]


class _Scanner:
    """One pass; with `elements` it reads only what they show, and puts no space where a reader sees none."""

    def __init__(
        self, html: str, links_max: int, markups_max: int, elements: _Elements | None = None, *, whole: bool
    ) -> None:
        self.html = html
        self.markups_max = markups_max
        self.links_max = links_max
        self.elements = elements
        self.hidden = False
        self.pieces: list[str] = []
        self.instead: set[int] = set()  # pieces that stand for pictures and fields: no link shows them as its address
        self.links: list[Link] = []
        self.anchor: tuple[str, int] | None = None
        self.styles: list[str] = []
        self.endless: set[str] = set()  # what was looked for in vain, so that it is not looked for again
        self.cut = False
        self.whole = whole
        self.swallowed = ""

    def lines(self) -> list[str]:
        """Return the text's lines."""
        lines = (" ".join(line.split()) for line in "".join(self.pieces).split("\n"))
        return [line for line in lines if line]

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
        if html.startswith(_CDATA, at):
            return at + len(_CDATA)
        comment = html.startswith("<!--", at)
        kind = "comment" if comment else "declaration"
        if kind not in self.endless:
            end = _COMMENT_END.search(html, at + 2) if comment else _DECLARATION_END.search(html, at)
            if end is not None:
                return end.end()
            self.endless.add(kind)
        return self._swallowed_from(at + 2)

    def _text(self, raw: str) -> None:
        if raw and not self.hidden:
            text = raw.replace("\n", " ")  # runs of white space are joined at the end
            self.pieces.append(unescape(text) if "&" in text else text)

    def _tag(self, tag: re.Match[str]) -> int:
        name, starts = tag[2].lower(), not tag[1]
        if name == "a":
            self._close_anchor()
        if starts and name in _ADDRESS_ATTRIBUTE:
            self._address(name, tag[3])
        if self.elements is None:
            self._separate(name, hidden=False, inline=False)
        else:
            hidden, inline = self.elements.start(name, tag[3]) if starts else self.elements.end(name)
            self.hidden = self.elements.hidden_from is not None
            self._separate(name, hidden=hidden, inline=inline)
            if hidden and name in _VOID:
                return tag.end()
        if starts and name in ("img", "area", "input"):
            self._instead(name, tag[3])
        return self._raw(name, tag.end()) if starts and name in _RAW_ENDS else tag.end()

    def _separate(self, name: str, *, hidden: bool, inline: bool) -> None:
        if hidden:
            return
        if name in _SEPARATE_LINES and not inline:
            self.pieces.append("\n")
        elif name in _SEPARATE_WORDS and (self.elements is None or name not in _WITHOUT_SPACE):
            self.pieces.append(" ")

    def _instead(self, name: str, attributes: str) -> None:
        """Add what stands for a picture or in a field."""
        values = dict(reversed(_values(attributes)))
        wanted = ["alt"]
        if name == "input" and values.get("type", "").lower() not in _WITHOUT_VALUE_SHOWN:
            wanted.append("value")
        for attribute in wanted:
            if (text := values.get(attribute)) and not self.hidden:
                self.instead.add(len(self.pieces))
                self.pieces.append(f" {text} ".replace("\n", " "))

    def _swallowed_from(self, at: int) -> int:
        """Where to go on in a comment, a script or a style that has no end here."""
        self.cut = True
        if self.whole:
            return at
        self.swallowed = self.html[at:]
        return len(self.html)

    def _raw(self, name: str, at: int) -> int:
        """Past the content of an element in which no tag begins; what a reader may see of it is text."""
        end = None if name in self.endless else _RAW_ENDS[name].search(self.html, at)
        if end is None:
            self.endless.add(name)
            return self._swallowed_from(at) if name in _UNSEEN else at
        inside = self.html[at : end.start()]
        if name == "style":
            self.styles.append(inside)
        if name not in _UNSEEN or _SEEN_AFTER_ALL.search(inside):
            self._text(_MARKS.sub("", inside))
        return end.start()

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
            shown = (piece for at, piece in enumerate(self.pieces[start:], start) if at not in self.instead)
            self._link(url, " ".join("".join(shown).split()) or None)

    def _link(self, url: str, shown: str | None) -> None:
        if url and not url.startswith(("#", "cid:", "data:image/")) and len(self.links) < self.links_max:
            self.links.append(Link(url, shown))
