"""The operator's part of the API."""

from __future__ import annotations

from hashlib import sha256

import pytest

from ingestion import accounts

pytestmark = pytest.mark.integration


async def post(door, path, body, headers=None):
    return await door.client.post(path, json=body, headers=headers or door.operator)


async def get(door, path, **params):
    return await door.client.get(path, params=params or None, headers=door.operator)


async def test_an_account_comes_with_administrator_inboxes_and_a_key_that_is_kept_as_digest(door):
    account = await door.create_account(
        "Second", inboxes=[{"address": "Hello@Second.EXAMPLE", "display_name": "Second"}]
    )
    assert account["inboxes"][0]["address"] == "Hello@second.example"
    assert [user["role"] for user in account["users"]] == ["administrator"]
    assert account["api_key"] == account["users"][0]["api_key"]
    digest = sha256(account["api_key"].encode()).digest()
    row = await door.pool.fetchrow("SELECT * FROM api_keys WHERE digest = $1", digest)
    assert account["api_key"].startswith(row["prefix"])
    assert len(row["prefix"]) < 12


async def test_users_get_grants_of_the_administrator(door):
    account = await door.create_account("Second", users=[{"tools": ["email"], "ends_at": "2030-01-01T00:00:00Z"}])
    administrator, user = account["users"]
    row = await door.pool.fetchrow("SELECT * FROM grants WHERE user_id = $1", user["id"])
    assert (str(row["granter_id"]), str(row["id"])) == (administrator["id"], user["grant_id"])


async def test_who_the_people_of_an_account_are_goes_to_the_vault_and_only_a_token_stays(door):
    account = await door.create_account(
        "Second",
        administrator={"address": "ines@second.example", "name": "Ines Winter"},
        users=[{}, {"person": {"address": "omar@second.example"}}],
    )
    sealed = [(one.account_id, one.kind, one.address, one.fields, one.message_key) for one in door.vault.sealed]
    assert sealed == [
        (account["id"], "administrator", "ines@second.example", {"name": "Ines Winter"}, None),
        (account["id"], "user", "omar@second.example", {}, None),
    ]
    tokens = [user["person_token"] for user in account["users"]]
    assert tokens == [door.vault.tokens[account["id"], "ines@second.example"], None, tokens[2]]
    rows = await door.pool.fetch("SELECT person_token FROM users WHERE account_id = $1", account["id"])
    assert {row["person_token"] for row in rows} == set(tokens)


async def test_a_person_that_the_vault_does_not_take_is_named_and_nothing_of_the_account_is_kept(door):
    door.vault.refused["nobody"] = {"status": 422, "field": "address"}
    body = {"name": "New", "users": [{"person": {"address": "nobody"}}]}
    answer = await post(door, "/v1/accounts", body)
    assert (answer.status_code, answer.json()["field"]) == (422, "users.0.person.address")
    assert await door.count("accounts") == 1
    door.vault.away = True
    waits = await post(door, "/v1/accounts", {"name": "New", "administrator": {"address": "a@b.example"}})
    assert waits.status_code == 503
    assert await door.count("accounts") == 1


async def test_a_name_is_taken_once_and_nothing_of_the_second_is_kept(door):
    users = await door.count("users")
    answer = await post(door, "/v1/accounts", {"name": "Lindqvist Opticians"})
    assert (answer.status_code, answer.json()["field"]) == (409, "name")
    assert await door.count("users") == users


