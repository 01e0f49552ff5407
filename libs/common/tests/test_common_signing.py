"""Batch signatures: what was signed verifies, anything else does not, and a malformed proof is never a bug of ours."""

from __future__ import annotations

import base64
import json

import orjson
import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from common.security.signing import (
    SignatureError,
    Signed,
    Signer,
    TrustedKeys,
    canonical,
    key_id,
    load_private_key,
    load_public_key,
    statement_digest,
)

SAFE_INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
FIELD_NAMES = st.text(st.characters(max_codepoint=0xD7FF), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | SAFE_INTEGERS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELD_NAMES, inner, max_size=4),
    max_leaves=12,
)
STATEMENTS = [
    {"message_id": f"m{number}", "number": number, "nested": {"b": [1, None], "a": "ü"}} for number in range(7)
]


@pytest.fixture
def keys(key_pair):
    return key_pair("instruction")


def changed(signed, **proof):
    return Signed.model_validate({"statement": signed.statement, "proof": {**signed.proof.model_dump(), **proof}})


@given(st.dictionaries(FIELD_NAMES, VALUES, max_size=6))
@settings(max_examples=200, deadline=None)
def test_the_canonical_form_is_that_of_rfc_8785(statement):
    assert canonical(statement) == rfc8785.dumps(statement)


@given(st.lists(st.dictionaries(FIELD_NAMES, VALUES, max_size=4), min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_every_statement_of_a_batch_verifies_after_a_journey_as_json(statements):
    private = Ed25519PrivateKey.generate()
    trusted = TrustedKeys("verdict", [private.public_key()])
    for statement, signed in zip(statements, Signer("verdict", private).sign(statements), strict=True):
        received = Signed.model_validate_json(signed.__pydantic_serializer__.to_json(signed))
        assert trusted.verify(received) == statement_digest(statement)


def test_statements_signed_as_json_are_what_models_of_them_would_be(keys):
    statements = [{"b": number, "a": "x"} for number in range(5)]
    in_bulk = keys.signer.sign_json([canonical(statement) for statement in statements])
    assert [Signed.model_validate_json(each.whole) for each in in_bulk] == keys.signer.sign(statements)
    assert [each.digest for each in in_bulk] == [
        keys.trusted.verify(Signed.model_validate_json(each.whole)) for each in in_bulk
    ]


def test_the_order_of_keys_on_the_wire_does_not_matter(keys):
    signed = keys.signer.sign(STATEMENTS)[3]
    turned = Signed(statement=dict(reversed(signed.statement.items())), proof=signed.proof)
    assert keys.trusted.verify(turned) == keys.trusted.verify(signed)


def test_one_changed_byte_of_the_statement_is_noticed(keys):
    signed = keys.signer.sign(STATEMENTS)[3]
    text = canonical(signed.statement)
    for at in range(len(text)):
        for bit in (1, 32):
            forged = text[:at] + bytes([text[at] ^ bit]) + text[at + 1 :]
            try:
                statement = json.loads(forged)
            except ValueError:
                continue
            if isinstance(statement, dict) and statement != signed.statement:
                with pytest.raises(SignatureError):
                    keys.trusted.verify(Signed(statement=statement, proof=signed.proof))


def test_a_field_unknown_to_the_reader_is_covered(keys):
    signed = keys.signer.sign([{**STATEMENTS[0], "added_later": "yes"}])[0]
    assert keys.trusted.verify(signed)
    without = {name: value for name, value in signed.statement.items() if name != "added_later"}
    for statement in (without, {**signed.statement, "added_later": "no"}, {**signed.statement, "another": 1}):
        with pytest.raises(SignatureError, match="does not fit"):
            keys.trusted.verify(Signed(statement=statement, proof=signed.proof))


def test_the_path_of_another_statement_or_batch_is_no_proof(keys):
    batch, other = keys.signer.sign(STATEMENTS), keys.signer.sign(STATEMENTS[::-1])
    for foreign in (*batch[1:], *other[:-1]):
        assert not verifies(keys.trusted, Signed(statement=batch[0].statement, proof=foreign.proof))


@pytest.mark.parametrize(
    "proof",
    [
        {"index": 1},
        {"index": -1},
        {"size": 6},
        {"size": 8},
        {"size": 0},
        {"size": 2**64, "path": base64.urlsafe_b64encode(bytes(32 * 64)).decode()},
        {"size": 2**64 + 1, "index": 2**64, "path": base64.urlsafe_b64encode(bytes(32 * 64)).decode()},
        {"size": 2**300},
        {"path": ""},
        {"path": "AAAA"},
        {"path": "not base64!"},
        {"path": "ü"},
        {"signature": ""},
        {"signature": "####"},
        {"signature": base64.urlsafe_b64encode(bytes(64)).decode()},
        {"key": "0" * 16},
        {"key": ""},
    ],
)
def test_a_malformed_proof_is_a_signature_error_and_nothing_else(keys, proof):
    signed = keys.signer.sign(STATEMENTS)[0]
    with pytest.raises(SignatureError, match="instruction|proof"):
        keys.trusted.verify(changed(signed, **proof))


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**4000])
def test_a_statement_without_canonical_form_is_a_signature_error(keys, value):
    signed = keys.signer.sign(STATEMENTS)[0]
    body = orjson.dumps(signed.model_dump()).replace(b'"number":0', b'"number":%d' % value)
    with pytest.raises(SignatureError, match="canonical"):
        keys.trusted.verify(Signed.model_validate_json(body))


