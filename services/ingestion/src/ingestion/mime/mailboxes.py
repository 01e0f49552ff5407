"""Address lists of headers that others wrote (RFC 5322, 3.4), in one pass whatever they hold."""

from __future__ import annotations

import binascii
import re
from email.errors import HeaderParseError
from email.header import decode_header, make_header

from ingestion.mime.address import parse_address
from ingestion.mime.content import Mailbox

_TOKEN = re.compile(
    r"""(?P<space>[ \t]+)
    |"(?P<quoted>(?:[^"\\]|\\.)*)"
    |<(?P<angle>[^<>]*)>
    |(?P<mark>[,:;()])
    |(?P<plain>[^ \t"<>,:;()]+)
    |(?P<broken>.)""",
    re.VERBOSE | re.DOTALL,
)
_QUOTED_PAIR = re.compile(r"\\(.)")
_DECODED_NAME_CHARACTERS_MAX = 1_000


class AddressListError(ValueError):
    """A header is no list of addresses; the text says why."""


def mailboxes(value: str, *, field: str) -> list[Mailbox]:
    """The mailboxes of an unfolded From, To or Cc value, groups flattened and comments left out.

    Raises:
        AddressListError: quotes, brackets or commas do not fit together.
        ContentError: an address that `parse_address` refuses, for `field`.
    """
    found: list[Mailbox] = []
    entry = _Entry()
    depth = 0
    for token in _TOKEN.finditer(value):
        kind, text = token.lastgroup, token[token.lastgroup or 0]
        if kind == "mark" and text in "()":
            depth += 1 if text == "(" else -1
            if depth < 0:
                raise AddressListError("has a closing bracket too many")
        elif depth:
            continue
        elif kind == "mark":
            if text != ":":  # what precedes a colon is the name of a group
                entry.add_to(found, field)
            entry = _Entry()
        elif kind == "broken":
            raise AddressListError("has a quote or an angle bracket without its partner")
        else:
            entry.take(kind or "", text)
    if depth:
        raise AddressListError("has an opening bracket too many")
    entry.add_to(found, field)
    return found


class _Entry:
    """What stands between two commas."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.quoted = False
        self.angle: str | None = None

    def take(self, kind: str, text: str) -> None:
        if self.angle is not None and kind != "space":
            raise AddressListError("has something after an angle bracket where a comma should stand")
        if kind == "angle":
            self.angle = text.strip(" \t")
        else:
            self.quoted = self.quoted or kind == "quoted"
            self.words.append(_QUOTED_PAIR.sub(r"\1", text) if kind == "quoted" else text)

    def add_to(self, found: list[Mailbox], field: str) -> None:
        phrase = "".join(self.words).strip(" \t")
        if self.angle is not None:
            name = phrase if self.quoted else _decoded(phrase)
            found.append(Mailbox(parse_address(self.angle, field=field), name or None))
        elif phrase:
            found.append(Mailbox(parse_address(phrase, field=field)))


def _decoded(phrase: str) -> str:
    """Encoded words as text (RFC 2047); as they stand where they cannot be read."""
    if "=?" not in phrase or len(phrase) > _DECODED_NAME_CHARACTERS_MAX:
        return phrase
    try:
        return str(make_header(decode_header(phrase)))
    except (HeaderParseError, LookupError, ValueError, binascii.Error):
        return phrase
