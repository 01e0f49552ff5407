"""What a message carries, as 64-bit hashes: its links, its files, and sketches of its text. No I/O.

A sketch is the hash of two minima of the text's byte shingles under two permutations (MinHash, Broder 1997; sketches
as in Broder et al. 1997, "Syntactic clustering of the Web"). Two texts whose shingles have Jaccard similarity J share a
sketch with probability J squared; they count as alike when three of four sketches are the same: 83 % of pairs with
J = 0.9, 5 % with J = 0.5.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from moderation.links import host_of
from moderation.lists import PREFIX_BYTES, address_expressions, hosts_of, path_of, prefix_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moderation.mail import MailParts

SKETCHES = 4
SKETCHES_ALIKE = 3
SHINGLE_BYTES = 8
TEXT_BYTES_MIN = 64
TEXT_BYTES_MAX = 8192
HASHES_MAX = 64
LINKS_MAX = 20
REMEMBERED_LINKS = 20_000
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_ORDERS = np.array(
    [
        0xD6E8FEB86659FD93, 0xA0761D6478BD642F, 0xE7037ED1A0B428DB, 0x8EBC6AF09C88C6E3,
        0x589965CC75374CC3, 0x1D8E4E27C47D124F, 0xEB44ACCAB455D165, 0xA3B195354A39B70D,
    ],
    dtype=np.uint64,
)[:, np.newaxis]  # fmt: skip
_SIGN = 1 << 63


def hashes_of(parts: MailParts, text: bytes) -> tuple[int, tuple[int, ...]]:
    """Return how many sketches there are (they come first), and the signed 64-bit hashes of a message.

    `text` is the normalised text, UTF-8.
    """
    found = sketches_of(text)
    count = len(found)
    for link in parts.links[:LINKS_MAX] if parts.links else ():
        found += _of_link(link.url)
    for attachment in parts.attachments:
        found.append(signed(sha256(attachment.content).digest()[:PREFIX_BYTES]))
    if len(found) > HASHES_MAX:
        found = list(dict.fromkeys(found))[:HASHES_MAX]
    return count, tuple(found)


def sketches_of(text: bytes) -> list[int]:
    """Return the sketches of a text; none of one that is too short to be told from others."""
    if len(text) < TEXT_BYTES_MIN:
        return []
    data = text[:TEXT_BYTES_MAX]
    shingles = np.ndarray((len(data) - SHINGLE_BYTES + 1,), dtype="<u8", buffer=data, strides=(1,)) * _SPREAD
    shingles ^= shingles >> np.uint64(29)
    least = (shingles * _ORDERS).min(axis=1)
    pairs = (least[0::2] * _SPREAD) ^ least[1::2]
    found: list[int] = pairs.view(np.int64).tolist()
    return found


def listed_address(address: str) -> bytes | None:
    """Return what stands in a list for an address as it is written: `https://host/path`, or a host for all of it.

    None for what is no address of a site; a mail address would list its whole provider.
    """
    url = address if "://" in address else f"http://{address}"
    host = host_of(url)
    if host is None or "@" in url.partition("://")[2].partition("/")[0]:
        return None
    return prefix_of(next(iter(address_expressions(url, host))))


def signed(prefix: bytes) -> int:
    """Return a hash as PostgreSQL's bigint."""
    number = int.from_bytes(prefix, "big")
    return number - (1 << 64) if number >= _SIGN else number


def unsigned_hex(number: int) -> str:
    """Return a bigint as 16 hexadecimal digits."""
    return f"{number & ((1 << 64) - 1):016x}"


def of_hex(entry: str) -> Sequence[int]:
    """Return the bigints of a list's entry: one, or the sketches of a text."""
    return [signed(bytes.fromhex(entry[place : place + 16])) for place in range(0, len(entry), 16)]


@lru_cache(maxsize=REMEMBERED_LINKS)
def _of_link(url: str) -> tuple[int, ...]:
    host = host_of(url)
    if host is None:
        return ()
    names, whole = _of_host(host)
    path = path_of(url)
    return whole if path in ("", "/") else (*(signed(prefix_of(name + path)) for name in names), *whole)


@lru_cache(maxsize=REMEMBERED_LINKS)
def _of_host(host: str) -> tuple[list[str], tuple[int, ...]]:
    """Return a host with the hosts above it, and what stands in a list for the whole of each."""
    names = hosts_of(host)
    return names, tuple(signed(prefix_of(f"{name}/")) for name in names)
