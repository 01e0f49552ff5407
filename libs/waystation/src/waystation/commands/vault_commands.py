"""`waystation vault ...`: what a data protection officer and an auditor do with the vault, as the operator."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from common.times import parse_rfc3339
from waystation.commands.duties_commands import COMMANDS
from waystation.commands.persons import AccountOption, AddressOption, KindOption, PhoneOption, TokenOption, person
from waystation.errors import CommandError
from waystation.operator import ServiceClient
from waystation.output import HomeOption, JsonFlag, Output, table
from waystation.proof.access_log import verify_log
from waystation.stack import Stack

ENTRIES_AT_ONCE = 1000
app = typer.Typer(
    help="Personal data: persons' rights, retention, registers, erasure, breach scope, the access log.",
    no_args_is_help=True,
)
app.command("verify-log")(verify_log)

for _name, _command in COMMANDS:
    app.command(_name)(_command)


@app.command()
def erase(
    account: AccountOption,
    *,
    token: TokenOption = None,
    address: AddressOption = None,
    phone: PhoneOption = None,
    known_as: KindOption = None,
    reason: Annotated[str, typer.Option(help="A code that the receipt will carry.")] = "request-of-person",
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Erase a person: key, fields and look-ups at once, every older copy with the end of the epoch."""
    body = {"purpose": "data-protection", "reason": reason, "items": [person(account, token, address, phone, known_as)]}
    with ServiceClient(Stack.open(home)) as client:
        (answer,) = client.post("vault", "/v1/erase:batch", body)["items"]
    if "problem" in answer:
        raise CommandError(answer["problem"]["detail"], "look the person up with another address, phone or token")
    Output(as_json).show(answer, lambda: f"erased at {answer['erased_at']}: {', '.join(answer['tokens'])}")


@app.command("end-epoch")
def end_epoch(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """End the epoch now: what was erased is unreadable in every backup, replica and log from then on."""
    with ServiceClient(Stack.open(home)) as client:
        answer = client.post("vault", "/v1/epochs")
    Output(as_json).show(answer, lambda: f"epoch {answer['epoch']} has begun; the keys of all before are destroyed")


@app.command("export-log")
def export_log(
    file: Annotated[Path, typer.Argument(help="Where to write, one JSON document a line.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the access log with its ledger rows, for `verify-log`; tokens and ids, no personal data."""
    written = 0
    with ServiceClient(Stack.open(home)) as client, file.open("w", encoding="utf-8") as target:
        while items := client.get("vault", "/v1/log", {"start": written, "limit": ENTRIES_AT_ONCE})["items"]:
            target.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
            written += len(items)
    Output(as_json).show({"entries": written, "file": str(file)}, lambda: f"{written} entries in {file}")


def whole_scope(client: ServiceClient, asked: dict[str, str]) -> dict[str, Any]:
    """Return the scope of a breach with the persons of all its pages."""
    answer: dict[str, Any] = client.get("vault", "/v1/breach-scope", asked)
    while answer["next"] is not None:
        page = client.get("vault", "/v1/breach-scope", {**asked, "after": answer["next"]})
        answer["items"] += page["items"]
        answer["next"] = page["next"]
    return answer


def _moment(option: str, text: str) -> datetime:
    try:
        return parse_rfc3339(text)
    except ValueError:
        raise CommandError(f"{option}: {text!r} is no time", "write it as 2026-11-22T00:00:00Z") from None


@app.command("breach-scope")
def breach_scope(
    provider: Annotated[str, typer.Option("--provider", help="The provider, as the register names it.")],
    since: Annotated[str, typer.Option("--from", help="RFC 3339, for example 2026-11-22T00:00:00Z.")],
    until: Annotated[str, typer.Option("--to", help="RFC 3339; not included.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say which fields of whom a provider received between two times, with the number of disclosures."""
    if _moment("--from", since) >= _moment("--to", until):
        raise CommandError("--from is not before --to", "no time lies between them")
    output, asked = Output(as_json), {"provider": provider, "since": since, "until": until}
    with ServiceClient(Stack.open(home)) as client:
        answer = whole_scope(client, asked)
    fields = ", ".join(answer["fields"]) or "no field"
    output.say(f"{provider} received {fields} of {answer['persons']} persons in {answer['disclosures']} disclosures")
    rows = [
        (one["account_id"], one["recipient_token"], ", ".join(one["fields"]), one["disclosures"])
        for one in answer["items"]
    ]
    output.show(answer, lambda: table(("account", "person", "fields", "disclosures"), rows) if rows else "nobody")
