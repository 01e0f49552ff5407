"""What a lost row is put back from: readable by the door alone, for its own message alone."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ingestion.row_seal import OwnFields, RowSeal

FIELDS = OwnFields(bytes(range(32)), bytes(range(32, 64)), "order-17")


@pytest.fixture
def seal(tmp_path):
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "ingestion.pem").write_bytes(pem)
    return RowSeal.from_identity(tmp_path / "ingestion.pem")


@pytest.mark.parametrize("fields", [FIELDS, FIELDS._replace(idempotency_key=None), FIELDS._replace(reference=None)])
def test_what_was_sealed_opens_to_the_same(seal, fields):
    value = seal.seal("m1", fields)
    assert seal.open("m1", value) == fields
    assert value.decode().isascii()


def test_it_opens_for_no_other_message_key_or_change(seal):
    value = seal.seal("m1", FIELDS)
    changed = bytearray(base64.b64decode(value))
    changed[-1] ^= 1
    assert seal.open("m2", value) is None
    assert RowSeal(bytes(64)).open("m1", value) is None
    assert seal.open("m1", base64.b64encode(bytes(changed))) is None
    assert seal.open("m1", b"") is None
    assert seal.open("m1", b"no base64!") is None


def test_nothing_of_the_account_is_readable(seal):
    assert b"order-17" not in base64.b64decode(seal.seal("m1", FIELDS))
