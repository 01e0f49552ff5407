"""Keys that change while a process runs: picked up, never mixed, never lost by a mistake of the hand that changes them."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from common.security.signing import KeyTerm, SignatureError, Signer, TrustedKeys, key_id, read_terms

STATEMENTS = [{"message_id": f"m{number}", "occurred_at": "2026-01-31T09:30:00.000Z"} for number in range(5)]


class Folder:
    """A signer's private key file and the folder that its readers trust."""

    def __init__(self, path):
        self.trusted, self.private = path / "trusted", path / "private.pem"
        self.public = self.trusted / "receipt"
        self.public.mkdir(parents=True)

    def publish(self, key):
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (self.public / f"{key_id(key.public_key())}.pem").write_bytes(pem)

    def install(self, key):
        """Put a private key in place as a deployment does: whole or not at all."""
        draft = self.private.with_suffix(".draft")
        draft.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        draft.replace(self.private)

    def retire(self, key, at):
        terms = {key_id(key.public_key()): {"retired_at": at}}
        (self.public / "keys.json").write_text(json.dumps(terms), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


@pytest.fixture
def keys():
    return [Ed25519PrivateKey.generate() for _ in range(3)]


def ids(signed):
    return {one.proof.key for one in signed}


def test_a_reader_believes_a_key_from_the_moment_it_is_published(folder, keys):
    old, new, _ = keys
    folder.publish(old)
    trusted = TrustedKeys.from_folder("receipt", folder.trusted)
    early, late = (Signer("receipt", key).sign(STATEMENTS)[2] for key in (old, new))
    assert trusted.verify(early)
    with pytest.raises(SignatureError, match="never published"):
        trusted.verify(late)
    folder.publish(new)
    assert trusted.verify(late)
    assert trusted.verify(early), "what was signed before a rotation verifies after it"


def test_a_reader_forgets_a_key_that_was_taken_away_also_where_it_had_verified_the_root(folder, keys):
    old, new, _ = keys
    folder.publish(old)
    folder.publish(new)
    trusted = TrustedKeys.from_folder("receipt", folder.trusted, look_every_seconds=0.0)
    signed = Signer("receipt", old).sign(STATEMENTS)[0]
    assert trusted.verify(signed)
    (folder.public / f"{signed.proof.key}.pem").unlink()
    with pytest.raises(SignatureError, match="never published"):
        trusted.verify(signed)


@pytest.mark.parametrize("mistake", ["empty", "damaged", "damaged terms"])
def test_a_mistake_in_the_folder_leaves_the_keys_that_were_there(folder, keys, mistake, caplog):
    folder.publish(keys[0])
    trusted = TrustedKeys.from_folder("receipt", folder.trusted, look_every_seconds=0.0)
    signed = Signer("receipt", keys[0]).sign(STATEMENTS)[0]
    if mistake == "empty":
        next(folder.public.glob("*.pem")).unlink()
    else:
        (folder.public / ("other.pem" if mistake == "damaged" else "keys.json")).write_text("no key")
    assert trusted.verify(signed)
    assert "the earlier ones hold" in caplog.text


def test_a_signer_takes_the_new_key_with_its_next_batch_and_no_batch_mixes(folder, keys):
    old, new, _ = keys
    folder.publish(old)
    folder.install(old)
    signer = Signer.from_file("receipt", folder.private, folder.trusted)
    first = signer.sign(STATEMENTS)
    folder.publish(new)
    folder.install(new)
    second = signer.sign(STATEMENTS)
    assert (ids(first), ids(second)) == ({key_id(old.public_key())}, {key_id(new.public_key())})
    assert signer.key == key_id(new.public_key())
    trusted = TrustedKeys.from_folder("receipt", folder.trusted)
    assert [trusted.verify(one) for one in (*first, *second)]


def test_a_signer_does_not_use_a_key_that_nobody_would_believe(folder, keys, caplog):
    old, new, _ = keys
    folder.publish(old)
    folder.install(old)
    signer = Signer.from_file("receipt", folder.private, folder.trusted)
    folder.install(new)
    assert ids(signer.sign(STATEMENTS)) == ids(signer.sign(STATEMENTS)) == {key_id(old.public_key())}
    assert caplog.text.count("publish it first") == 1
    folder.publish(new)
    assert ids(signer.sign(STATEMENTS)) == {key_id(new.public_key())}


@pytest.mark.parametrize("content", [None, "", "no key"])
def test_a_signer_survives_a_file_that_is_no_key(folder, keys, content):
    folder.publish(keys[0])
    folder.install(keys[0])
    signer = Signer.from_file("receipt", folder.private, folder.trusted)
    folder.private.unlink() if content is None else folder.private.write_text(content)
    assert ids(signer.sign(STATEMENTS)) == {key_id(keys[0].public_key())}


def test_a_signer_does_not_start_with_a_key_that_was_not_published(folder, keys):
    folder.publish(keys[0])
    folder.install(keys[1])
    with pytest.raises(ValueError, match="publish it first"):
        Signer.from_file("receipt", folder.private, folder.trusted)


def test_a_retired_key_proves_what_was_said_until_its_end_and_nothing_later(folder, keys):
    folder.publish(keys[0])
    folder.retire(keys[0], "2026-01-31T09:30:00Z")
    trusted = TrustedKeys.from_folder("receipt", folder.trusted)
    signer = Signer("receipt", keys[0])
    assert trusted.verify(signer.sign(STATEMENTS)[1])
    late = signer.sign([{**STATEMENTS[0], "occurred_at": "2026-01-31T09:30:00.001Z"}])[0]
    with pytest.raises(SignatureError, match="later than the end of the key"):
        trusted.verify(late)
    for undated in ({"message_id": "m"}, {"message_id": "m", "occurred_at": "soon"}, {"occurred_at": 5}):
        with pytest.raises(SignatureError, match="tells no time"):
            trusted.verify(signer.sign([undated])[0])


def test_terms_without_an_entry_have_no_end(folder):
    assert read_terms(folder.public) == {}
    (folder.public / "keys.json").write_text('{"0123456789abcdef": {"note": "from a newer version"}}')
    assert read_terms(folder.public) == {"0123456789abcdef": KeyTerm()}
    (folder.public / "keys.json").write_text('{"0123456789abcdef": {"retired_at": "some day"}}')
    with pytest.raises(ValueError, match="keys.json cannot be understood at 0123456789abcdef.retired_at"):
        read_terms(folder.public)
