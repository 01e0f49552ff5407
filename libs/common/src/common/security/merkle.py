"""Merkle trees over a batch, by RFC 6962 section 2.1.

A leaf is hashed as SHA-256(0x00 || data), an interior node as SHA-256(0x01 || left || right). Building the levels
from below and promoting an odd last node gives the same tree as the recursive definition in the RFC.
"""

from __future__ import annotations

from hashlib import sha256

HASH_BYTES = 32
TREE_SIZE_MAX = 2**63 - 1


def leaf_hash(data: bytes) -> bytes:
    """Return the 32-byte hash of one leaf."""
    return sha256(b"\x00" + data).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _levels(leaves: list[bytes]) -> list[list[bytes]]:
    levels = [leaves]
    while len(levels[-1]) > 1:
        below = levels[-1]
        level = [_node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
        if len(below) % 2:
            level.append(below[-1])
        levels.append(level)
    return levels


def root_and_paths(leaves: list[bytes]) -> tuple[bytes, list[bytes]]:
    """Return the root over leaf hashes and, for each leaf, its inclusion path (32-byte hashes, joined, leaf first)."""
    if not leaves:
        raise ValueError("a Merkle tree needs at least one leaf")
    levels = _levels(leaves)
    paths = [b""]
    for level in reversed(levels[:-1]):
        last = len(level) - 1
        paths = [
            level[index ^ 1] + paths[index >> 1] if index < last or index % 2 else paths[index >> 1]
            for index in range(len(level))
        ]
    return levels[-1][0], paths


def root_from_path(leaf: bytes, index: int, size: int, path: bytes) -> bytes:
    """Return the root that an inclusion path leads to (RFC 9162 section 2.1.3.2).

    Raises ValueError when the path does not fit a leaf at `index` of a tree of `size` leaves.
    """
    if not 0 <= index < size <= TREE_SIZE_MAX or len(path) % HASH_BYTES:
        raise ValueError("the inclusion path does not fit the tree")
    node, last, offset = leaf, size - 1, 0
    while last > 0:
        if index % 2 or index < last:
            sibling = path[offset : offset + HASH_BYTES]
            if len(sibling) != HASH_BYTES:
                raise ValueError("the inclusion path is too short")
            offset += HASH_BYTES
            node = _node_hash(sibling, node) if index % 2 else _node_hash(node, sibling)
        index >>= 1
        last >>= 1
    if offset != len(path):
        raise ValueError("the inclusion path is too long")
    return node


class ProvenTree:
    """One tree whose leaves come one after the other: what led to its signed root once is not hashed again.

    A node counts as proven together with the rest of its path, so a leaf is taken for good only where hashing all of
    its path would take it for good, too. When as many leaves as the tree has were accepted, nothing is kept any more.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._accepted = 0
        self._proven: dict[tuple[int, int], tuple[bytes, bytes, bytes]] = {}
        self._climbed: list[tuple[int, int, bytes, bytes]] = []
        self._root = b""

    def root(self, leaf: bytes, index: int, path: bytes) -> bytes:
        """Return what `root_from_path` returns for this leaf."""
        self._climbed.clear()
        if not 0 <= index < self._size <= TREE_SIZE_MAX or len(path) % HASH_BYTES:
            raise ValueError("the inclusion path does not fit the tree")
        node, last, level, rest = leaf, self._size - 1, 0, path
        while True:
            found = self._proven.get((level, index))
            if found is not None and found[0] == node and found[1] == rest:
                self._root = found[2]
                return self._root
            self._climbed.append((level, index, node, rest))
            if last == 0:
                break
            if index % 2 or index < last:
                sibling, above = rest[:HASH_BYTES], rest[HASH_BYTES:]
                if len(sibling) != HASH_BYTES:
                    raise ValueError("the inclusion path is too short")
                self._climbed.append((level, index ^ 1, sibling, node + above))
                node = _node_hash(sibling, node) if index % 2 else _node_hash(node, sibling)
                rest = above
            index >>= 1
            last >>= 1
            level += 1
        if rest:
            raise ValueError("the inclusion path is too long")
        self._root = node
        return node

    def accept(self) -> None:
        """Keep what the last call of `root` went through: its root was found to be signed."""
        self._accepted += 1
        if self._accepted >= self._size:
            self._accepted = 0
            self._proven.clear()
        else:
            for level, index, node, rest in self._climbed:
                self._proven[level, index] = (node, rest, self._root)
        self._climbed.clear()
