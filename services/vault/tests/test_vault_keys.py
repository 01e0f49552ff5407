from __future__ import annotations

import base64
import hmac
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st

from vault.errors import KeyFileError
from vault.keys.accounts import AccountKeys, new_account_key, new_account_secrets
from vault.keys.blobs import BlobError, decrypt, encrypt, expand, key_id_of, mac, named, pads
from vault.keys.epochs import STANDING, KeyFolder, WrappingKey
from vault.keys.root import RootKey
from vault.roots import EitherRoot

ROOT = RootKey(os.urandom(32))
STANDING_KEY, FIRST, SECOND = (WrappingKey(number, os.urandom(32)) for number in (0, 1, 2))
ids = st.text(min_size=1, max_size=40)


def account(account_id: str = "account-a", secrets=None, wrapped=None) -> AccountKeys:
    keys = AccountKeys(account_id, STANDING_KEY, secrets or new_account_secrets(STANDING_KEY, account_id))
    keys.add(FIRST, wrapped or new_account_key(FIRST, account_id))
    return keys


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
    secrets, wrapped = new_account_secrets(STANDING_KEY, "account-a"), new_account_key(FIRST, "account-a")
    with pytest.raises(BlobError):
        account("account-b", secrets)
    with pytest.raises(BlobError):
        account("account-b", None, wrapped)
    _, data_key = account("account-a", secrets, wrapped).new_subject("rt_anna")
    with pytest.raises(BlobError):
        account("account-b").subject("rt_anna", 1, data_key)


def test_an_account_key_of_another_epoch_does_not_open():
    with pytest.raises(BlobError):
        account().add(SECOND, new_account_key(FIRST, "account-a"))


def test_a_data_key_moves_to_a_new_epoch_and_the_old_wrapping_dies_with_its_key():
    owner = account()
    keys, old = owner.new_subject("rt_anna")
    blob = keys.seal_field("name", "Anna")
    owner.add(SECOND, new_account_key(SECOND, "account-a"))
    new = owner.rewrap("rt_anna", 1, old)
    assert key_id_of(new) == 2
    owner.forget_all_but({2: None})
    assert owner.subject("rt_anna", 2, new).open_field("name", blob) == "Anna"
    with pytest.raises(BlobError):
        owner.subject("rt_anna", 1, old)


def test_a_new_edition_opens_no_older_field_and_every_older_capsule():
    owner = account()
    keys, wrapped = owner.new_subject("rt_anna")
    field, capsule = keys.seal_field("name", "Anna"), keys.wrap_message_key("m-1", bytes(32))
    renewed, rewrapped = owner.new_edition("rt_anna", 1, wrapped)
    for later in (renewed, owner.subject("rt_anna", 1, rewrapped)):
        with pytest.raises(BlobError):
            later.open_field("name", field)
        assert later.unwrap_message_key("m-1", capsule) == bytes(32)
    new_field = renewed.seal_field("name", "Anne")
    with pytest.raises(BlobError):
        owner.subject("rt_anna", 1, wrapped).open_field("name", new_field)
    owner.add(SECOND, new_account_key(SECOND, "account-a"))
    moved = owner.rewrap("rt_anna", 1, rewrapped)
    assert owner.subject("rt_anna", 2, moved).open_field("name", new_field) == "Anne"


@pytest.mark.parametrize("edition", [b"", os.urandom(16)], ids=["before-editions", "derived"])
def test_an_older_data_key_opens_what_was_sealed_under_it_and_is_replaced_at_the_first_change(edition):
    owner = account()
    place, secret = named("account-a") + named("rt_anna"), os.urandom(32)
    old = encrypt(owner._ciphers[1], 1, secret + edition, named("data-key") + place)
    fields = AESGCM(expand(secret, b"waystation/vault/fields" + edition))
    field = encrypt(fields, 1, b"Anna", place + named("field", "name"))
    content = AESGCM(expand(secret, b"waystation/vault/content"))
    capsule = encrypt(content, 1, bytes(32), place + named("capsule") + named("m-1"))
    keys = owner.subject("rt_anna", 1, old)
    assert (keys.open_field("name", field), keys.unwrap_message_key("m-1", capsule)) == ("Anna", bytes(32))
    _, renewed = owner.new_edition("rt_anna", 1, old)
    assert len(renewed) == len(old) - 32 - len(edition) + 64
    later = owner.subject("rt_anna", 1, renewed)
    assert later.unwrap_message_key("m-1", capsule) == bytes(32)
    with pytest.raises(BlobError):
        later.open_field("name", field)
    owner.add(SECOND, new_account_key(SECOND, "account-a"))
    moved = owner.rewrap("rt_anna", 1, old)
    assert owner.subject("rt_anna", 2, moved).open_field("name", field) == "Anna"


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


@settings(max_examples=50)
@given(
    account_id=ids,
    token=ids,
    message_id=ids,
    address=st.text(min_size=3, max_size=320),
    key=st.binary(min_size=32, max_size=32),
)
def test_what_was_sealed_opens_again(account_id, token, message_id, address, key):
    secrets, key_row = new_account_secrets(STANDING_KEY, account_id), new_account_key(FIRST, account_id)
    keys, wrapped = account(account_id, secrets, key_row).new_subject(token)
    capsule, field = keys.wrap_message_key(message_id, key), keys.seal_field("address", address)
    later = account(account_id, secrets, key_row).subject(token, 1, wrapped)
    assert later.unwrap_message_key(message_id, capsule) == key
    assert later.open_field("address", field) == address


