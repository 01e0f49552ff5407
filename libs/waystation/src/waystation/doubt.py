"""`waystation doubt list | resolve`: hand-overs of which nobody knows how they ended, and a person's word on them."""

from __future__ import annotations

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

ROUTING = "routing"
COLUMNS = ("message", "account", "attempt", "provider", "begun", "what happened", "resend by itself")

app = typer.Typer(
    help="Hand-overs in doubt: the provider may have accepted them, and nobody was told.", no_args_is_help=True
)


@app.command("list")
def list_doubts(
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 100,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what is in doubt, oldest first."""
    with ServiceClient(Stack.open(home)) as services:
        doubts = services.get(ROUTING, "/v1/doubts", {"limit": limit})["items"]
    Output(as_json).show(doubts, lambda: doubt_table(doubts) if doubts else "nothing is in doubt")


@app.command()
def resolve(
    message_id: Annotated[str, typer.Argument(metavar="ID", help="The message's id, as `doubt list` shows it.")],
    *,
    handed_over: Annotated[bool, typer.Option("--handed-over", help="The provider has it.")] = False,
    refused: Annotated[bool, typer.Option("--refused", help="The provider does not have it; let it rest.")] = False,
    resend: Annotated[bool, typer.Option("--resend", help="Hand it over once more; it may arrive twice.")] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write down what became of a message in doubt, after asking the provider."""
    decision = chosen_decision(handed_over=handed_over, refused=refused, resend=resend)
    with ServiceClient(Stack.open(home)) as services:
        delivery = services.post(ROUTING, f"/v1/doubts/{quote(message_id, safe='')}:resolve", {"decision": decision})
    Output(as_json).show(delivery, lambda: outcome_line(delivery))


def outcome_line(delivery: Mapping[str, Any]) -> str:
    """Return where a delivery stands after a decision. Each doubtful attempt needs its own, the newest comes first."""
    left = [str(attempt["number"]) for attempt in delivery["attempts"] if attempt["result"] == "doubt"]
    if delivery["state"] == "in_doubt":
        return f"{delivery['message_id']} stays in doubt: attempt {', '.join(left)} may have arrived too; resolve again"
    return f"{delivery['message_id']} is {delivery['state'].replace('_', ' ')}: {delivery['reason']}"


def chosen_decision(*, handed_over: bool, refused: bool, resend: bool) -> str:
    """Return the one decision that was given.

    Raises:
        CommandError: none was given, or several.
    """
    given = [
        name for name, chosen in (("handed_over", handed_over), ("refused", refused), ("resend", resend)) if chosen
    ]
    if len(given) != 1:
        raise CommandError(
            f"{len(given)} decisions were given", "give exactly one of --handed-over, --refused and --resend"
        )
    return given[0]


def doubt_table(doubts: Sequence[dict[str, Any]]) -> Table:
    """Return doubts as a table, a doubtful attempt a line."""
    rows = [
        (
            doubt["message_id"],
            doubt["account_id"],
            doubt["number"],
            doubt["provider"],
            doubt["begun_at"],
            doubt["reason"],
            "allowed" if doubt["duplicates_allowed"] else "no",
        )
        for doubt in doubts
    ]
    return table(COLUMNS, rows)