@pytest.mark.parametrize(
    ("body", "kind", "field"),
    [
        ({"name": "New", "colour": "red"}, "unknown-field", "colour"),
        ({"name": " "}, "invalid-field", "name"),
        ({"name": "New", "inboxes": [{"address": "nobody"}]}, "invalid-address", "inboxes.0.address"),
        ({"name": "New", "accept_rules": "7"}, "rules-version-not-in-force", "accept_rules"),
    ],
)
async def test_what_does_not_fit_an_account_is_named(door, body, kind, field):
    answer = await post(door, "/v1/accounts", body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert answer.json()["type"].endswith(f":{kind}")
    assert await door.count("accounts") == 1


async def test_an_account_that_accepts_later_may_send_from_then_on(door, item):
    account = await door.create_account("Later", accept_rules=None)
    key = {"authorization": f"Bearer {account['api_key']}"}
    assert (await door.send(item(), key=key)).status_code == 403
    for _ in range(2):
        answer = await post(door, f"/v1/accounts/{account['id']}/rules-acceptances", {"version": "1"})
        assert (answer.status_code, answer.json()["version"]) == (201, "1")
    assert (await door.send(item(), key=key)).status_code == 202
    row = await door.pool.fetchrow("SELECT * FROM rules_acceptances WHERE account_id = $1", account["id"])
    assert str(row["user_id"]) == account["users"][0]["id"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/accounts/01a20477-c14d-76e4-8eae-d3677d5cb091/rules-acceptances",
        "/v1/ledger?account_id=01a20477-c14d-76e4-8eae-d3677d5cb091",
    ],
)
async def test_an_unknown_account_is_told_so(door, path):
    answer = await (get(door, path) if "ledger" in path else post(door, path, {"version": "1"}))
    assert answer.status_code == 404
    assert (answer.json()["type"], answer.json()["field"]) == ("urn:waystation:problem:unknown-account", "account_id")


async def test_accounts_are_listed_without_keys(door):
    (listed,) = (await get(door, "/v1/accounts")).json()["items"]
    assert listed["name"] == "Lindqvist Opticians"
    assert (listed["standing"], listed["accepts_rules"], listed["users"]) == ("good", True, 1)
    assert listed["inboxes"] == ["hello@lindqvist.example"]
    assert "wk_" not in str(listed)


async def test_the_ledger_counts_what_was_admitted_and_what_waits(door, item):
    await door.create_account("Silent")
    answers = (await door.send_batch([item() for _ in range(3)])).json()["items"]
    terms = (await get(door, "/v1/ledger")).json()
    mine = next(account for account in terms["accounts"] if account["id"] == door.account["id"])
    silent = next(account for account in terms["accounts"] if account["name"] == "Silent")
    assert (mine["admitted"], silent["admitted"], terms["next"]) == (3, 0, None)
    assert sorted(mine["waiting"]) == sorted(answer["message"]["id"] for answer in answers)
    assert (terms["outbox_records"], silent["waiting"]) == (3, [])
    one = (await get(door, "/v1/ledger", account_id=door.account["id"])).json()
    assert one["accounts"] == [mine]


async def test_the_ledger_lists_what_waits_page_after_page(door, item, monkeypatch):
    monkeypatch.setattr(accounts, "WAITING_MAX", 2)
    answers = (await door.send_batch([item() for _ in range(5)])).json()["items"]
    asked, pages = {"account_id": door.account["id"]}, []
    while asked.get("after", "the first"):
        page = (await get(door, "/v1/ledger", **asked)).json()
        pages += page["accounts"]
        asked["after"] = page["next"]
    waiting = sorted(answer["message"]["id"] for answer in answers)
    assert [terms["waiting"] for terms in pages] == [waiting[:2], waiting[2:4], waiting[4:]]
    assert {terms["admitted"] for terms in pages} == {5}


@pytest.mark.parametrize("path", ["/v1/accounts", "/v1/ledger", "/v1/unauthorised"])
async def test_only_the_operator_is_answered(door, path):
    assert (await door.client.get(path)).status_code == 401
    assert (await door.client.get(path, headers=door.key)).status_code == 401
    answer = await door.client.get(path, headers=door.account["other"])
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:waystation:problem:not-an-operator")


async def test_personal_data_of_users_has_no_place_in_the_tables(door):
    columns = await door.pool.fetch(
        "SELECT column_name FROM information_schema.columns WHERE table_name IN ('users', 'grants', 'api_keys')"
    )
    names = {row["column_name"] for row in columns}
    assert not names & {"name", "email", "address", "phone"}


async def test_the_same_inbox_twice_is_refused_before_anybody_goes_to_the_vault(door):
    body = {
        "name": "Twice",
        "inboxes": [{"address": "x@dup.example"}, {"address": "x@DUP.example"}],
        "administrator": {"address": "jo@dup.example"},
    }
    before = len(door.vault.sealed)
    answer = await post(door, "/v1/accounts", body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == "inboxes.1.address"
    assert len(door.vault.sealed) == before
    assert (await post(door, "/v1/accounts", {**body, "inboxes": body["inboxes"][:1]})).status_code == 201
