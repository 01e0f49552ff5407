"""Header lines of a composed mail (RFC 5322, 2047, 2231): values are checked and refused, never repaired.

Lines stay within 78 characters where their words allow it. All is ASCII, save an address with a local part that is not.
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING

from ingestion.mime.address import parse_address
from ingestion.mime.content import NAME_CHARACTERS_MAX, ContentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingestion.mime.content import Mailbox

LINE_CHARACTERS = 78
ENCODED_WORD_CHARACTERS = 75
ENCODED_LINE_CHARACTERS = 76  # RFC 2047, section 2: the limit of a line that holds an encoded word
_ENCODED_WORD_OVERHEAD = len("=?utf-8?b??=")
_LONGEST_PLAIN_NAME = 60
_LONGEST_PLAIN_WORD = 60
_LONGEST_PLAIN_FILENAME = 60
_PARAMETER_PIECE_CHARACTERS = 54

# Line ends and controls; U+2028 and U+2029 end lines for some readers; a lone surrogate is no character (RFC 3629).
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PLAIN_TEXT = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_PLAIN_PHRASE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_PLAIN_FILENAME = re.compile(r"[!#-\[\]-~](?:[ !#-\[\]-~]*[!#-\[\]-~])?")
_QUOTED_PAIRS = str.maketrans({"\\": "\\\\", '"': '\\"'})
_Q_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
_Q_ENCODED = tuple(
    "_" if octet == 0x20 else chr(octet) if octet in _Q_SAFE else f"={octet:02X}" for octet in range(256)
)
_ATTRIBUTE_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&+-.^_`{|}~")
_PERCENT_ENCODED = tuple(chr(octet) if octet in _ATTRIBUTE_SAFE else f"%{octet:02X}" for octet in range(256))


def checked(value: str, field: str, characters_max: int) -> str:
    """The value itself, if a header may hold it; its length is looked at first.

    Raises:
        ContentError: too long, or it holds a line end or another control character.
    """
    if len(value) > characters_max:
        raise ContentError(field, f"is longer than {characters_max} characters", characters_max)
    if _FORBIDDEN.search(value):
        raise ContentError(field, "holds a line break, a control character or half a surrogate pair: take it out")
    return value


def unstructured_line(header: str, value: str) -> str:
    """`header: value` with its line end, folded or in encoded words where needed; the value must be checked."""
    plain = "=?" not in value and (not value or _PLAIN_TEXT.fullmatch(value) is not None)
    if plain and len(header) + 2 + len(value) <= LINE_CHARACTERS:
        return f"{header}: {value}\r\n"
    words = value.split(" ") if plain and "  " not in value else []
    if words and max(map(len, words)) <= _LONGEST_PLAIN_WORD:
        return f"{header}: {_folded(words, len(header) + 2)}\r\n"
    return f"{header}: {_encoded_words(value, len(header) + 2)}\r\n"


def mailbox_line(header: str, mailbox: Mailbox, field: str) -> str:
    """`header: name <address>` with its line end.

    Raises:
        ContentError: the name or the address cannot stand in a header; names `field`.name or `field`.address.
    """
    address = parse_address(mailbox.address, field=f"{field}.address")
    if mailbox.name is None:
        return f"{header}: {address}\r\n"
    name = checked(mailbox.name, f"{field}.name", NAME_CHARACTERS_MAX)
    if not name or name.isspace():
        raise ContentError(f"{field}.name", "is blank: leave it out or write a name")
    phrase = _phrase(name, len(header) + 2)
    last_line = len(phrase) + len(header) + 2 if "\n" not in phrase else len(phrase) - phrase.rindex("\n") - 1
    gap = " " if last_line + len(address) + 3 <= LINE_CHARACTERS else "\r\n "
    return f"{header}: {phrase}{gap}<{address}>\r\n"


def filename_parameter(filename: str) -> str:
    """The `filename` parameter of Content-Disposition, folded; RFC 2231 pieces where quotes would not do."""
    if len(filename) <= _LONGEST_PLAIN_FILENAME and _PLAIN_FILENAME.fullmatch(filename) and "=?" not in filename:
        return f';\r\n filename="{filename}"'
    pieces = list(_percent_pieces(filename))
    if len(pieces) == 1:
        return f";\r\n filename*=utf-8''{pieces[0]}"
    numbered = [f"\r\n filename*{number}*={piece}" for number, piece in enumerate(pieces)]
    numbered[0] = f"\r\n filename*0*=utf-8''{pieces[0]}"
    return ";" + ";".join(numbered)


def _phrase(name: str, used: int) -> str:
    if len(name) <= _LONGEST_PLAIN_NAME and "=?" not in name and _PLAIN_TEXT.fullmatch(name):
        return name if _PLAIN_PHRASE.fullmatch(name) else f'"{name.translate(_QUOTED_PAIRS)}"'
    return _encoded_words(name, used)


def _folded(words: list[str], used: int) -> str:
    lines, line = [], words[0]
    for word in words[1:]:
        if used + len(line) + 1 + len(word) > LINE_CHARACTERS:
            lines.append(line)
            line, used = word, 1
        else:
            line = f"{line} {word}"
    return "\r\n ".join([*lines, line])


def _encoded_words(text: str, used: int) -> str:
    """Base64 words for text beyond ASCII, and the readable Q encoding for ASCII that needs it."""
    pieces = _q_pieces(text, used) if text.isascii() else _base64_pieces(text.encode(), used)
    return "\r\n ".join(pieces)


def _base64_pieces(octets: bytes, used: int) -> Iterator[str]:
    start = 0
    while start < len(octets):
        room = _encoded_room(used) // 4 * 3
        end = start + room
        while end < len(octets) and octets[end] & 0xC0 == 0x80:  # never inside a character
            end -= 1
        yield f"=?utf-8?b?{binascii.b2a_base64(octets[start:end], newline=False).decode('ascii')}?="
        start, used = end, 1


def _q_pieces(text: str, used: int) -> Iterator[str]:
    piece = ""
    for octet in text.encode("ascii"):
        encoded = "_" if octet == 0x20 else _Q_ENCODED[octet]
        if len(piece) + len(encoded) > _encoded_room(used):
            yield f"=?utf-8?q?{piece}?="
            piece, used = "", 1
        piece += encoded
    yield f"=?utf-8?q?{piece}?="


def _encoded_room(used: int) -> int:
    return min(ENCODED_WORD_CHARACTERS, ENCODED_LINE_CHARACTERS - used) - _ENCODED_WORD_OVERHEAD


def _percent_pieces(filename: str) -> Iterator[str]:
    piece = ""
    for character in filename:
        encoded = "".join(_PERCENT_ENCODED[octet] for octet in character.encode())
        if len(piece) + len(encoded) > _PARAMETER_PIECE_CHARACTERS:
            yield piece
            piece = ""
        piece += encoded
    yield piece
