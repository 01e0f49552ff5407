from __future__ import annotations

import os
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.security.merkle import leaf_hash, root_and_paths, root_from_path
from common.security.tlog import EMPTY_ROOT, Frontier, consistency_proof, inclusion_proof, is_consistent, log_leaf

LEAVES = [leaf_hash(number.to_bytes(2, "big")) for number in range(70)]


def test_the_tree_of_the_rfc_vectors():
    """The eight inputs of the certificate transparency reference implementation."""
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [leaf_hash(bytes.fromhex(text)) for text in inputs]
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    assert {size: Frontier.of(leaves[:size]).root().hex() for size in roots} == roots
    assert Frontier().root() == EMPTY_ROOT == sha256(b"").digest()


@pytest.mark.parametrize("size", range(1, 70))
def test_the_frontier_has_the_root_that_a_whole_tree_has(size):
    assert Frontier.of(LEAVES[:size]).root() == root_and_paths(LEAVES[:size])[0]


def test_a_frontier_that_was_kept_goes_on_where_it_stopped():
    first = Frontier.of(LEAVES[:23])
    again = Frontier(first.size, first.nodes)
    for leaf in LEAVES[23:]:
        again.append(leaf)
    assert again.root() == Frontier.of(LEAVES).root()


@given(st.integers(1, 70).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))))
def test_an_inclusion_proof_leads_to_the_root(place):
    size, index = place
    path = b"".join(inclusion_proof(LEAVES[:size], index))
    assert root_from_path(LEAVES[index], index, size, path) == Frontier.of(LEAVES[:size]).root()


@given(st.integers(1, 70).flatmap(lambda size: st.tuples(st.integers(1, size), st.just(size))), st.data())
def test_a_consistency_proof_shows_that_a_log_only_grew_and_nothing_else(sizes, data):
    old, size = sizes
    roots = Frontier.of(LEAVES[:old]).root(), Frontier.of(LEAVES[:size]).root()
    proof = consistency_proof(LEAVES[:size], old)
    assert is_consistent(old, roots[0], size, roots[1], proof)
    forged = [*LEAVES[:size]]
    forged[data.draw(st.integers(0, old - 1))] = os.urandom(32)
    assert not is_consistent(old, roots[0], size, Frontier.of(forged).root(), consistency_proof(forged, old))
    assert not is_consistent(old, roots[0], size, roots[1], [*proof, os.urandom(32)])


def test_proofs_of_trees_that_are_none_are_refused():
    with pytest.raises(ValueError, match="leaf"):
        inclusion_proof(LEAVES, 70)
    with pytest.raises(ValueError, match="older"):
        consistency_proof(LEAVES, 71)
    assert not is_consistent(0, EMPTY_ROOT, 5, Frontier.of(LEAVES[:5]).root(), [])
    assert not is_consistent(2, LEAVES[0], 5, LEAVES[1], [])


def test_a_leaf_is_salted():
    assert log_leaf(b"s" * 16, b"x") == leaf_hash(b"s" * 16 + b"x") != log_leaf(b"t" * 16, b"x")
