"""Sealed parts open under their key, for their message and part, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.security.sealing import KEY_BYTES, SealError, keyed_digest, new_message_key, seal, unseal

KEY = bytes(range(KEY_BYTES))
SECRET = b"Dear Ms. Ortega"


@given(st.binary(max_size=500))
@settings(max_examples=50, deadline=None)
def test_what_is_sealed_opens_to_the_same_bytes(plaintext):
    assert unseal(KEY, "m1", "content", seal(KEY, "m1", "content", plaintext)) == plaintext


def test_a_blob_shows_nothing_and_is_new_each_time():
    one, two = (seal(KEY, "m1", "content", SECRET) for _ in range(2))
    assert one != two
    assert SECRET not in one
    assert len(one) == 1 + 12 + len(SECRET) + 16


@pytest.mark.parametrize(
    ("key", "message_id", "part"),
    [(KEY, "m2", "content"), (KEY, "m1", "envelope"), (KEY, "", "content"), (bytes(KEY_BYTES), "m1", "content")],
)
def test_a_moved_blob_does_not_open(key, message_id, part):
    with pytest.raises(SealError):
        unseal(key, message_id, part, seal(KEY, "m1", "content", SECRET))


def test_every_changed_byte_is_noticed():
    blob = seal(KEY, "m1", "content", SECRET)
    for at in range(len(blob)):
        with pytest.raises(SealError):
            unseal(KEY, "m1", "content", blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :])


@pytest.mark.parametrize("length", [0, 1, 5, 13, 28, 43])
def test_a_cut_blob_does_not_open(length):
    with pytest.raises(SealError):
        unseal(KEY, "m1", "content", seal(KEY, "m1", "content", SECRET)[:length])


def test_a_key_of_wrong_length_does_not_open():
    with pytest.raises(SealError):
        unseal(b"short", "m1", "content", seal(KEY, "m1", "content", SECRET))


def test_message_keys_are_256_bit_and_differ():
    assert len(new_message_key()) == KEY_BYTES
    assert new_message_key() != new_message_key()


def test_a_keyed_digest_depends_on_key_part_and_data():
    digests = {
        keyed_digest(key, part, data)
        for key in (KEY, bytes(KEY_BYTES))
        for part in ("reply", "content")
        for data in (b"", b"250 OK")
    }
    assert len(digests) == 8
    assert keyed_digest(KEY, "reply", b"x") == keyed_digest(KEY, "reply", b"x")
