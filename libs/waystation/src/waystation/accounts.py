"""`waystation accounts create | list`: who may send, and the keys with which `waystation send` does it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from email.utils import parseaddr
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from waystation.errors import CommandError
from waystation.operator import ServiceClient
from waystation.output import HomeOption, JsonFlag, Output, table
from waystation.stack import Stack
from waystation.stack.layout import write_atomically

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.table import Table

INGESTION = "ingestion"
PRIVATE = 0o600
COLUMNS = ("account", "id", "standing", "rules", "users", "inboxes")

app = typer.Typer(help="Accounts that may send.", no_args_is_help=True)


class Services(Protocol):
    """What is needed of the services; `waystation.operator.ServiceClient` has it."""

    def get(self, service: str, path: str, params: Mapping[str, str | int | None] | None = None) -> Any:
        """Return the JSON answer of a GET."""

    def post(self, service: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON answer of a POST."""


@dataclass(frozen=True, slots=True)
class KnownAccount:
    """An account that was made by this stack's command, with the key to send by."""

    name: str
    id: str
    api_key: str
    inboxes: tuple[str, ...]


class KeyFile:
    """The accounts of a stack with their keys, in a file that only its owner reads; it goes when the stack is wiped."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, stack: Stack) -> KeyFile:
        """The file of a stack."""
        return cls(stack.layout.secrets / "accounts.json")

    def read(self) -> dict[str, KnownAccount]:
        """All accounts by name.

        Raises:
            CommandError: the file is damaged.
        """
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            return {
                name: KnownAccount(name, each["id"], each["api_key"], tuple(each["inboxes"]))
                for name, each in content.items()
            }
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CommandError(f"{self._path} is damaged", "move it away and create the accounts again") from error

    def add(self, account: KnownAccount) -> None:
        """Keep an account."""
        known = {**self.read(), account.name: account}
        content = {name: {**asdict(each), "inboxes": list(each.inboxes)} for name, each in known.items()}
        write_atomically(self._path, json.dumps(content, indent=2) + "\n", PRIVATE)


def create_account(
    services: Services, keys: KeyFile, wanted: Mapping[str, Any], *, accept_rules: bool
) -> dict[str, Any]:
    """Create an account and keep its key; return what the door answered.

    The key that is kept is that of the first user, or the administrator's when there is none.

    Raises:
        CommandError: the door refused it, or does not answer.
    """
    version = services.get(INGESTION, "/v1/rules")["version"] if accept_rules else None
    created: dict[str, Any] = services.post(INGESTION, "/v1/accounts", {**wanted, "accept_rules": version})
    sender = created["users"][-1]
    addresses = tuple(inbox["address"] for inbox in created["inboxes"])
    keys.add(KnownAccount(created["name"], created["id"], sender["api_key"], addresses))
    return created


def inbox_from(text: str) -> dict[str, str]:
    """Read `address` or `Name <address>`.

    Raises:
        CommandError: it is neither.
    """
    name, address = parseaddr(text)
    if "@" not in address:
        raise CommandError(f"{text!r} is no inbox", "write hello@shop.example or 'Shop <hello@shop.example>'")
    return {"address": address, **({"display_name": name} if name else {})}


def person_from(text: str) -> dict[str, str]:
    """Read `address` or `Name <address>` of a person.

    Raises:
        CommandError: it is neither.
    """
    name, address = parseaddr(text)
    if "@" not in address:
        raise CommandError("--administrator is no address", "write ines@shop.example or 'Ines <ines@shop.example>'")
    return {"address": address, **({"name": name} if name else {})}


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the business; each is there once.")],
    *,
    inbox: Annotated[
        list[str] | None, typer.Option("--inbox", help="ADDRESS or 'Name <ADDRESS>' to send from, repeatable.")
    ] = None,
    administrator: Annotated[
        str | None, typer.Option("--administrator", help="ADDRESS or 'Name <ADDRESS>'; kept in the vault only.")
    ] = None,
    user: Annotated[bool, typer.Option("--user", help="Also a user under a grant; `send` then takes his key.")] = False,
    accept_rules: Annotated[
        bool, typer.Option("--accept-rules", help="The administrator accepts the rules in force; needed to send.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Create an account; its key is shown this once and kept for `waystation send`."""
    stack = Stack.open(home)
    inboxes = [inbox_from(each) for each in inbox or ()]
    wanted: dict[str, Any] = {"name": name, "inboxes": inboxes, "users": [{}] if user else []}
    if administrator is not None:
        wanted["administrator"] = person_from(administrator)
    with ServiceClient(stack) as services:
        created = create_account(services, KeyFile.of(stack), wanted, accept_rules=accept_rules)
    Output(as_json).show(created, lambda: created_text(created))


def known_account(services: ServiceClient, account_id: str) -> str:
    """Return the id of an account; while the door does not answer, whatever is named.

    Raises:
        CommandError: there is no account of this id.
    """
    try:
        known = {each["id"] for each in services.get(INGESTION, "/v1/accounts")["items"]}
    except CommandError:  # whoever blocks an account does not wait for the door
        return account_id
    if account_id not in known:
        raise CommandError(f"there is no account with the id {account_id}", "waystation accounts list shows all")
    return account_id


@app.command("list")
def list_accounts(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show all accounts with their standing."""
    with ServiceClient(Stack.open(home)) as services:
        found = services.get(INGESTION, "/v1/accounts")["items"]
    Output(as_json).show(found, lambda: accounts_table(found) if found else "there is no account yet")


def accounts_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return accounts as a table."""
    rows = [
        (
            each["name"],
            each["id"],
            each["standing"],
            "accepted" if each["accepts_rules"] else "not accepted",
            each["users"],
            ", ".join(each["inboxes"]),
        )
        for each in found
    ]
    return table(COLUMNS, rows)


def created_text(created: Mapping[str, Any]) -> str:
    """Return what a person needs to know of a new account."""
    lines = [f"account {created['name']}: {created['id']}"]
    lines += [f"inbox   {inbox['address']}" for inbox in created["inboxes"]]
    lines += [f"key     {user['api_key']} ({user['role']}; shown this once)" for user in created["users"]]
    if created["rules_version"] is None:
        lines.append(
            "It has not accepted the rules yet and cannot send. An administrator accepts them: "
            "POST /v1/accounts/ID/rules-acceptances, or create another account with --accept-rules."
        )
    return "\n".join(lines)
