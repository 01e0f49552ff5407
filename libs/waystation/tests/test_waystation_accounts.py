from __future__ import annotations

import stat

import pytest

from waystation.accounts import (
    KeyFile,
    KnownAccount,
    accounts_table,
    create_account,
    created_text,
    inbox_from,
    known_account,
)
from waystation.errors import CommandError


class FakeServices:
    def __init__(self):
        self.posted = []

    def get(self, service, path, params=None):
        assert (service, path) == ("ingestion", "/v1/rules")
        return {"version": "7", "text_digest": "d"}

    def post(self, service, path, body=None):
        self.posted.append((path, body))
        users = [{"id": "u-1", "role": "administrator", "grant_id": None, "api_key": "wk_admin"}]
        users += [{"id": "u-2", "role": "user", "grant_id": "g", "api_key": "wk_user"} for _ in body["users"]]
        inboxes = [{"id": "i-1", "tool": "email", "address": "hello@shop.example"}]
        return {
            "id": "a-1",
            "name": body["name"],
            "api_key": "wk_admin",
            "rules_version": body["accept_rules"],
            "users": users,
            "inboxes": inboxes,
        }


@pytest.fixture
def keys(tmp_path):
    return KeyFile(tmp_path / "accounts.json")


@pytest.mark.parametrize(("users", "key"), [([], "wk_admin"), ([{}], "wk_user")])
def test_the_key_of_a_new_account_is_kept_for_send(keys, users, key):
    create_account(FakeServices(), keys, {"name": "Shop", "inboxes": [], "users": users}, accept_rules=True)
    assert keys.read() == {"Shop": KnownAccount("Shop", "a-1", key, ("hello@shop.example",))}


def test_only_its_owner_reads_the_keys(keys, tmp_path):
    keys.add(KnownAccount("Shop", "a-1", "wk_x", ()))
    keys.add(KnownAccount("Other", "a-2", "wk_y", ()))
    assert stat.S_IMODE((tmp_path / "accounts.json").stat().st_mode) == 0o600
    assert sorted(keys.read()) == ["Other", "Shop"]


@pytest.mark.parametrize(("accept", "version"), [(True, "7"), (False, None)])
def test_the_rules_are_accepted_only_when_asked_for(keys, accept, version):
    services = FakeServices()
    created = create_account(services, keys, {"name": "Shop", "inboxes": [], "users": []}, accept_rules=accept)
    assert services.posted[0][1]["accept_rules"] == version
    assert ("cannot send" in created_text(created)) is not accept


@pytest.mark.parametrize("text", ["", "[]", '{"Shop": {}}', '{"Shop": 5}'])
def test_a_damaged_key_file_says_what_to_do(tmp_path, text):
    (tmp_path / "accounts.json").write_text(text)
    with pytest.raises(CommandError, match="damaged"):
        KeyFile(tmp_path / "accounts.json").read()


@pytest.mark.parametrize(
    ("text", "inbox"),
    [
        ("hello@shop.example", {"address": "hello@shop.example"}),
        ("Shop <hello@shop.example>", {"address": "hello@shop.example", "display_name": "Shop"}),
    ],
)
def test_an_inbox_is_an_address_with_or_without_a_name(text, inbox):
    assert inbox_from(text) == inbox


def test_what_is_no_inbox_is_refused():
    with pytest.raises(CommandError, match="no inbox"):
        inbox_from("shop")


def test_accounts_are_shown_with_standing_and_rules():
    listed = {
        "name": "Shop",
        "id": "a-1",
        "standing": "suspended",
        "accepts_rules": False,
        "users": 2,
        "inboxes": ["hello@shop.example"],
    }
    assert accounts_table([listed]).row_count == 1


class Doors:
    """Knows two accounts, or is away."""

    def __init__(self, *, away=False):
        self.away = away

    def get(self, service, path):
        assert (service, path) == ("ingestion", "/v1/accounts")
        if self.away:
            raise CommandError("ingestion does not answer")
        return {"items": [{"id": "a-1", "name": "Shop"}, {"id": "a-2", "name": "Other"}]}


def test_an_account_is_named_by_its_id_and_one_that_nobody_has_is_refused():
    assert known_account(Doors(), "a-2") == "a-2"
    with pytest.raises(CommandError, match="no account with the id Shop"):
        known_account(Doors(), "Shop")
    assert known_account(Doors(away=True), "Shop") == "Shop", "a block does not wait for the door"
