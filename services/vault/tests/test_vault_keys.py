from __future__ import annotations

import base64
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st

from vault.errors import KeyFileError
from vault.keys.accounts import AccountKeys, WrappedAccount, new_account, normal_address
from vault.keys.blobs import BlobError, decrypt, encrypt, key_id_of, named
from vault.keys.root import RootKey

ROOT = RootKey(os.urandom(32))
ids = st.text(min_size=1, max_size=40)


def account(account_id: str = "account-a", root: RootKey = ROOT) -> AccountKeys:
    return AccountKeys(root, account_id, new_account(root, account_id))


def test_a_blob_carries_version_key_id_nonce_and_tag():
    cipher = AESGCM(os.urandom(32))
    blob = encrypt(cipher, 0x01020304, b"value", named("place"))
    assert blob[:5] == b"\x01\x01\x02\x03\x04"
    assert key_id_of(blob) == 0x01020304
    assert len(blob) == 1 + 4 + 12 + len(b"value") + 16
    assert decrypt(cipher, blob, named("place")) == b"value"


def test_every_changed_byte_of_a_blob_is_noticed():
    cipher = AESGCM(os.urandom(32))
    blob = encrypt(cipher, 7, b"value", b"place")
    for at in range(len(blob)):
        broken = bytearray(blob)
        broken[at] ^= 1
        with pytest.raises(BlobError):
            decrypt(cipher, bytes(broken), b"place")


@pytest.mark.parametrize("blob", [b"", b"\x01", b"\x01" * 5, b"\x01" * 20, b"\x02" * 60])
def test_a_cut_blob_is_refused_without_another_exception(blob):
    with pytest.raises(BlobError):
        decrypt(AESGCM(bytes(32)), blob, b"place")


@given(st.lists(ids, max_size=4), st.lists(ids, max_size=4))
def test_two_places_never_share_their_associated_data(one, other):
    assert (named(*one) == named(*other)) == (one == other)


def test_the_same_value_is_never_sealed_to_the_same_blob():
    keys, _ = account().new_subject("rt_a")
    assert keys.seal_field("address", "a@example.org") != keys.seal_field("address", "a@example.org")


def test_rows_swapped_between_subjects_do_not_open():
    owner = account()
    anna, anna_wrapped = owner.new_subject("rt_anna")
    bert, bert_wrapped = owner.new_subject("rt_bert")
    with pytest.raises(BlobError):
        owner.subject("rt_anna", owner.epoch, bert_wrapped)
    with pytest.raises(BlobError):
        bert.open_field("address", anna.seal_field("address", "anna@example.org"))
    assert owner.subject("rt_anna", owner.epoch, anna_wrapped)


def test_rows_swapped_between_accounts_do_not_open():
    one = new_account(ROOT, "account-a")
    with pytest.raises(BlobError):
        AccountKeys(ROOT, "account-b", one)
    _, wrapped = AccountKeys(ROOT, "account-a", one).new_subject("rt_anna")
    with pytest.raises(BlobError):
        account("account-b").subject("rt_anna", 1, wrapped)


def test_an_account_key_of_another_epoch_does_not_open():
    (epoch, wrapped), *_ = new_account(ROOT, "account-a").keys
    with pytest.raises(BlobError):
        AccountKeys(ROOT, "account-a", WrappedAccount([(epoch + 1, wrapped)], new_account(ROOT, "account-a")[1]))


def test_fields_swapped_within_a_subject_do_not_open():
    keys, _ = account().new_subject("rt_anna")
    blob = keys.seal_field("name", "Anna")
    with pytest.raises(BlobError):
        keys.open_field("address", blob)


def test_fields_and_capsules_are_sealed_under_different_keys():
    keys, _ = account().new_subject("rt_anna")
    with pytest.raises(BlobError):
        keys.open_field("address", keys.wrap_message_key("m-1", bytes(32)))


