"""`waystation send`: one message in words, or a person's own mails, through the door in batches."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common.ids import new_id
from common.times import now, parse_rfc3339
from waystation.accounts import KeyFile, KnownAccount
from waystation.eml import EmlError, items_from_eml
from waystation.errors import CommandError
from waystation.output import HomeOption, JsonFlag, Output, table
from waystation.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from rich.table import Table

BATCH_ITEMS = 100
BATCH_BYTES = 24 * 1024 * 1024
TIMEOUT_SECONDS = 60.0
RETRY_SECONDS_MAX = 60.0
COLUMNS = ("from where", "recipient", "", "id, or why not")


class Basis(StrEnum):
    """Legal bases that a message can rest on."""

    CONSENT = "consent"
    CONTRACT = "contract"
    LEGAL_OBLIGATION = "legal_obligation"
    LEGITIMATE_INTEREST = "legitimate_interest"
    VITAL_INTEREST = "vital_interest"
    PUBLIC_TASK = "public_task"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An item for the door, and where it came from (a file, or the command line)."""

    source: str
    item: dict[str, Any]

    @property
    def size_bytes(self) -> int:
        """About what it takes in a request."""
        content = self.item["content"]
        return 1000 + sum(len(value) for value in content.values() if isinstance(value, str))


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one message at the door. `before`: it was admitted by an earlier run."""

    source: str
    recipient: str
    accepted: bool
    id: str | None = None
    reason: str | None = None
    before: bool = False


@dataclass(slots=True)
class Door:
    """The door's batch route with one account's key. A busy door is asked again with the same idempotency keys."""

    http: httpx.Client
    api_key: str
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    started: datetime = field(default_factory=now)

    def send(self, batch: Sequence[Outgoing]) -> list[Sent]:
        """Return what became of up to 100 messages.

        Raises:
            CommandError: the door cannot be reached, stays busy, or refuses the request as a whole.
        """
        if len(batch) == 1:
            return [self._sent(batch[0], self._single(batch[0]))]
        answer = self._ask("/v1/messages:batch", {"items": [each.item for each in batch]})
        if not answer.is_success:
            raise _refused(answer)
        return [self._sent(each, given) for each, given in zip(batch, answer.json()["items"], strict=True)]

    def _single(self, each: Outgoing) -> dict[str, Any]:
        """Ask for one message by the route that stays open longest, and return what a batch would have answered."""
        answer = self._ask("/v1/messages", each.item)
        if answer.is_success:
            return {"status": answer.status_code, "message": answer.json()}
        if answer.is_server_error or answer.status_code == httpx.codes.UNAUTHORIZED:
            raise _refused(answer)
        return {"status": answer.status_code, "problem": answer.json()}

    def _ask(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        deadline = self.clock() + RETRY_SECONDS_MAX
        while True:
            answer = self._post(path, body)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or self.clock() > deadline:
                return answer
            self.sleep(_retry_after_seconds(answer))

    def _post(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        try:
            return self.http.post(path, json=body, headers={"authorization": f"Bearer {self.api_key}"})
        except httpx.TransportError as error:
            raise CommandError(
                f"the door at {self.http.base_url} did not answer ({type(error).__name__})",
                "see what runs: waystation status. Then repeat the command: own mails (--eml) are never admitted twice",
            ) from error

    def _sent(self, each: Outgoing, given: Mapping[str, Any]) -> Sent:
        recipient = each.item["recipient"]["address"]
        if given["status"] != httpx.codes.ACCEPTED:
            return Sent(each.source, recipient, accepted=False, reason=_reason(given["problem"]))
        message = given["message"]
        admitted_at = parse_rfc3339(message["acceptance"]["statement"]["admitted_at"])
        before = (self.started - admitted_at).total_seconds() > 1
        return Sent(each.source, recipient, accepted=True, id=message["id"], before=before)


def batches(outgoing: Iterable[Outgoing]) -> Iterator[list[Outgoing]]:
    """Cut messages into requests of up to 100 and 24 MiB; one that is larger travels alone."""
    batch: list[Outgoing] = []
    size_bytes = 0
    for each in outgoing:
        if batch and (len(batch) == BATCH_ITEMS or size_bytes + each.size_bytes > BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(each)
        size_bytes += each.size_bytes
    if batch:
        yield batch


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
            items = items_from_eml(path)
        except EmlError as error:
            refused.append(Sent(str(path), "", accepted=False, reason=str(error).removeprefix(f"{path}: ")))
            continue
        for item in items:
            named = "\0".join((item["content"]["eml"], item["recipient"]["address"], run))
            key = f"eml-{sha256(named.encode()).hexdigest()}"
            outgoing.append(Outgoing(str(path), {**item, **facts, "idempotency_key": key}))
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
        CommandError: something a message needs is missing.
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
    return Outgoing("command line", item)


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
    again: Annotated[bool, typer.Option("--again", help="Send own mails that were sent before once more.")] = False,
    purpose: Annotated[str, typer.Option("--purpose", help="What it is for, one word.")] = "correspondence",
    basis: Annotated[Basis, typer.Option("--basis", help="The legal basis that you attest.")] = Basis.CONTRACT,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Send a message (--to, --subject, --text) or own mails (--eml FILE...); exit status 1 when one is refused."""
    stack = Stack.open(home)
    known = KeyFile.of(stack).read()
    facts = {"purpose": purpose, "legal_basis": {"kind": basis.value, "attested": True}}
    paths = [*(eml or ()), *(files or ())]
    if paths:
        if to or subject or text or html or not eml:
            raise CommandError("own mails say it all themselves", "either --eml FILE..., or --to, --subject and --text")
        outgoing, refused = own_mails(paths, facts, again=again)
    else:
        sender = account_for(known, account, inbox)
        recipient = {"address": to, "name": name}
        content = {"subject": subject, "text": sys.stdin.read() if text == "-" else text, "html": html}
        outgoing, refused = [in_words(sender, inbox, recipient, content, facts)], []
    by_account = _by_account(outgoing, known, account)
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


def _by_account(
    outgoing: Sequence[Outgoing], known: Mapping[str, KnownAccount], name: str | None
) -> list[tuple[KnownAccount, list[Outgoing]]]:
    grouped: dict[str, tuple[KnownAccount, list[Outgoing]]] = {}
    for each in outgoing:
        account = account_for(known, name, each.item["inbox"])
        grouped.setdefault(account.name, (account, []))[1].append(each)
    return list(grouped.values())


def _same_address(address: str, inboxes: Iterable[str]) -> bool:
    """Compare as the door does: the domain without regard to case."""
    local_part, _, domain = address.rpartition("@")
    return f"{local_part}@{domain.lower()}" in inboxes


def _create(name: str, inbox: str | None) -> str:
    return f"make one: waystation accounts create {name} --inbox {inbox or 'ADDRESS'} --accept-rules"


def _reason(problem: Mapping[str, Any]) -> str:
    clause = f" (clause {problem['clause']})" if problem.get("clause") else ""
    return f"{problem['detail']}{clause}"


def _refused(answer: httpx.Response) -> CommandError:
    return CommandError(f"the door refused ({answer.status_code}): {_detail(answer)}", _next_step(answer))


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.reason_phrase


def _next_step(answer: httpx.Response) -> str:
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return "the kept key is not of this stack any more: create the account again"
    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        return "see what is behind: waystation status, waystation ledger. Then repeat the command"
    return ""


def _retry_after_seconds(answer: httpx.Response) -> float:
    try:
        return min(max(float(answer.headers["retry-after"]), 0.1), 10.0)
    except (KeyError, ValueError):
        return 1.0