def test_each_purpose_has_its_own_signatures(key_pair):
    private = key_pair("instruction").private
    purposes = ("instruction", "verdict", "receipt")
    for signed_for in purposes:
        signed = Signer(signed_for, private).sign(STATEMENTS)[2]
        for read_as in purposes:
            assert verifies(TrustedKeys(read_as, [private.public_key()]), signed) == (signed_for == read_as)


def test_an_unknown_key_is_refused_whatever_it_calls_itself(keys, key_pair):
    stranger = key_pair("instruction").signer.sign(STATEMENTS)[0]
    with pytest.raises(SignatureError, match="never published"):
        keys.trusted.verify(stranger)
    with pytest.raises(SignatureError, match="does not fit"):
        keys.trusted.verify(changed(stranger, key=keys.signer.sign(STATEMENTS)[0].proof.key))


def test_during_a_rotation_both_keys_are_good_and_afterwards_the_new_one(key_pair):
    old, new = key_pair("receipt"), key_pair("receipt")
    both = TrustedKeys("receipt", [old.private.public_key(), new.private.public_key()])
    assert verifies(both, old.signer.sign(STATEMENTS)[0])
    assert verifies(both, new.signer.sign(STATEMENTS)[0])
    assert not verifies(new.trusted, old.signer.sign(STATEMENTS)[0])


def test_a_refused_root_stays_refused_and_a_good_one_stays_good(keys):
    signed = keys.signer.sign(STATEMENTS)[0]
    forged = changed(signed, signature=base64.urlsafe_b64encode(bytes(64)).decode())
    for _ in range(3):
        assert not verifies(keys.trusted, forged)
        assert verifies(keys.trusted, signed)


def test_a_batch_of_one_needs_no_path(keys):
    signed = keys.signer.sign(STATEMENTS[:1])[0]
    assert (signed.proof.size, signed.proof.index, signed.proof.path) == (1, 0, "")
    assert verifies(keys.trusted, signed)


def test_keys_are_read_from_their_files(keys, tmp_path):
    private, public = tmp_path / "private.pem", tmp_path / "instruction" / "2026.pem"
    public.parent.mkdir()
    private.write_bytes(keys.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(keys.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    signed = Signer.from_file("instruction", private).sign(STATEMENTS)[4]
    assert verifies(TrustedKeys.from_folder("instruction", tmp_path), signed)
    assert signed.proof.key == key_id(load_public_key(public))
    with pytest.raises(FileNotFoundError, match="no public keys for verdict"):
        TrustedKeys.from_folder("verdict", tmp_path)


def test_a_key_of_another_kind_is_refused(tmp_path):
    rsa = generate_private_key(65537, 2048)
    (tmp_path / "private.pem").write_bytes(rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "public.pem").write_bytes(
        rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(TypeError, match="no Ed25519 private key"):
        load_private_key(tmp_path / "private.pem")
    with pytest.raises(TypeError, match="no Ed25519 public key"):
        load_public_key(tmp_path / "public.pem")


def verifies(trusted, signed):
    try:
        return bool(trusted.verify(signed))
    except SignatureError:
        return False
