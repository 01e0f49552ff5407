"""An append-only log's Merkle tree, by RFC 6962 section 2.1: growing it, and proofs that it only grew (RFC 9162).

Leaf hashes are 32 bytes, as `common.security.merkle.leaf_hash` makes them.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from common.security.merkle import HASH_BYTES, leaf_hash

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EMPTY_ROOT = sha256(b"").digest()


def log_leaf(salt: bytes, content: bytes) -> bytes:
    """Return the leaf of an entry. Without the salt a leaf tells nothing of a content that can be guessed."""
    return leaf_hash(salt + content)


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The right edge of a tree: all that is needed to append to it. Appending costs two hashes on average."""

    def __init__(self, size: int = 0, nodes: Iterable[bytes] = ()) -> None:
        self.size = size
        self.nodes = list(nodes)

    @classmethod
    def of(cls, leaves: Iterable[bytes]) -> Frontier:
        """Return the frontier of a tree of some leaves."""
        made = cls()
        for leaf in leaves:
            made.append(leaf)
        return made

    def append(self, leaf: bytes) -> None:
        """Add one leaf."""
        node, size = leaf, self.size
        while size & 1:
            node = _node(self.nodes.pop(), node)
            size >>= 1
        self.nodes.append(node)
        self.size += 1

    def root(self) -> bytes:
        """Return the root of the tree so far."""
        if not self.nodes:
            return EMPTY_ROOT
        root = self.nodes[-1]
        for node in reversed(self.nodes[:-1]):
            root = _node(node, root)
        return root


def _split(size: int) -> int:
    """Return the largest power of two below a size of at least 2."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the path of a leaf, leaf first; `merkle.root_from_path` checks it."""
    if not 0 <= index < len(leaves):
        raise ValueError("no such leaf in the tree")
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*inclusion_proof(leaves[:split], index), Frontier.of(leaves[split:]).root()]
    return [*inclusion_proof(leaves[split:], index - split), Frontier.of(leaves[:split]).root()]


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> list[bytes]:
    """Return the proof that the tree of the first `old_size` leaves is a beginning of this one (RFC 9162, 2.1.4.1)."""
    if not 0 < old_size <= len(leaves):
        raise ValueError("the older tree is no part of this one")
    return _subproof(old_size, leaves, whole=True)


def _subproof(old_size: int, leaves: Sequence[bytes], *, whole: bool) -> list[bytes]:
    if old_size == len(leaves):
        return [] if whole else [Frontier.of(leaves).root()]
    split = _split(len(leaves))
    if old_size <= split:
        return [*_subproof(old_size, leaves[:split], whole=whole), Frontier.of(leaves[split:]).root()]
    return [*_subproof(old_size - split, leaves[split:], whole=False), Frontier.of(leaves[:split]).root()]


def is_consistent(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> bool:
    """Say whether a proof shows that a tree grew from an older one (RFC 9162, 2.1.4.2)."""
    if not 0 < old_size <= size or any(len(node) != HASH_BYTES for node in proof):
        return False
    if old_size == size:
        return not proof and old_root == root
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)
    if not path:
        return False
    old, last = old_size - 1, size - 1
    while old & 1:
        old >>= 1
        last >>= 1
    old_node = node = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if old & 1 or old == last:
            old_node, node = _node(step, old_node), _node(step, node)
            while not old & 1 and old:
                old >>= 1
                last >>= 1
        else:
            node = _node(node, step)
        old >>= 1
        last >>= 1
    return last == 0 and old_node == old_root and node == root
