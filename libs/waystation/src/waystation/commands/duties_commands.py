"""`waystation vault ...`: a processor's duties, from one person's export to the end of an account."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from waystation.commands.persons import AccountOption, AddressOption, KindOption, PhoneOption, TokenOption, person
from waystation.errors import CommandError
from waystation.operator import ServiceClient
from waystation.output import HomeOption, JsonFlag, Output, table
from waystation.send import Basis
from waystation.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

PURPOSE = "data-protection"
LEGAL_BASIS = "legal-basis"
FileArgument = Annotated[Path, typer.Argument(help="Where to write; readable by you only. Its ending says the form.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why, for the record.")]
LiftFlag = Annotated[bool, typer.Option("--lift", help="Take it back.")]


def export(
    file: FileArgument,
    account: AccountOption,
    *,
    token: TokenOption = None,
    address: AddressOption = None,
    phone: PhoneOption = None,
    known_as: KindOption = None,
    before: Annotated[str | None, typer.Option(help="Go on before this entry, as `more` of an export says.")] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Export a person: who received what, when, on which basis; a page (.html) or a document (.json)."""
    path = {".html": "/v1/export/page", ".json": "/v1/export"}.get(file.suffix)
    if path is None:
        raise CommandError(f"{file.name} ends neither in .html nor in .json", "name the file by the form you want")
    body = {"purpose": PURPOSE, "person": person(account, token, address, phone, known_as)}
    with ServiceClient(Stack.open(home)) as client:
        size = client.download("vault", path, file, {**body, **({} if before is None else {"before": before})})
    Output(as_json).show({"file": str(file), "bytes": size}, lambda: f"{size} bytes in {file}, readable by you only")


