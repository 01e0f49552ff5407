"""Accounts as an operator makes them: administrator, users with grants, inboxes, keys, acceptance of the rules."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from common.contracts.vault import SealCall, SealItem
from common.http.problems import Problem
from common.ids import new_id
from common.postgres.queries import load_queries
from common.times import rfc3339
from ingestion.mime import ContentError, parse_address
from ingestion.submission import Address, Moment, Name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from common.postgres.pool import Connection, Pool
    from ingestion.admission import Sealer
    from ingestion.domain import RulesInForce

WAITING_MAX = 100_000
_KEY_PREFIX_SHOWN = 9
_Q = load_queries("ingestion")


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NewInbox(_Written):
    """One of the account's own addresses; `display_name` stands beside it in From."""

    tool: Literal["email"] = "email"
    address: Address
    display_name: Name | None = None


class NewPerson(_Written):
    """Who a user or administrator is: kept in the vault, as a person of that kind; here stands the token."""

    address: Address
    name: Name | None = None


class NewUser(_Written):
    """A user whom the administrator authorises for some tools, until a time or without end."""

    person: NewPerson | None = None
    tools: Annotated[tuple[Literal["email"], ...], Field(min_length=1, max_length=4)] = ("email",)
    ends_at: Moment | None = None


class NewAccount(_Written):
    """An account with its administrator, and who that is. `accept_rules` names the version of the rules he accepts."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\s\x00-\x1f](.*[^\s])?$")]
    administrator: NewPerson | None = None
    inboxes: Annotated[tuple[NewInbox, ...], Field(max_length=100)] = ()
    users: Annotated[tuple[NewUser, ...], Field(max_length=100)] = ()
    accept_rules: Annotated[str, Field(max_length=20)] | None = None
    key_expires_at: Moment | None = None


class RulesAcceptance(_Written):
    """An administrator's acceptance of a version of the rules, handed in by the operator."""

    version: Annotated[str, Field(max_length=20)]


class CreatedUser(BaseModel):
    """A user with his key, which is shown this once, and his token in the vault."""

    id: str
    role: Literal["administrator", "user"]
    grant_id: str | None
    api_key: str
    person_token: str | None = None


class CreatedInbox(BaseModel):
    """An inbox with its id; the address is in its normal form."""

    id: str
    tool: str
    address: str


class CreatedAccount(BaseModel):
    """A new account; `api_key` is the administrator's and, like those of the users, is shown this once."""

    id: str
    name: str
    api_key: str
    rules_version: str | None
    users: list[CreatedUser]
    inboxes: list[CreatedInbox]


class AccountSummary(BaseModel):
    """An account as the operator's list shows it."""

    id: str
    name: str
    standing: str
    revision: int
    accepts_rules: bool
    users: int
    inboxes: list[str]
    created_at: str


class AccountTerms(BaseModel):
    """The door's terms of the conservation equation; `waiting` are the messages without any receipt."""

    id: str
    name: str
    admitted: int
    waiting: list[str]


class LedgerTerms(BaseModel):
    """What the door counts from its own rows at one moment; `next` continues the lists of what waits as `after`."""

    accounts: list[AccountTerms]
    next: str | None
    outbox_records: int
    outbox_seconds: float


@dataclass(frozen=True, slots=True)
class _Made:
    """A user that is about to be stored."""

    user: CreatedUser
    grant: NewUser | None
    person: NewPerson | None
    field: str


async def create_account(pool: Pool, wanted: NewAccount, rules: RulesInForce, sealer: Sealer) -> CreatedAccount:
    """Store a new account, all or nothing; who its people are goes to the vault, and only there.

    Raises:
        Problem: the name is taken, an address is none, or the version of the rules is not the one in force.
    """
    _check_version(wanted.accept_rules, rules)
    inboxes = [_inbox(inbox, f"inboxes.{at}.address") for at, inbox in enumerate(wanted.inboxes)]
    _check_inboxes(inboxes)
    made = [
        _Made(_user("administrator"), None, wanted.administrator, "administrator"),
        *(_Made(_user("user"), user, user.person, f"users.{at}.person") for at, user in enumerate(wanted.users)),
    ]
    account_id = new_id()
    async with pool.acquire() as connection, connection.transaction():
        if await connection.fetchval(_Q["insert_account"], account_id, wanted.name) is None:
            raise Problem(409, "account-exists", "there is an account of this name: choose another name", field="name")
        await _seal_people(sealer, account_id, made)
        await _insert_users(connection, account_id, made, wanted)
        for inbox, asked in zip(inboxes, wanted.inboxes, strict=True):
            values = (inbox.id, account_id, inbox.tool, inbox.address, asked.display_name)
            await connection.execute(_Q["insert_inbox"], *values)
        if wanted.accept_rules is not None:
            await connection.execute(_Q["insert_acceptance"], account_id, rules.version, rules.text_digest)
    return CreatedAccount(
        id=account_id,
        name=wanted.name,
        api_key=made[0].user.api_key,
        rules_version=wanted.accept_rules,
        users=[each.user for each in made],
        inboxes=inboxes,
    )


