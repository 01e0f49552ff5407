"""`waystation review next | show | decide | return | stats | enroll`: held messages, and a person's word on them."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from waystation.errors import CommandError
from waystation.operator import OPERATOR, ServiceClient
from waystation.output import HomeOption, JsonFlag, Output, table
from waystation.stack import Stack
from waystation.stack.credentials import enroll as make_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import RenderableType
    from rich.table import Table

MODERATION = "moderation"
MARK = "bold reverse"
NAME = re.compile(r"[a-z][a-z0-9-]{0,38}")

app = typer.Typer(help="Messages that screening holds: look at them, decide, see the figures.", no_args_is_help=True)

Reviewer = Annotated[
    str,
    typer.Option("--as", envvar="WAYSTATION_REVIEWER", metavar="NAME", help="Who reviews; see `review enroll`."),
]
CaseId = Annotated[str, typer.Argument(metavar="CASE", help="The case's id, as `review next` shows it.")]


@app.command()
def enroll(
    name: Annotated[str, typer.Argument(help="Small letters, digits, hyphens.")], home: HomeOption = None
) -> None:
    """Make the key by which a reviewer proves who decides. Moderation knows it at once."""
    path = make_key(Stack.open(home).layout, principal_of(name))
    typer.echo(f"{name} reviews with {path}; keep it to that person: waystation review next --as {name}")


@app.command("next")
def claim_next(reviewer: Reviewer, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Claim the most urgent case; the claim runs out by itself."""
    with ServiceClient(Stack.open(home), principal=principal_of(reviewer)) as services:
        claimed = services.post(MODERATION, "/v1/review/next")
    case = claimed["case"]
    Output(as_json).show(claimed, lambda: case_table(case) if case else "nothing waits for you")