def rectify(
    account: AccountOption,
    values: Annotated[list[str], typer.Option("--set", help="FIELD=VALUE; FIELD= removes it. Several times.")],
    *,
    token: TokenOption = None,
    address: AddressOption = None,
    phone: PhoneOption = None,
    known_as: KindOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Rectify fields of a person: address, name, phone, postal_address, language, time_zone."""
    fields: dict[str, str | None] = {}
    for text in values:
        name, sign, value = text.partition("=")
        if not sign:
            raise CommandError(f"--set without '=': {name}", "say --set name=Anna, or --set phone= to remove it")
        fields[name] = value or None
    item = {"person": person(account, token, address, phone, known_as), "fields": fields}
    answer = _ask_one(home, "rectify:batch", item)
    Output(as_json).show(answer, lambda: f"rectified: {', '.join(answer['tokens'])}; see who is to be told: notices")


def restrict(
    account: AccountOption,
    *,
    token: TokenOption = None,
    address: AddressOption = None,
    phone: PhoneOption = None,
    known_as: KindOption = None,
    lift: LiftFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Restrict a person (Art. 18): nothing is disclosed, and retention does not erase, until it is lifted."""
    item = {"person": person(account, token, address, phone, known_as), "restricted": not lift}
    answer = _ask_one(home, "restrict:batch", item)
    Output(as_json).show(answer, lambda: f"{'lifted' if lift else 'restricted'}: {', '.join(answer['tokens'])}")


def withdraw(
    account: AccountOption,
    purpose: Annotated[str, typer.Option(help="The purpose of the basis, for example newsletter.")],
    *,
    kind: Annotated[Basis, typer.Option(help="What the messages rest on.")] = Basis.CONSENT,
    token: TokenOption = None,
    address: AddressOption = None,
    phone: PhoneOption = None,
    known_as: KindOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """End a legal basis now: messages that wait on it are withheld."""
    item = {"person": person(account, token, address, phone, known_as), "purpose": purpose, "kind": kind}
    answer = _ask_one(home, "withdraw:batch", item, purpose=LEGAL_BASIS)
    Output(as_json).show(answer, lambda: f"withdrawn: {kind} for {purpose} of {', '.join(answer['tokens'])}")


def opt_out(
    account: AccountOption,
    *,
    address: AddressOption = None,
    phone: PhoneOption = None,
    reason: ReasonOption = "opt-out",
    lift: LiftFlag = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Keep an opt-out of an address or a phone, known or not; it outlives erasure."""
    named = person(account, None, address, phone)
    item = {**named, "tool": "telephony" if address is None else "email", "reason": reason, "lift": lift}
    answer = _ask_one(home, "suppress:batch", item, purpose=LEGAL_BASIS)
    done = "lifted" if lift else "kept"
    Output(as_json).show(answer, lambda: f"{done}; persons known by it: {len(answer['tokens'])}")


def object_to(
    processor: Annotated[str, typer.Argument(help="The processor, as the register names it.")],
    account: AccountOption,
    *,
    reason: ReasonOption = "objection of the account",
    lift: LiftFlag = False,
    late: Annotated[bool, typer.Option("--late", help="After the notice period, where both sides agreed.")] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Record an account's objection to a processor: it receives nothing of the account's people."""
    item = {"account_id": account, "processor": processor, "reason": reason, "lift": lift, "late": late}
    answer = _ask_one(home, "object:batch", item)
    said = "objects to" if answer["objects"] else "does not object to"
    Output(as_json).show(answer, lambda: f"{account} {said} {processor} (in force from {answer['approved_from']})")


def processors(
    file: Annotated[Path | None, typer.Argument(help="A page (.html) to publish instead of a table.")] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the register of sub-processors, or write it as a page."""
    with ServiceClient(Stack.open(home)) as client:
        if file is not None:
            size = client.download("vault", "/v1/processors/page", file)
            Output(as_json).show({"file": str(file), "bytes": size}, lambda: f"{size} bytes in {file}")
            return
        answer = client.get("vault", "/v1/processors")
    rows = [
        (one["name"], one["tool"], ", ".join(one["fields"]), one["country"], one["state"], one["approved_from"])
        for one in answer["processors"]
    ]
    Output(as_json).show(answer, lambda: table(("name", "tool", "fields", "country", "state", "from"), rows))


def records(file: FileArgument, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Write the records of processing (Art. 30(2)) from what is in force: .md, .html or .json."""
    paths = {".md": "/v1/records/markdown", ".html": "/v1/records/page", ".json": "/v1/records"}
    if file.suffix not in paths:
        raise CommandError(f"{file.name} ends in none of {', '.join(paths)}", "name the file by the form you want")
    with ServiceClient(Stack.open(home)) as client:
        size = client.download("vault", paths[file.suffix], file)
    Output(as_json).show({"file": str(file), "bytes": size}, lambda: f"{size} bytes in {file}")


def retention(
    account: Annotated[str | None, typer.Option("--account", help="Of this account only.")] = None,
    *,
    run: Annotated[bool, typer.Option("--run", help="Erase what is due; without it nothing changes.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=20_000, help="Erase up to so many.")] = 20_000,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say who is kept longer than the rules allow, and why; with --run, erase them."""
    body = {"purpose": PURPOSE, "dry_run": not run, "limit": limit}
    with ServiceClient(Stack.open(home)) as client:
        answer = client.post(
            "vault", "/v1/retention-runs", {**body, **({} if account is None else {"account_id": account})}
        )
    Output(as_json).show(answer, lambda: _due(answer))


def _due(answer: dict[str, Any]) -> Table:
    rows = [
        (one["account_id"], one["kind"], f"{one['rule']} {one['days']} days", one["persons"], one["kept_as_restricted"])
        for one in answer["due"]
    ]
    said = "dry run, nothing was erased" if answer["dry_run"] else f"{answer['erased']} erased"
    title = f"{said}; {answer['remaining']} left to erase"
    return table(("account", "kind", "rule", "due", "of these restricted, kept"), rows, title)


def retention_rules(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show how long persons are kept; account * is the rule of all that have none of their own."""
    with ServiceClient(Stack.open(home)) as client:
        answer = client.get("vault", "/v1/retention-rules")
    rows = [(one["account_id"], one["kind"], one["unused_days"], one["basis_ended_days"]) for one in answer["items"]]
    columns = ("account", "kind", "days after last use", "days after last basis")
    Output(as_json).show(answer, lambda: table(columns, rows))


def retention_rule(
    account: AccountOption,
    kind: Annotated[str, typer.Option(help="recipient, user, administrator, complainant")],
    unused_days: Annotated[int, typer.Option(min=1, help="Days after the last use.")] = 730,
    *,
    basis_ended_days: Annotated[int | None, typer.Option(min=1, help="Days after the last basis ended.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="End the account's own rule.")] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Set how long an account's persons of a kind are kept."""
    item = {"account_id": account, "kind": kind, "unused_days": unused_days, "remove": remove}
    answer = _ask_one(home, "retention-rules:batch", {**item, "basis_ended_days": basis_ended_days})
    text = f"{answer['unused_days']} days after the last use"
    if answer.get("basis_ended_days"):
        text += f", or {answer['basis_ended_days']} days after the last basis"
    Output(as_json).show(answer, lambda: f"{answer['kind']} of {answer['account_id']}: {text}")


def notices(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """List the providers that have to be told of an erasure, rectification or restriction."""
    with ServiceClient(Stack.open(home)) as client:
        answer = client.get("vault", "/v1/notices")
    rows = [(one["id"], one["provider"], one["kind"], one["recipient_token"], one["due_at"]) for one in answer["items"]]
    title = f"{answer['count']} to be done"
    Output(as_json).show(answer, lambda: table(("id", "provider", "of", "person", "due"), rows, title))


def notice_done(
    number: Annotated[int, typer.Argument(help="The notice's id.")],
    evidence: Annotated[str, typer.Option(help="How it can be checked, without personal data.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say that a provider was told."""
    answer = _ask_one(home, "notices:done", {"id": number, "evidence": evidence})
    Output(as_json).show(answer, lambda: f"notice {number} is done since {answer['done_at']}")


def export_account(
    account: Annotated[str, typer.Argument(help="The account's id.")],
    file: FileArgument,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Export all persons of an account, one JSON document a line."""
    with ServiceClient(Stack.open(home)) as client:
        size = client.download("vault", "/v1/account-export", file, {"purpose": PURPOSE, "account_id": account})
    with file.open("rb") as written:
        written.seek(max(size - 300, 0))
        is_whole = b'"whole":true}\n' in written.read()
    if not is_whole:
        raise CommandError(f"{file} is not whole: the vault stopped before its end", "export again; nothing changed")
    Output(as_json).show({"file": str(file), "bytes": size}, lambda: f"{size} bytes in {file}, whole")


def end_account(
    account: Annotated[str, typer.Argument(help="The account's id.")],
    confirm: Annotated[str | None, typer.Option(help="The confirmation that the first step gave.")] = None,
    *,
    without_export: Annotated[bool, typer.Option("--without-export", help="Nobody wants the export.")] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """End an account in two steps: erase its persons and destroy its keys, so that nothing of it opens any more."""
    body = {"purpose": PURPOSE, "account_id": account}
    with ServiceClient(Stack.open(home)) as client:
        if confirm is None:
            answer = client.post("vault", "/v1/account-ends", body)
        else:
            output, answer = Output(as_json), {"state": ""}
            confirmed = {**body, "confirmation": confirm, "without_export": without_export}
            while answer["state"] != "ended":
                answer = client.post("vault", "/v1/account-ends:confirm", confirmed)
                output.say(f"{answer['erased']} erased, {answer['persons']} left")
    Output(as_json).show(answer, lambda: _next_step(answer))


def _next_step(answer: dict[str, Any]) -> str:
    account = answer["account_id"]
    if answer["state"] == "ended":
        return f"{account} has ended at {answer['ended_at']}: nothing of it opens any more"
    if answer["confirmation"] is None:
        return f"{account}: {answer['state']}; go on with the confirmation of the first step"
    return (
        f"nothing changed yet; {answer['persons']} persons\n"
        f"1. waystation vault export-account {account} FILE\n"
        f"2. waystation vault end-account {account} --confirm {answer['confirmation']}"
    )


def _ask_one(home: Path | None, path: str, item: dict[str, Any], *, purpose: str = PURPOSE) -> dict[str, Any]:
    """Ask for one item of a batch; a problem becomes a CommandError."""
    with ServiceClient(Stack.open(home)) as client:
        answer: dict[str, Any] = client.post("vault", f"/v1/{path}", {"purpose": purpose, "items": [item]})["items"][0]
    if "problem" in answer:
        raise CommandError(answer["problem"]["detail"], "nothing was changed")
    return answer


COMMANDS: Sequence[tuple[str, Any]] = (
    ("export", export),
    ("rectify", rectify),
    ("restrict", restrict),
    ("withdraw", withdraw),
    ("opt-out", opt_out),
    ("object", object_to),
    ("processors", processors),
    ("records", records),
    ("retention", retention),
    ("retention-rules", retention_rules),
    ("retention-rule", retention_rule),
    ("notices", notices),
    ("notice-done", notice_done),
    ("export-account", export_account),
    ("end-account", end_account),
)