def _check_inboxes(inboxes: Sequence[CreatedInbox]) -> None:
    seen: set[tuple[str, str]] = set()
    for at, inbox in enumerate(inboxes):
        if (inbox.tool, inbox.address) in seen:
            field = f"inboxes.{at}.address"
            raise Problem(422, "invalid-field", f"{field}: the account has this inbox already", field=field)
        seen.add((inbox.tool, inbox.address))


async def _seal_people(sealer: Sealer, account_id: str, made: Sequence[_Made]) -> None:
    """Hand the people that were named to the vault; their users get the tokens."""
    named = [(each, each.person) for each in made if each.person is not None]
    if not named:
        return
    items = [
        SealItem(
            account_id=account_id,
            message_id=each.user.id,
            address=person.address,
            fields={} if person.name is None else {"name": person.name},
            kind=each.user.role,
        )
        for each, person in named
    ]
    answers = await sealer.seal(SealCall(purpose="intake", items=items))
    for (each, _), answer in zip(named, answers, strict=True):
        if answer.problem is not None:
            field = f"{each.field}.{answer.problem.get('field', 'address')}"
            raise Problem(422, "invalid-address", f"{field}: the vault does not take it as an address", field=field)
        each.user.person_token = answer.token


async def accept_rules(pool: Pool, account_id: UUID, version: str, rules: RulesInForce) -> None:
    """Record an account's acceptance of the version in force; a second time changes nothing."""
    _check_version(version, rules)
    if not await pool.fetchval(_Q["account_exists"], account_id):
        raise _unknown_account()
    await pool.execute(_Q["insert_acceptance"], account_id, rules.version, rules.text_digest)


async def list_accounts(pool: Pool, rules: RulesInForce) -> Sequence[AccountSummary]:
    """Return all accounts by name."""
    rows = await pool.fetch(_Q["list_accounts"], rules.version, rules.text_digest)
    return [AccountSummary(**{**row, "created_at": rfc3339(row["created_at"])}) for row in map(dict, rows)]


async def ledger(pool: Pool, account_id: UUID | None, after: UUID | None) -> LedgerTerms:
    """Return the door's terms of the conservation equation, all of one moment; of what waits a page behind `after`.

    Raises:
        Problem: there is no such account.
    """
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        accounts = await connection.fetch(_Q["ledger_accounts"], account_id)
        waiting = await connection.fetch(_Q["ledger_waiting"], account_id, after, WAITING_MAX)
        outbox = await connection.fetchrow(_Q["ledger_outbox"])
    if account_id is not None and not accounts:
        raise _unknown_account()
    ids: dict[str, list[str]] = {row["id"]: [] for row in accounts}
    for row in waiting:
        ids[row["account_id"]].append(row["message_id"])
    return LedgerTerms(
        accounts=[
            AccountTerms(id=row["id"], name=row["name"], admitted=row["admitted"], waiting=ids[row["id"]])
            for row in accounts
        ],
        next=waiting[-1]["message_id"] if len(waiting) == WAITING_MAX else None,
        outbox_records=outbox["records"],
        outbox_seconds=outbox["seconds"],
    )


async def _insert_users(connection: Connection, account_id: str, made: Sequence[_Made], wanted: NewAccount) -> None:
    administrator = made[0].user
    users = [each.user for each in made]
    columns = zip(*((user.id, user.role, user.person_token) for user in users), strict=True)
    await connection.execute(_Q["insert_users"], account_id, *map(list, columns))
    for each in made:
        user = each.user
        if each.grant is not None:
            values: tuple[Any, ...] = (
                user.grant_id,
                user.id,
                administrator.id,
                list(each.grant.tools),
                each.grant.ends_at,
            )
            await connection.execute(_Q["insert_grant"], *values)
        digest = sha256(user.api_key.encode()).digest()
        shown = user.api_key[:_KEY_PREFIX_SHOWN]
        await connection.execute(_Q["insert_api_key"], digest, user.id, shown, wanted.key_expires_at)


def _user(role: Literal["administrator", "user"]) -> CreatedUser:
    return CreatedUser(
        id=new_id(),
        role=role,
        grant_id=new_id() if role == "user" else None,
        api_key="wk_" + secrets.token_urlsafe(32),
    )


def _inbox(inbox: NewInbox, field: str) -> CreatedInbox:
    try:
        address = parse_address(inbox.address, field=field)
    except ContentError as error:
        raise Problem(422, "invalid-address", f"{error.field} {error.reason}", field=field, limit=error.limit) from None
    return CreatedInbox(id=new_id(), tool=inbox.tool, address=address)


def _check_version(version: str | None, rules: RulesInForce) -> None:
    if version not in (None, rules.version):
        raise Problem(
            422,
            "rules-version-not-in-force",
            f"version {rules.version} of the rules is in force: accept that one",
            field="accept_rules",
            clause="R0",
            rules_version=rules.version,
        )


def _unknown_account() -> Problem:
    return Problem(404, "unknown-account", "there is no account with this id", field="account_id")
