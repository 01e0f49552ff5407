"""Octets as text: charsets, transfer encodings, encoded words and header parameters (RFC 2045, 2047, 2231).

Nothing here raises; what cannot be decoded is read as far as it goes and named in `degraded`.
"""

from __future__ import annotations

import binascii
import codecs
import re
import string
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moderation.mail.parts import Degradation

# Codecs behind the labels of the WHATWG's Encoding standard, and three that only mail has. A label of another one, of
# EBCDIC for one, is passed over by mail programs, and two of Python's take quadratic time.
_CODECS = frozenset(
    ("ascii", "big5", "big5hkscs", "cp866", "cp874", "cp932", "cp949", "euc_jp", "euc_kr", "gb18030", "gb2312", "gbk",
     "hz", "iso2022_jp", "iso2022_kr", "koi8-r", "koi8-u", "mac-cyrillic", "mac-roman", "shift_jis", "tis-620",
     "utf-16", "utf-16-be", "utf-16-le", "utf-7", "utf-8", *(f"cp125{n}" for n in range(9)),
     *(f"iso8859-{n}" for n in range(1, 17)))
)  # fmt: skip
_PLAIN_CHARSETS = frozenset(("", "utf-8", "us-ascii", "utf8", "ascii"))
_ENCODED_WORD = re.compile(
    r"=\?([^?\s*]{1,40})(?:\*[^?\s]{0,40})?\?([bBqQ])\?([^?]*+)\?="
)  # the standard has no spaces within
_BETWEEN_WORDS = re.compile(r"(\?=)\s+(?==\?[^?\s]{1,80}\?[bBqQ]\?)")
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*+)"|([^;]*+))', re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*+"?)|\([^()"]*+\)', re.DOTALL)
_PIECE = re.compile(r"([^*]+)(?:\*(\d{1,3}))?(\*)?")
_MAIN_VALUE = re.compile(r"[^\s;]*")
_BASE64_PADDING_OCTETS = 2


def decoded_text(octets: bytes, charset: str, degraded: set[Degradation]) -> str:
    """The text of octets in a declared charset; undeclared ones are tried as UTF-8."""
    name = charset.strip().lower()
    try:
        if name in _PLAIN_CHARSETS:
            return octets.decode("utf-8")
        if codecs.lookup(name).name in _CODECS:
            return octets.decode(name, "strict")
    except (LookupError, ValueError):
        pass
    degraded.add("charset")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return octets.decode("latin-1" if name in ("", "us-ascii", "ascii") else "utf-8", "replace")


def transfer_encoding(value: str) -> str:
    """The name of a Content-Transfer-Encoding in lower case, without what some writers put around it."""
    if "(" in value:
        value = _COMMENT.sub(_keep_quoted, value)
    return value.partition(";")[0].strip(' \t"').lower()


def decoded_body(body: bytes, encoding: str, degraded: set[Degradation]) -> bytes:
    """The octets behind a Content-Transfer-Encoding."""
    name = transfer_encoding(encoding)
    if name == "base64":
        return _from_base64(body, degraded)
    if name == "quoted-printable":
        return binascii.a2b_qp(body)
    if name not in ("", "7bit", "8bit", "binary"):
        degraded.add("transfer-encoding")
    return body


_NOT_BASE64 = bytes(sorted(set(range(256)) - set(string.ascii_letters.encode() + string.digits.encode() + b"+/")))


def _from_base64(body: bytes, degraded: set[Degradation]) -> bytes:
    padding_at = body.find(b"=")
    if padding_at >= 0 and len(body[padding_at:].strip()) > _BASE64_PADDING_OCTETS:
        degraded.add("transfer-encoding")  # some readers go on behind the padding, this one does not
    try:
        return binascii.a2b_base64(body)
    except binascii.Error:
        degraded.add("transfer-encoding")
    symbols = (body if padding_at < 0 else body[:padding_at]).translate(None, _NOT_BASE64)
    whole = symbols[: len(symbols) - (len(symbols) % 4 == 1)]
    return binascii.a2b_base64(whole + b"=" * (-len(whole) % 4))


def decoded_header(value: str, degraded: set[Degradation]) -> str:
    """An unstructured value or a phrase as a reader shows it; raw octets (surrogates) are tried as UTF-8."""
    if not value.isascii():
        value = _without_surrogates(value, degraded)
    if "=?" not in value:
        return value
    return "".join(_decoded_words(_BETWEEN_WORDS.sub(r"\1", value), degraded))


def _without_surrogates(value: str, degraded: set[Degradation]) -> str:
    octets = value.encode("utf-8", "surrogateescape")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        degraded.add("charset")
        return octets.decode("latin-1")


def _decoded_words(value: str, degraded: set[Degradation]) -> Iterator[str]:
    """Adjacent words of one charset are joined before decoding, since some writers split characters."""
    at, pending, pending_charset = 0, b"", ""
    for word in _ENCODED_WORD.finditer(value):
        charset = word[1].lower()
        if pending and (word.start() > at or charset != pending_charset):
            yield decoded_text(pending, pending_charset, degraded)
            pending = b""
        yield value[at : word.start()]
        pending += _word_octets(word, degraded)
        at, pending_charset = word.end(), charset
    if pending:
        yield decoded_text(pending, pending_charset, degraded)
    yield value[at:]


def _word_octets(word: re.Match[str], degraded: set[Degradation]) -> bytes:
    octets = word[3].encode("utf-8")
    if word[2] in "qQ":
        return binascii.a2b_qp(octets, header=True)
    return _from_base64(octets, degraded)


def header_parameters(value: str, degraded: set[Degradation]) -> tuple[str, dict[str, str]]:
    """The main value in lower case and the parameters, RFC 2231 pieces joined; the first of equal names counts.

    The semicolon behind the main value may be missing, as some writers have it.
    """
    main, parameters = _parameters(value)
    plain: dict[str, str] = {}
    pieces: dict[str, list[tuple[int, str, bool]]] = {}
    for name, text in parameters:
        form = _PIECE.fullmatch(name)
        if form is None or not (form[2] or form[3]):
            plain.setdefault(name, text)
        else:
            pieces.setdefault(form[1], []).append((int(form[2] or 0), text, bool(form[3])))
    for name, parts in pieces.items():
        plain[name] = _joined(sorted(parts), degraded)
    return main, plain


def parameter_values(value: str, name: str, degraded: set[Degradation]) -> list[str]:
    """All values of a parameter that stand there whole, the first of equal names and the others."""
    return [
        _joined([(0, text, True)], degraded) if found.endswith("*") else text
        for found, text in _parameters(value)[1]
        if found.rstrip("*") == name
    ]


def _parameters(value: str) -> tuple[str, list[tuple[str, str]]]:
    """The main value in lower case, and names in lower case with values as they are written."""
    if "(" in value:
        value = _COMMENT.sub(_keep_quoted, value)
    value = value.strip()
    match = _MAIN_VALUE.match(value)
    main = match[0] if match else ""
    if len(main) == len(value):
        return main.lower(), []
    return main.lower(), [
        (found[1].lower(), _QUOTED_PAIR.sub(r"\1", found[2]) if found[2] is not None else found[3].strip())
        for found in _PARAMETER.finditer(f";{value[len(main) :]}")
    ]


def _keep_quoted(match: re.Match[str]) -> str:
    return match[1] or ""


def _joined(pieces: list[tuple[int, str, bool]], degraded: set[Degradation]) -> str:
    charset, octets = "utf-8", b""
    for position, (_, text, extended) in enumerate(pieces):
        encoded = text
        if extended and position == 0 and encoded.count("'") >= 2:
            charset, _, encoded = encoded.split("'", 2)
        raw = encoded.encode("utf-8", "surrogateescape")
        octets += unquote_to_bytes(raw) if extended else raw
    return decoded_text(octets, charset, degraded)
