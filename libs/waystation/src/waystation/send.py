"""`waystation send`: one message in words, a person's own mails, or many from a file, through the door in batches."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.ids import new_id
from waystation import bulk
from waystation.accounts import KeyFile, KnownAccount
from waystation.door import TIMEOUT_SECONDS, Door, Outgoing, Sent, batches
from waystation.eml import items_from_eml
from waystation.errors import CommandError
from waystation.output import HomeOption, JsonFlag, Output, table
from waystation.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rich.table import Table

BULK_PATIENCE_SECONDS = 600.0
COLUMNS = ("from where", "recipient", "", "id, or why not")


class Basis(StrEnum):
    """Legal bases that a message can rest on."""

    CONSENT = "consent"
    CONTRACT = "contract"
    LEGAL_OBLIGATION = "legal_obligation"
    LEGITIMATE_INTEREST = "legitimate_interest"
    VITAL_INTEREST = "vital_interest"
    PUBLIC_TASK = "public_task"


def own_mails(paths: Iterable[Path], facts: Mapping[str, Any], *, again: bool) -> tuple[list[Outgoing], list[Sent]]:
    """Read a person's own mails; return what can be sent, and what cannot with the reason.

    The same file to the same recipient has the same idempotency key, so a repeated command sends nothing twice;
    `again` asks for exactly that.
    """
    outgoing: list[Outgoing] = []
    refused: list[Sent] = []
    run = new_id() if again else ""
    for path in paths:
        try:
            for item in items_from_eml(path):
                named = "\0".join((item["content"]["eml"], item["recipient"]["address"], run))
                key = f"eml-{sha256(named.encode()).hexdigest()}"
                outgoing.append(Outgoing.of(str(path), {**item, **facts, "idempotency_key": key}))
        except ValueError as error:
            refused.append(Sent(str(path), "", accepted=False, reason=str(error).removeprefix(f"{path}: ")))
    return outgoing, refused


def in_words(
    sender: KnownAccount,
    inbox: str | None,
    recipient: Mapping[str, str | None],
    content: Mapping[str, str | None],
    facts: Mapping[str, Any],
) -> Outgoing:
    """Return the message that the command line says; parts that are None are left out.

    Raises:
        CommandError: something a message needs is missing, or is no text.
    """
    if not (recipient["address"] and content["subject"] and (content["text"] or content["html"])):
        raise CommandError("a message needs --to, --subject and --text (or --html)", "or send own mails: --eml FILE...")
    if inbox is None and not sender.inboxes:
        raise CommandError(f"the account {sender.name} has no inbox", _create("NAME", None))
    item = {
        "tool": "email",
        "inbox": inbox or sender.inboxes[0],
        "recipient": {part: value for part, value in recipient.items() if value is not None},
        "content": {part: value for part, value in content.items() if value is not None},
        "idempotency_key": f"send-{new_id()}",
        **facts,
    }
    try:
        return Outgoing.of("command line", item)
    except ValueError as error:
        raise CommandError(f"the message {error}", "give it as UTF-8") from None


def account_for(known: Mapping[str, KnownAccount], name: str | None, inbox: str | None) -> KnownAccount:
    """Return the account to send by: the one named, else the one that has the inbox, else the only one.

    Raises:
        CommandError: there is none, or more than one.
    """
    if name is not None:
        if name not in known:
            raise CommandError(f"no key of an account {name!r} is kept here", _create(name, inbox))
        return known[name]
    fitting = [each for each in known.values() if inbox is None or _same_address(inbox, each.inboxes)]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        whose = f"with the inbox {inbox}" if inbox else "yet"
        raise CommandError(f"there is no account {whose}", _create("NAME", inbox))
    raise CommandError("several accounts fit", f"add --account with one of: {', '.join(each.name for each in fitting)}")


def send(
    files: Annotated[
        list[Path] | None, typer.Argument(help="More own mails, after --eml.", metavar="[FILE]...")
    ] = None,
    *,
    account: Annotated[str | None, typer.Option("--account", help="Name of the account; may be left out.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="The recipient's address.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="The recipient's name.")] = None,
    subject: Annotated[str | None, typer.Option("--subject")] = None,
    text: Annotated[str | None, typer.Option("--text", help="What the mail says; - reads standard input.")] = None,
    html: Annotated[str | None, typer.Option("--html", help="The same as HTML.")] = None,
    inbox: Annotated[str | None, typer.Option("--from", help="Which inbox to send from; else the first.")] = None,
    eml: Annotated[list[Path] | None, typer.Option("--eml", help="Own mails: --eml *.eml, sent as they are.")] = None,
    jsonl: Annotated[
        str | None, typer.Option("--jsonl", help="Messages, one JSON object a line; - reads standard input.")
    ] = None,
    csv: Annotated[
        str | None, typer.Option("--csv", help="Messages, one row each under a row of names; - too.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option("--results", help="With a file: write each line's result here.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Send what was sent before once more.")] = False,
    purpose: Annotated[str, typer.Option("--purpose", help="What it is for, one word.")] = "correspondence",
    basis: Annotated[Basis, typer.Option("--basis", help="The legal basis that you attest.")] = Basis.CONTRACT,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Send a message (--to, --subject, --text), own mails (--eml FILE...) or a file of messages (--jsonl, --csv).

    Exit status: 0 when all is accepted, 1 when something is refused (the rest is sent), 3 when a file could not be
    sent to its end; repeat the command then, nothing is sent twice.
    """
    stack = Stack.open(home)
    known = KeyFile.of(stack).read()
    facts = {"purpose": purpose, "legal_basis": {"kind": basis.value, "attested": True}}
    paths = [*(eml or ()), *(files or ())]
    if jsonl is not None or csv is not None:
        if (jsonl is not None and csv is not None) or to or subject or text or html or paths:
            raise CommandError("a file says it all itself", "give --jsonl FILE or --csv FILE and nothing else to send")
        sender = account_for(known, account, inbox)
        defaults = bulk.Defaults.of(inbox or next(iter(sender.inboxes), None), facts, again=again)
        tally = _send_file(stack, sender, jsonl=jsonl, csv=csv, defaults=defaults, results=results)
        Output(as_json).show(tally.document(), tally.text)
        raise typer.Exit(tally.exit_status)
    if results is not None:
        raise CommandError("--results is for files of messages", "add --jsonl FILE or --csv FILE")
    if paths:
        if to or subject or text or html or not eml:
            raise CommandError("own mails say it all themselves", "either --eml FILE..., or --to, --subject and --text")
        outgoing, refused = own_mails(paths, facts, again=again)
        by_account, of_nobody = _by_account(outgoing, known, account)
        refused += of_nobody
    else:
        sender = account_for(known, account, inbox)
        recipient = {"address": to, "name": name}
        content = {"subject": subject, "text": _standard_input() if text == "-" else text, "html": html}
        by_account, refused = [(sender, [in_words(sender, inbox, recipient, content, facts)])], []
    sent = [*refused, *_send_all(stack, by_account, silent=as_json)]
    Output(as_json).show(as_document(sent), lambda: sent_table(sent))
    if not all(each.accepted for each in sent):
        raise typer.Exit(1)