def test_a_capsule_opens_only_for_its_message_and_recipient():
    owner = account()
    anna, _ = owner.new_subject("rt_anna")
    bert, _ = owner.new_subject("rt_bert")
    key = os.urandom(32)
    capsule = anna.wrap_message_key("m-1", key)
    assert anna.unwrap_message_key("m-1", capsule) == key
    with pytest.raises(BlobError):
        anna.unwrap_message_key("m-2", capsule)
    with pytest.raises(BlobError):
        bert.unwrap_message_key("m-1", capsule)


def test_another_root_key_opens_nothing():
    with pytest.raises(BlobError):
        AccountKeys(RootKey(os.urandom(32)), "account-a", new_account(ROOT, "account-a"))


@settings(max_examples=50)
@given(
    account_id=ids,
    token=ids,
    message_id=ids,
    address=st.text(min_size=3, max_size=320),
    key=st.binary(min_size=32, max_size=32),
)
def test_what_was_sealed_opens_again(account_id, token, message_id, address, key):
    wrapped_account = new_account(ROOT, account_id)
    keys, wrapped = AccountKeys(ROOT, account_id, wrapped_account).new_subject(token)
    capsule, field = keys.wrap_message_key(message_id, key), keys.seal_field("address", address)
    later = AccountKeys(ROOT, account_id, wrapped_account).subject(token, 1, wrapped)
    assert later.unwrap_message_key(message_id, capsule) == key
    assert later.open_field("address", field) == address


@settings(max_examples=100)
@given(st.emails())
def test_a_blind_index_is_stable_and_blind_to_the_case_of_letters(address):
    wrapped = new_account(ROOT, "account-a")
    one, again = AccountKeys(ROOT, "account-a", wrapped), AccountKeys(ROOT, "account-a", wrapped)
    index = one.address_index(address)
    assert len(index) == 16
    assert index == again.address_index(address.swapcase() if address.isascii() else address)
    assert index != account("account-b").address_index(address)


def test_a_blind_index_does_not_depend_on_the_account_key():
    wrapped = new_account(ROOT, "account-a")
    later = WrappedAccount([*new_account(ROOT, "account-a").keys], wrapped.index_secret)
    one, other = AccountKeys(ROOT, "account-a", wrapped), AccountKeys(ROOT, "account-a", later)
    assert one.address_index("a@example.org") == other.address_index("A@Example.ORG")


def test_addresses_are_compared_in_lower_case_and_composed_unicode():
    assert normal_address("Anna.Muster@Example.ORG") == "anna.muster@example.org"
    assert normal_address("JO\u0308RG@example.org") == normal_address("j\u00f6rg@example.org")


def test_subkeys_are_hkdf_expand_of_the_data_key():
    """Vector of RFC 5869, appendix A.1: the expand step."""
    key = bytes.fromhex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
    info, length = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"), 42
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert HKDFExpand(SHA256(), length, info).derive(key).hex() == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"not base64!", "not base64"), (base64.b64encode(bytes(31)), "31 bytes"), (b"", "0 bytes")],
)
def test_a_root_key_file_that_cannot_be_used_says_why(tmp_path, content, said):
    path = tmp_path / "root.key"
    path.write_bytes(content)
    with pytest.raises(KeyFileError, match=said):
        RootKey.from_file(path)


def test_a_missing_root_key_file_names_the_setting(tmp_path):
    with pytest.raises(KeyFileError, match="VAULT_ROOT_KEY_FILE"):
        RootKey.from_file(tmp_path / "none")


def test_a_root_key_file_is_read_with_its_final_newline(tmp_path):
    secret = os.urandom(32)
    path = tmp_path / "root.key"
    path.write_bytes(base64.b64encode(secret) + b"\n")
    assert RootKey.from_file(path).unwrap(RootKey(secret).wrap(b"x", b"place"), b"place") == b"x"


def test_keys_do_not_show_in_their_representation():
    keys, _ = account().new_subject("rt_anna")
    for shown in (repr(ROOT), repr(account()), repr(keys)):
        assert shown.startswith("<vault.keys.")
