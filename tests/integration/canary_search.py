"""Looks for words in everything a stack keeps, in every disguise that software commonly gives to text."""

from __future__ import annotations

import base64
import errno
import json
import os
import urllib.parse
from typing import TYPE_CHECKING, NamedTuple

import asyncpg
import re2
from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, zstd_decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

BATCH_HEADER_BYTES = 61
DECODERS = {1: gzip_decode, 2: snappy_decode, 3: lz4_decode, 4: zstd_decode}
COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")


class Find(NamedTuple):
    """Which word was found where, and in which disguise."""

    word: str
    disguise: str
    place: str


def disguises(word: str) -> dict[bytes, str]:
    """Every form to look for, with its name."""
    found: dict[bytes, str] = {}
    for text in dict.fromkeys((word, word.lower(), word.upper(), word.title())):
        for quoted in (text.encode(), text.encode("latin-1")):
            printable = b"".join(b"%c" % byte if byte < 0x80 else b"=%02X" % byte for byte in quoted)
            found[printable] = "quoted-printable"
            url = urllib.parse.quote_from_bytes(quoted).encode()
            found |= {url: "url", _lower_escapes(url): "url"}
        escaped = json.dumps(text)[1:-1].encode()
        found |= {escaped: "json", escaped.replace(b"\\", b"\\\\"): "json in json"}
        found["".join(c if c.isascii() else f"&#{ord(c)};" for c in text).encode()] = "html"
        for encoding in ("utf-16-be", "utf-16-le", "latin-1", "utf-8"):
            _add(found, text.encode(encoding), encoding)
    return found


def _add(found: dict[bytes, str], data: bytes, encoding: str) -> None:
    found[data] = encoding
    found |= {data.hex().encode(): f"hex of {encoding}", data.hex().upper().encode(): f"hex of {encoding}"}
    for lead, dropped in ((0, 0), (1, 2), (2, 3)):
        whole = (lead + len(data)) // 3 * 3
        for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
            found[alphabet((b"\x00" * lead + data)[:whole])[dropped:]] = f"base64 of {encoding}"


def _lower_escapes(url: bytes) -> bytes:
    parts = url.split(b"%")
    return b"%".join([parts[0], *(part[:2].lower() + part[2:] for part in parts[1:])])


class Search:
    """Finds words in named pieces of data."""

    def __init__(self, words: Sequence[str]) -> None:
        self._disguises = {form: (word, name) for word in words for form, name in disguises(word).items()}
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.literal = False
        options.max_mem = 256 << 20
        self._pattern = re2.compile(b"|".join(re2.escape(form) for form in self._disguises), options)
        self.bytes_seen = 0

    def look(self, place: str, data: bytes) -> set[Find]:
        """Look into data as it is, and with the line breaks of mail and JSON taken out."""
        self.bytes_seen += len(data)
        unfolded = data.replace(b"=\r\n", b"").replace(b"\\r\\n", b"").replace(b"\\n", b"").translate(None, b"\r\n")
        found = set()
        for suffix, version in (("", data), (", unfolded", unfolded)):
            if self._pattern.search(version) is None:
                continue
            for form, (word, name) in self._disguises.items():
                if form in version:
                    found.add(Find(word, name + suffix, place))
        return found


def files(home: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a stack by its path, the path itself included; a file that goes away meanwhile is left out."""
    for path in sorted(home.rglob("*")):
        name = str(path.relative_to(home))
        try:
            content = _content(path) if path.is_file() else b""
        except FileNotFoundError:
            continue
        yield name, name.encode() + b"\n" + content


def _content(path: Path) -> bytes:
    """A file without its holes: Kafka's indexes are 10 MB each and all but empty."""
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        if state.st_blocks * 512 >= state.st_size:
            return file.read()
        parts, end = [], 0
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return b"".join(parts)
                raise
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            parts.append(os.pread(file.fileno(), end - start, start))


def decompressed(home: Path) -> Iterator[tuple[str, bytes]]:
    """What stands in the compressed batches of Kafka's log segments."""
    for path in sorted((home / "kafka").rglob("*.log")):
        data = path.read_bytes()
        for offset, codec, payload in _batches(data):
            if codec:
                yield f"{path.relative_to(home)} batch at {offset}, {COMPRESSIONS[codec]}", DECODERS[codec](payload)


def _batches(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Record batches of format 2: position, codec, records."""
    start = 0
    while start + BATCH_HEADER_BYTES <= len(data):
        end = start + 12 + int.from_bytes(data[start + 8 : start + 12], "big")
        if end <= start + BATCH_HEADER_BYTES or end > len(data):
            return
        yield start, int.from_bytes(data[start + 21 : start + 23], "big") & 0x07, data[start + BATCH_HEADER_BYTES : end]
        start = end


async def rows(dsn_of, databases: Sequence[str]) -> list[tuple[str, bytes]]:
    """Every value of every table (compressed ones are stored unreadably, so the files alone do not tell)."""
    found = []
    for database in databases:
        connection = await asyncpg.connect(dsn_of(database))
        try:
            tables = await connection.fetch(
                "SELECT schemaname, tablename FROM pg_tables WHERE schemaname <> 'information_schema'"
                " AND (schemaname <> 'pg_catalog' OR tablename IN ('pg_statistic', 'pg_description', 'pg_largeobject'))"
            )
            for schema, table in tables:
                columns = await _columns(connection, schema, table)
                values = await connection.fetch(f'SELECT {columns} FROM "{schema}"."{table}"')
                content = b"\n".join(_bytes(value) for row in values for value in row)
                found.append((f"database {database}, table {table}", content))
            queries = await connection.fetch("SELECT query FROM pg_stat_activity")
            found.append((f"database {database}, statements", b"\n".join(_bytes(row["query"]) for row in queries)))
        finally:
            await connection.close()
    return found


async def _columns(connection, schema: str, table: str) -> str:
    """Select bytes as bytes and everything else as text, whatever its type."""
    query = (
        "SELECT attname, atttypid = 'bytea'::regtype AS is_bytes FROM pg_attribute"
        " WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    columns = await connection.fetch(query, f'"{schema}"."{table}"')
    return ", ".join(f'"{name}"' if is_bytes else f'"{name}"::text' for name, is_bytes in columns)


def _bytes(value: str | bytes | None) -> bytes:
    return value if isinstance(value, bytes) else (value or "").encode()