@app.command()
def show(
    case_id: CaseId,
    reviewer: Reviewer,
    *,
    reveal: Annotated[bool, typer.Option("--reveal", help="Show the text; blurred without.")] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a claimed case with its message. The vault logs that you opened it."""
    with ServiceClient(Stack.open(home), principal=principal_of(reviewer)) as services:
        case = services.get(MODERATION, f"/v1/review/cases/{path_part(case_id)}")
        content = services.post(MODERATION, f"/v1/review/cases/{path_part(case_id)}:open", {"reveal": reveal})
    answer = {"case": case, "content": content}
    Output(as_json).show(answer, lambda: Group(case_table(case), *content_lines(content)))


@app.command()
def decide(
    case_id: CaseId,
    reviewer: Reviewer,
    *,
    release: Annotated[bool, typer.Option("--release", help="Let the message go on its way.")] = False,
    block: Annotated[bool, typer.Option("--block", help="Refuse the message.")] = False,
    clause: Annotated[str | None, typer.Option("--clause", help="The clause that it breaks: R3.a to R5.3.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, in your words; it stays with the case.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Decide a claimed case."""
    if release == block:
        raise CommandError("a decision is one of the two", "give exactly one of --release and --block")
    if block and clause is None:
        raise CommandError("a block names the clause that the message breaks", "add --clause, for example R3.e")
    body = {"decision": "release" if release else "block", "clause": clause, "reason": reason}
    with ServiceClient(Stack.open(home), principal=principal_of(reviewer)) as services:
        decided = services.post(MODERATION, f"/v1/review/cases/{path_part(case_id)}:decide", body)
    done = "released" if release else f"blocked under {clause}"
    Output(as_json).show(decided, lambda: f"{case_id} is {done}")


@app.command("return")
def give_back(case_id: CaseId, reviewer: Reviewer, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Give a claimed case back, for others to take."""
    with ServiceClient(Stack.open(home), principal=principal_of(reviewer)) as services:
        answer = services.post(MODERATION, f"/v1/review/cases/{path_part(case_id)}:return")
    said = "waits for others again" if answer["given_back"] else "was not yours to give back"
    Output(as_json).show(answer, lambda: f"{case_id} {said}")


@app.command()
def stats(
    days: Annotated[int, typer.Option("--days", min=1, max=366)] = 30,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what waits, what was decided, and how far second reviewers agree."""
    with ServiceClient(Stack.open(home), principal=OPERATOR) as services:
        figures = services.get(MODERATION, "/v1/review/stats", {"days": days})
    Output(as_json).show(figures, lambda: Group(*stats_parts(figures)))


def principal_of(name: str) -> str:
    """Return the principal of a reviewer.

    Raises:
        CommandError: it is no name.
    """
    if not NAME.fullmatch(name):
        raise CommandError(f"{name!r} is no reviewer's name", "use small letters, digits and hyphens, at most 39")
    return f"reviewer.{name}"


def path_part(case_id: str) -> str:
    """Return a case's id as it may stand in a path.

    Raises:
        CommandError: it is no id.
    """
    if not re.fullmatch(r"[0-9a-fA-F-]{32,36}", case_id):
        raise CommandError("that is no id of a case", "copy it from `waystation review next`")
    return case_id


def case_table(case: Mapping[str, Any]) -> Table:
    """Return what is known of a case without its content."""
    held_for = ", ".join(case["rules"]) or ", ".join(case["degraded"]) or "unknown"
    rows = [
        ("case", case["case_id"]),
        ("message", f"{case['message_id']} of account {case['account_id']}, {case['tool']}"),
        ("held for", f"{held_for} ({', '.join(case['clauses']) or 'no clause'})"),
        ("severity, exposure", f"{case['severity']}, {case['exposure']} such messages"),
        ("decide until", at(case["due_at"])),
        ("yours until", at(case["claim_until"]) if case["claim_until"] else "not claimed"),
    ]
    return table(("", ""), rows)


def content_lines(content: Mapping[str, Any]) -> Iterable[RenderableType]:
    """Yield the parts of a message, what rules found in reverse video."""
    for part in content["parts"]:
        text = Text(part["text"])
        for mark in part["marks"]:
            text.stylize(MARK, mark["start"], mark["end"])
        rules = sorted({mark["rule"] for mark in part["marks"]})
        yield Text(f"\n{part['name']}{'  <- ' + ', '.join(rules) if rules else ''}", style="bold")
        yield text + Text(" ... (cut)") if part["cut"] else text
    for file in content["files"]:
        found = f"  <- {', '.join(file['rules'])}" if file["rules"] else ""
        yield Text(f"\n{file['name']}: {file['filename']} {file['content_type']}, {file['size_bytes']} bytes{found}")
    if not content["revealed"]:
        yield Text("\nblurred; --reveal shows the text", style="dim")


def stats_parts(figures: Mapping[str, Any]) -> Iterable[RenderableType]:
    """Yield the figures of the queue as tables."""
    waiting = [
        (row["clause"], row["waiting"], row["claimed"], row["overdue"], at(row["oldest_at"]))
        for row in figures["waiting"]
    ]
    yield table(("clause", "waiting", "claimed", "overdue", "oldest"), waiting) if waiting else "nothing waits"
    if figures["decided"]:
        rows = [(row["decision"], row["clause"], row["decisions"]) for row in figures["decided"]]
        yield table(("decision", "clause", "decided"), rows)
    told = figures["agreement"]
    if told["pairs"]:
        kappa = "cannot be told" if told["kappa"] is None else f"{told['kappa']:.2f}"
        yield f"second looks: {told['agreed']} of {told['pairs']} agree ({told['raw']:.0%}), Cohen's kappa {kappa}"
    else:
        yield "no case was looked at twice"
    for one in figures["disagreements"]:
        yield f"{one['case_id']}: {one['first_reviewer']} {one['first']}, {one['second_reviewer']} {one['second']}"


def at(moment: str) -> str:
    """Return a time as a person reads it, to the minute."""
    return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M} UTC"
