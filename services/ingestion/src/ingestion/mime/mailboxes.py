"""Address lists of headers that others wrote (RFC 5322, 3.4), in one pass whatever they hold."""

from __future__ import annotations

import binascii
import re
from email.errors import CharsetError, HeaderParseError
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
_IN_COMMENT = re.compile(r"\\.|[()]", re.DOTALL)
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
    at = 0
    while (token := _TOKEN.match(value, at)) is not None:
        kind, text = token.lastgroup, token[token.lastgroup or 0]
        at = token.end()
        if text == "(" and kind == "mark":
            at = _after_comment(value, at)
        elif text == ")" and kind == "mark":
            raise AddressListError("has a closing bracket too many")
        elif kind == "mark":
            if text != ":":  # what precedes a colon is the name of a group
                entry.add_to(found, field)
            entry = _Entry()
        elif kind == "broken":
            raise AddressListError("has a quote or an angle bracket without its partner")
        else:
            entry.take(kind or "", text)
    entry.add_to(found, field)
    return found


def _after_comment(value: str, at: int) -> int:
    """Past the comment whose opening bracket ends at `at`; quotes mean nothing in one (RFC 5322, 3.2.2)."""
    depth = 1
    for mark in _IN_COMMENT.finditer(value, at):
        if mark[0] in ("(", ")"):
            depth += 1 if mark[0] == "(" else -1
        if not depth:
            return mark.end()
    raise AddressListError("has an opening bracket too many")


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
    except (CharsetError, HeaderParseError, LookupError, ValueError, binascii.Error):
        return phrase
