"""`waystation lists add | remove | quarantine | apply | drop`: what is known to be bad, and what was sent with it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from waystation.errors import CommandError
from waystation.operator import ServiceClient
from waystation.output import HomeOption, JsonFlag, Output, table
from waystation.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

MODERATION = "moderation"
ENTRIES_AT_ONCE = 1000
COLUMNS = ("id", "list", "kind", "entry", "clause", "messages", "accounts", "since")

app = typer.Typer(
    help="Lists of bad addresses, files and texts. What was sent with them is found again.", no_args_is_help=True
)

ListName = Annotated[str, typer.Option("--list", help="The list's name.")]
Clause = Annotated[str, typer.Option("--clause", help="The clause that is broken: R3.a to R5.3.")]
Addresses = Annotated[list[str] | None, typer.Option("--address", help="An address, or a host for all of it.")]
Files = Annotated[list[str] | None, typer.Option("--file-sha256", help="A file's SHA-256, hexadecimal.")]
Like = Annotated[list[str] | None, typer.Option("--like", help="A message whose text is bad, and all like it.")]
QuarantineId = Annotated[str, typer.Argument(metavar="ID", help="As `lists quarantine` shows it.")]


@app.command()
def add(
    name: ListName,
    clause: Clause,
    *,
    addresses: Addresses = None,
    files: Files = None,
    like: Like = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Put something on a list: new messages with it are found by rules, old ones are judged again."""
    changes = changes_of(name, clause, addresses, files, like, remove=False)
    _send(changes, Stack.open(home), Output(as_json), "listed")


@app.command()
def remove(
    name: ListName,
    clause: Clause,
    *,
    addresses: Addresses = None,
    files: Files = None,
    like: Like = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take something off a list. What was revised because of it stays."""
    changes = changes_of(name, clause, addresses, files, like, remove=True)
    _send(changes, Stack.open(home), Output(as_json), "taken off")


@app.command()
def quarantine(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show entries that would hit more messages than one signal may."""
    with ServiceClient(Stack.open(home)) as services:
        items = services.get(MODERATION, "/v1/lists/quarantine")["items"]
    Output(as_json).show(items, lambda: quarantine_table(items) if items else "nothing is quarantined")


@app.command()
def apply(quarantine_id: QuarantineId, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Apply a quarantined entry, however many messages it hits."""
    _settle(quarantine_id, "apply", home, as_json=as_json)


@app.command()
def drop(quarantine_id: QuarantineId, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Drop a quarantined entry."""
    _settle(quarantine_id, "drop", home, as_json=as_json)


def changes_of(
    name: str,
    clause: str,
    addresses: Sequence[str] | None,
    files: Sequence[str] | None,
    like: Sequence[str] | None,
    *,
    remove: bool,
) -> list[dict[str, Any]]:
    """Return the calls that a change needs.

    Raises:
        CommandError: nothing was given.
    """
    given = {"addresses": addresses or (), "files": files or (), "like": like or ()}
    changes = [
        {"list": name, "clause": clause, kind: list(entries[start : start + ENTRIES_AT_ONCE]), "remove": remove}
        for kind, entries in given.items()
        for start in range(0, len(entries), ENTRIES_AT_ONCE)
    ]
    if not changes:
        raise CommandError("nothing was given", "add --address, --file-sha256 or --like, each as often as you like")
    return changes


def quarantine_table(items: Sequence[Mapping[str, Any]]) -> Table:
    """Return quarantined entries as a table."""
    rows = [
        (
            *(item[name] for name in ("quarantine_id", "list", "kind", "entry", "clause")),
            f"more than {item['messages'] - 1}",
            item["accounts"],
            f"{datetime.fromisoformat(item['quarantined_at']):%Y-%m-%d %H:%M}",
        )
        for item in items
    ]
    return table(COLUMNS, rows)


def _send(changes: Sequence[dict[str, Any]], stack: Stack, output: Output, done: str) -> None:
    with ServiceClient(stack) as services:
        taken = [services.post(MODERATION, "/v1/lists", change) for change in changes]
    count = sum(answer["entries"] for answer in taken)
    output.show(taken, lambda: f"{count} {'entry is' if count == 1 else 'entries are'} {done} within seconds")


def _settle(quarantine_id: str, decision: str, home: Any, *, as_json: bool) -> None:
    with ServiceClient(Stack.open(home)) as services:
        path = f"/v1/lists/quarantine/{quote(quarantine_id, safe='')}:settle"
        settled = services.post(MODERATION, path, {"decision": decision})
    done = "applied" if decision == "apply" else "dropped"
    Output(as_json).show(settled, lambda: f"{quarantine_id} is {done}")