def as_document(sent: Sequence[Sent]) -> dict[str, Any]:
    """Return the results as a JSON object."""
    accepted = sum(each.accepted for each in sent)
    return {"accepted": accepted, "refused": len(sent) - accepted, "items": [asdict(each) for each in sent]}


def sent_table(sent: Sequence[Sent]) -> Table:
    """Return the results as a table, what was refused first."""
    rows = [
        (
            each.source,
            each.recipient,
            ("accepted before" if each.before else "accepted") if each.accepted else "refused",
            each.id or each.reason,
        )
        for each in sorted(sent, key=lambda each: each.accepted)
    ]
    accepted = sum(each.accepted for each in sent)
    return table(COLUMNS, rows, title=f"{accepted} accepted, {len(sent) - accepted} refused")


def _send_all(
    stack: Stack, by_account: Sequence[tuple[KnownAccount, Sequence[Outgoing]]], *, silent: bool
) -> list[Sent]:
    total = sum(len(outgoing) for _, outgoing in by_account)
    console = Console(stderr=True, quiet=silent or not sys.stderr.isatty())
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    sent: list[Sent] = []
    with (
        httpx.Client(base_url=stack.url("ingestion"), timeout=TIMEOUT_SECONDS, trust_env=False) as http,
        Progress(*columns, console=console) as progress,
    ):
        bar = progress.add_task("sending", total=total)
        for account, outgoing in by_account:
            door = Door(http, account.api_key)
            for batch in batches(outgoing):
                sent += door.send(batch)
                progress.advance(bar, len(batch))
    return sent