def test_a_blind_index_is_stable_and_its_own_for_account_kind_and_field():
    secrets = new_account_secrets(STANDING_KEY, "account-a")
    index = account("account-a", secrets).index_of("recipient", "address", "a@example.org")
    assert len(index) == 16
    assert index == account("account-a", secrets).index_of("recipient", "address", "a@example.org")
    others = [
        account("account-b").index_of("recipient", "address", "a@example.org"),
        account("account-a", secrets).index_of("user", "address", "a@example.org"),
        account("account-a", secrets).index_of("recipient", "phone", "a@example.org"),
        account("account-a", secrets).suppression_of("recipient", "a@example.org")[:16],
    ]
    assert len({index, *others}) == 5


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_the_mac_is_hmac_sha_256_and_subkeys_are_hkdf_expand(secret, info):
    assert mac(pads(secret), info) == hmac.digest(secret, info, "sha256")
    assert expand(secret, info) == HKDFExpand(SHA256(), 32, info).derive(secret)


def test_subkeys_fit_the_vector_of_the_rfc():
    """RFC 5869, appendix A.1: the first block of the expand step."""
    key = bytes.fromhex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
    expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
    assert expand(key, bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")).hex() == expected


def test_keys_of_epochs_are_files_that_the_root_wraps(tmp_path):
    folder = KeyFolder(tmp_path / "keys", ROOT)
    made = folder.load_or_make(1)
    assert made.unwrap(folder.load(1).wrap(b"x", b"place"), b"place") == b"x"
    assert folder.load_or_make(1).unwrap(made.wrap(b"x", b"place"), b"place") == b"x"
    assert folder.epochs() == [1]
    assert (tmp_path / "keys" / "epoch-000001.key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyFileError, match="another one"):
        KeyFolder(tmp_path / "keys", RootKey(os.urandom(32))).load(1)


def test_a_file_of_one_epoch_does_not_stand_for_another(tmp_path):
    folder = KeyFolder(tmp_path, ROOT)
    folder.load_or_make(1)
    (tmp_path / "epoch-000001.key").rename(tmp_path / "epoch-000002.key")
    with pytest.raises(KeyFileError):
        folder.load(2)


def test_a_destroyed_key_is_overwritten_and_gone(tmp_path):
    folder = KeyFolder(tmp_path, ROOT)
    folder.load_or_make(1)
    kept = tmp_path / "hard-link"
    os.link(tmp_path / "epoch-000001.key", kept)
    before = kept.read_bytes()
    folder.destroy(1)
    folder.destroy(1)
    assert kept.read_bytes() != before
    with pytest.raises(KeyFileError, match="does not exist"):
        folder.load(1)


def test_the_root_is_changed_without_changing_the_keys(tmp_path):
    folder, new_root = KeyFolder(tmp_path, ROOT), RootKey(os.urandom(32))
    epoch, standing = folder.load_or_make(1), folder.load_or_make(STANDING)
    prepared = KeyFolder(tmp_path, EitherRoot(ROOT, new_root))
    assert KeyFolder(tmp_path, EitherRoot(new_root, ROOT)).rewrap() == [STANDING, 1]
    assert prepared.load(1).unwrap(epoch.wrap(b"x", b"p"), b"p") == b"x", "a copy that knows both reads on"
    again = KeyFolder(tmp_path, new_root)
    assert again.load(1).unwrap(epoch.wrap(b"x", b"p"), b"p") == b"x"
    assert again.load(STANDING).unwrap(standing.wrap(b"y", b"p"), b"p") == b"y"
    with pytest.raises(KeyFileError):
        KeyFolder(tmp_path, ROOT).load(1)


# What `age --passphrase` makes of the bytes 0 to 31 in base64 with the passphrase "correct horse". Sealing is slow on
# purpose and takes as long as the machine is slow, so a test does not do it.
SEALED_ROOT = base64.b64decode(
    "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCB0SFo1M1RReUg0NVY3Ny9ONC9yOHlnIDE3CjlCaER5S0ZNaWg1cFYxem1J"
    "QTE1VXYyVXpwL3dPOEJGYzJ5a2FaTnV3L1UKLS0tIDNTTUNLbjJvRlF3VEVrWm5iK3RIUDNDZGt6TEkyRlB4SnBGdFMvOXJvWlEK"
    "eRelXB1rgptTB991+oBi7krnAn/0I4eSOwOOd9cammMSn2dyKB0YHkyU0YrMJUzHE8GPgnbLrqcWc9orot6M8zjn1qyJrC2QrJnl"
    "DA=="
)


@pytest.mark.timeout(180)
def test_a_root_key_sealed_with_a_passphrase_needs_it(tmp_path):
    path = tmp_path / "root.age"
    path.write_bytes(SEALED_ROOT)
    opened = RootKey.from_file(path, "correct horse")
    assert opened.unwrap(RootKey(bytes(range(32))).wrap(b"x", b"p"), b"p") == b"x"
    for passphrase in (None, "wrong"):
        with pytest.raises(KeyFileError, match="VAULT_ROOT_PASSPHRASE"):
            RootKey.from_file(path, passphrase)


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
