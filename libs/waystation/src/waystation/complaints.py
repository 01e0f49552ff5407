"""`waystation complaints file | list | confirm | dismiss` and `waystation standing show | set`."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from common.ids import new_id
from waystation.accounts import known_account
from waystation.errors import CommandError
from waystation.feedback import file_report, read_report
from waystation.operator import ServiceClient
from waystation.output import HomeOption, JsonFlag, Output, table
from waystation.stack import Stack

if TYPE_CHECKING:
    from rich.table import Table

ENFORCEMENT = "enforcement"
COMPLAINT_COLUMNS = (
    "complaint",
    "account",
    "clause",
    "category",
    "from",
    "complainant",
    "message",
    "state",
    "came of it",
    "received",
)
CHANGE_COLUMNS = ("revision", "standing", "", "clause", "reason", "decided by", "since")


class Restriction(StrEnum):
    """What a confirmed complaint can lead to."""

    WARNED = "warned"
    LIMITED = "limited"
    SUSPENDED = "suspended"
    BLOCKED = "blocked"


class Standing(StrEnum):
    """What an account's standing can be."""

    GOOD = "good"
    WARNED = "warned"
    LIMITED = "limited"
    SUSPENDED = "suspended"
    BLOCKED = "blocked"


class State(StrEnum):
    """How far a complaint got."""

    RECEIVED = "received"
    CONFIRMED = "confirmed"
    DISMISSED = "dismissed"


app = typer.Typer(help="Complaints about accounts, and what operators decide on them.", no_args_is_help=True)
standing_app = typer.Typer(help="Who may send: good, warned, limited, suspended, blocked.", no_args_is_help=True)

ComplaintId = Annotated[str, typer.Argument(help="The complaint's id, as `complaints list` shows it.")]
AccountId = Annotated[str, typer.Argument(help="The account's id.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Published with the standing: no personal data.")]


