"""RFC 6962: known answers, and every way in which a path must not fit."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.security.merkle import HASH_BYTES, ProvenTree, leaf_hash, root_and_paths, root_from_path

# The eight leaves that Certificate Transparency's own test suites use, and the root over the first 1, 2, ... of them.
LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def tree_hash(data: list[bytes]) -> bytes:
    """The recursive definition of RFC 6962 section 2.1, as independent witness."""
    if len(data) == 1:
        return sha256(b"\x00" + data[0]).digest()
    split = 1
    while split * 2 < len(data):
        split *= 2
    return sha256(b"\x01" + tree_hash(data[:split]) + tree_hash(data[split:])).digest()


def leaves(size):
    return [leaf_hash(b"%d" % number) for number in range(size)]


@pytest.mark.parametrize("size", range(1, 9))
def test_the_root_is_the_known_one(size):
    root, _ = root_and_paths([leaf_hash(leaf) for leaf in LEAVES[:size]])
    assert root.hex() == ROOTS[size - 1]


def test_a_known_inclusion_path_is_the_same_here():
    _, paths = root_and_paths([leaf_hash(leaf) for leaf in LEAVES])
    assert [paths[0][at : at + HASH_BYTES].hex() for at in range(0, len(paths[0]), HASH_BYTES)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]


@pytest.mark.parametrize("size", range(1, 71))
def test_the_path_of_every_leaf_leads_to_the_root_of_the_recursive_definition(size):
    root, paths = root_and_paths(leaves(size))
    assert root == tree_hash([b"%d" % number for number in range(size)])
    assert [root_from_path(leaf, index, size, paths[index]) for index, leaf in enumerate(leaves(size))] == [root] * size


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 33, 70])
def test_a_path_fits_its_own_index_only(size):
    root, paths = root_and_paths(leaves(size))
    for index, leaf in enumerate(leaves(size)):
        for other in set(range(-1, size + 1)) - {index}:
            assert leads_to(leaf, other, size, paths[index]) != root


@pytest.mark.parametrize("size", [2, 3, 7, 8, 33, 70])
def test_a_path_that_is_short_or_long_fits_nothing(size):
    root, paths = root_and_paths(leaves(size))
    for index, leaf in enumerate(leaves(size)):
        for path in (
            paths[index][:-1],
            paths[index][:-HASH_BYTES],
            paths[index] + b"\0",
            paths[index] + bytes(HASH_BYTES),
        ):
            assert leads_to(leaf, index, size, path) != root


def test_a_tree_of_another_depth_does_not_fit():
    root, paths = root_and_paths(leaves(5))
    for size in (-1, 0, 1, 2, 3, 4, 9, 2**63, 2**64, 2**200):
        assert leads_to(leaves(5)[0], 0, size, paths[0]) != root


@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 70), data=st.data())
def test_one_flipped_bit_leads_elsewhere(size, data):
    root, paths = root_and_paths(leaves(size))
    index = data.draw(st.integers(0, size - 1))
    proof = leaves(size)[index] + paths[index]
    at, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 7))
    flipped = proof[:at] + bytes([proof[at] ^ (1 << bit)]) + proof[at + 1 :]
    assert leads_to(flipped[:HASH_BYTES], index, size, flipped[HASH_BYTES:]) != root


def test_a_tree_without_leaves_is_refused():
    with pytest.raises(ValueError, match="at least one leaf"):
        root_and_paths([])


def test_two_leaves_are_no_interior_node():
    root, _ = root_and_paths(leaves(2))
    assert leaf_hash(b"".join(leaves(2))) != root


def leads_to(leaf, index, size, path):
    try:
        return root_from_path(leaf, index, size, path)
    except ValueError:
        return None


@given(st.integers(1, 70), st.randoms(use_true_random=False))
def test_a_proven_tree_says_of_every_leaf_what_hashing_its_whole_path_says(size, random):
    root, paths = root_and_paths(leaves(size))
    tree = ProvenTree(size)
    order = list(range(size)) * 2
    random.shuffle(order)
    for index in order:
        assert tree.root(leaves(size)[index], index, paths[index]) == root
        tree.accept()


def test_a_tree_that_was_read_whole_keeps_nothing_and_can_be_read_again():
    root, paths = root_and_paths(leaves(9))
    tree = ProvenTree(9)
    for index in [*range(9), *range(9)]:
        assert tree.root(leaves(9)[index], index, paths[index]) == root
        tree.accept()
        assert bool(tree._proven) == (index < 8)


@given(st.integers(2, 40), st.data())
def test_a_proven_tree_takes_nothing_for_good_that_its_whole_path_does_not(size, data):
    root, paths = root_and_paths(leaves(size))
    tree = ProvenTree(size)
    for index in range(size - 1):
        tree.root(leaves(size)[index], index, paths[index])
        tree.accept()
    index = data.draw(st.integers(0, size - 1))
    place = data.draw(st.integers(0, len(paths[index]) - 1))
    changed = bytearray(paths[index])
    changed[place] ^= data.draw(st.integers(1, 255))
    assert tree.root(leaves(size)[index], index, bytes(changed)) != root
    assert tree.root(leaf_hash(b"another"), index, paths[index]) != root
    with pytest.raises(ValueError, match="too"):
        tree.root(leaves(size)[index], index, paths[index] + b"\0" * HASH_BYTES)
    with pytest.raises(ValueError, match="too"):
        tree.root(leaves(size)[index], index, paths[index][HASH_BYTES:])