def _send_file(
    stack: Stack,
    sender: KnownAccount,
    *,
    jsonl: str | None,
    csv: str | None,
    defaults: bulk.Defaults,
    results: Path | None,
) -> bulk.Tally:
    """Send a file line by line, with the sums so far on a terminal; results are written as they come."""
    with ExitStack() as open_until_end:
        lines = open_until_end.enter_context(bulk.opened(str(jsonl if csv is None else csv)))
        http = httpx.Client(base_url=stack.url("ingestion"), timeout=TIMEOUT_SECONDS, trust_env=False)
        door = Door(open_until_end.enter_context(http), sender.api_key, BULK_PATIENCE_SECONDS, persistent=True)
        console = Console(stderr=True, quiet=not sys.stderr.isatty())
        progress = open_until_end.enter_context(
            Progress(TextColumn("sent"), MofNCompleteColumn(), TextColumn("{task.speed} a second"), console=console)
        )
        bar = progress.add_task("sending", total=None)
        write = _result_writer(results, open_until_end)

        def told(sent: Sent) -> None:
            progress.advance(bar)
            write(sent)

        items = bulk.items_from_jsonl(lines) if csv is None else bulk.items_from_csv(lines)
        return bulk.send_lines(door, items, defaults, told=told)


def _result_writer(path: Path | None, open_until_end: ExitStack) -> Callable[[Sent], None]:
    """Return what writes a result as one JSON object a line; the file holds addresses, so only its owner reads it."""
    if path is None:
        return lambda _: None
    try:
        path.unlink(missing_ok=True)
        path.touch(0o600)
        file = open_until_end.enter_context(path.open("w", encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"{path}: cannot be written ({error.strerror})", "name another file") from None
    return lambda sent: print(json.dumps(asdict(sent), ensure_ascii=False), file=file)


def _by_account(
    outgoing: Iterable[Outgoing], known: Mapping[str, KnownAccount], name: str | None
) -> tuple[list[tuple[KnownAccount, list[Outgoing]]], list[Sent]]:
    """Return the messages of each account, and those whose inbox none of them has.

    Raises:
        CommandError: there is no account of that name.
    """
    named = None if name is None else account_for(known, name, None)
    grouped: dict[str, tuple[KnownAccount, list[Outgoing]]] = {}
    of_nobody: list[Sent] = []
    for each in outgoing:
        try:
            account = named or account_for(known, None, each.inbox)
        except CommandError as error:
            reason = "; ".join(str(error).split("\n"))
            of_nobody.append(Sent(each.source, each.recipient, accepted=False, reason=reason))
            continue
        grouped.setdefault(account.name, (account, []))[1].append(each)
    return list(grouped.values()), of_nobody


def _standard_input() -> str:
    return sys.stdin.buffer.read().decode(errors="surrogateescape")


def _same_address(address: str, inboxes: Iterable[str]) -> bool:
    """Compare as the door does: the domain without regard to case."""
    local_part, _, domain = address.rpartition("@")
    return f"{local_part}@{domain.lower()}" in inboxes


def _create(name: str, inbox: str | None) -> str:
    return f"make one: waystation accounts create {name} --inbox {inbox or 'ADDRESS'} --accept-rules"