@app.command("file")
def file_complaint(
    *,
    arf: Annotated[
        str | None, typer.Option("--arf", help="A feedback report (RFC 5965) as a mail file; - reads standard input.")
    ] = None,
    account: Annotated[str | None, typer.Option("--account", help="The account complained about.")] = None,
    clause: Annotated[str | None, typer.Option("--clause", help="R3.a to R3.g, R5.1 to R5.3, or R6.")] = None,
    category: Annotated[
        str | None, typer.Option("--category", help="unsolicited, phishing, malware, fraud ...")
    ] = None,
    origin: Annotated[str, typer.Option("--origin", help="recipient, third_party, provider ...")] = "operator",
    message: Annotated[str | None, typer.Option("--message", help="The message it is about.")] = None,
    complainant: Annotated[
        str | None, typer.Option("--complainant", help="The address of who complains; kept in the vault alone.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """File a complaint in words or as a feedback report (--arf); nothing follows from it until it is confirmed."""
    if arf is not None:
        if account or clause or category or message or complainant:
            raise CommandError("a feedback report says it all itself", "either --arf FILE, or --account, --clause ...")
        with ServiceClient(Stack.open(home)) as client:
            filed = file_report(client, read_report(arf, sys.stdin.buffer))
        Output(as_json).show(filed, filed.text)
        return
    if not (account and clause and category):
        raise CommandError("a complaint needs --account, --clause and --category", "or give a report: --arf FILE")
    call: dict[str, Any] = {"account_id": account, "clause": clause, "category": category, "origin": origin}
    if message is not None:
        call["message_id"] = message
    if complainant is not None:
        call["complainant"] = {"address": complainant}
    with ServiceClient(Stack.open(home)) as client:
        known_account(client, account)
        receipt = client.post(ENFORCEMENT, "/v1/complaints", call, idempotency_key=new_id())
    Output(as_json).show(
        receipt, lambda: f"{receipt['id']} received; decide on it: waystation complaints confirm {receipt['id']} ..."
    )


@app.command()
def assign(
    complaint_id: ComplaintId,
    account: Annotated[str, typer.Option("--account", help="The account whose message it is about.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say which account a complaint is about that came without one."""
    path = f"/v1/complaints/{quote(complaint_id, safe='')}:assign"
    with ServiceClient(Stack.open(home)) as client:
        complaint = client.post(ENFORCEMENT, path, {"account_id": known_account(client, account)})
    Output(as_json).show(complaint, lambda: f"{complaint['id']} is about {complaint['account_id']}")


@app.command("list")
def list_complaints(
    *,
    state: Annotated[State | None, typer.Option("--state", help="Only those.")] = None,
    account: Annotated[str | None, typer.Option("--account", help="Only those about it.")] = None,
    unmatched: Annotated[bool, typer.Option("--unmatched", help="Only those about an account not yet known.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500)] = 100,
    after: Annotated[str | None, typer.Option("--after", help="Continue behind this complaint.")] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show complaints, oldest first."""
    asked = {
        "state": state and state.value,
        "account_id": account,
        "unmatched": "true" if unmatched else None,
        "limit": limit,
        "after": after,
    }
    with ServiceClient(Stack.open(home)) as client:
        page = client.get(ENFORCEMENT, "/v1/complaints", asked)
    output = Output(as_json)
    output.show(page, lambda: _complaint_table(page["complaints"]) if page["complaints"] else "no complaint")
    if page["next"]:
        output.say(f"there are more: --after {page['next']}")


@app.command()
def confirm(
    complaint_id: ComplaintId,
    standing: Annotated[Restriction, typer.Option("--standing", help="What the account shall be at least.")],
    reason: ReasonOption,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Confirm a complaint: the account's standing becomes at least this strict."""
    call = {"standing": standing.value, "reason": reason}
    with ServiceClient(Stack.open(home)) as client:
        complaint = client.post(ENFORCEMENT, f"/v1/complaints/{quote(complaint_id, safe='')}:confirm", call)
    Output(as_json).show(complaint, lambda: _confirmed(complaint, standing.value))


@app.command()
def dismiss(
    complaint_id: ComplaintId,
    reason: ReasonOption = "unfounded",
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Dismiss a complaint: nothing follows from it."""
    path = f"/v1/complaints/{quote(complaint_id, safe='')}:dismiss"
    with ServiceClient(Stack.open(home)) as client:
        complaint = client.post(ENFORCEMENT, path, {"reason": reason})
    Output(as_json).show(complaint, lambda: f"{complaint['id']} dismissed")


@standing_app.command()
def show(account: AccountId, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show an account's standing and how it came to it, newest first."""
    with ServiceClient(Stack.open(home)) as client:
        answer = client.get(ENFORCEMENT, f"/v1/standings/{quote(known_account(client, account), safe='')}")
    Output(as_json).show(answer, lambda: _standing_table(answer))


@standing_app.command("set")
def set_standing(
    account: AccountId,
    standing: Annotated[Standing, typer.Argument(help="What its standing shall be.")],
    *,
    reason: ReasonOption,
    clause: Annotated[str | None, typer.Option("--clause", help="The clause it rests on.")] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Set an account's standing, milder or stricter than it is."""
    call = {"standing": standing.value, "reason": reason, "clause": clause}
    with ServiceClient(Stack.open(home)) as client:
        answer = client.post(ENFORCEMENT, f"/v1/standings/{quote(known_account(client, account), safe='')}", call)
    Output(as_json).show(answer, lambda: _standing_table(answer))


def _confirmed(complaint: dict[str, Any], asked: str) -> str:
    decision = complaint["decision"]
    account, standing = complaint["account_id"], decision["standing"]
    if decision["asked"] != asked:
        return (
            f"it was confirmed before, asking for {decision['asked']}: {account} became {standing}; nothing changed now"
        )
    if decision["outcome"] == "kept":
        return (
            f"confirmed; {account} stays {standing}, which is stricter than {asked} (revision {decision['revision']})"
        )
    return f"confirmed; {account} is {standing} (revision {decision['revision']})"


def _complaint_table(complaints: list[dict[str, Any]]) -> Table:
    rows = [
        (
            complaint["id"],
            complaint["account_id"] or _unmatched(complaint["report"]),
            complaint["clause"],
            complaint["category"],
            complaint["origin"],
            complaint["complainant"],
            complaint["message_id"],
            complaint["state"],
            (complaint["decision"] or {}).get("standing"),
            complaint["received_at"],
        )
        for complaint in complaints
    ]
    return table(COMPLAINT_COLUMNS, rows)


def _unmatched(report: dict[str, Any] | None) -> str:
    domain = (report or {}).get("sender_domain")
    return f"not known; sent from {domain}" if domain else "not known"


def _standing_table(answer: dict[str, Any]) -> Table:
    names = ("revision", "standing", "outcome", "clause", "reason", "decided_by", "since")
    rows = [tuple(change[name] for name in names) for change in answer["changes"]]
    return table(CHANGE_COLUMNS, rows, title=f"{answer['account_id']} is {answer['standing']}")
