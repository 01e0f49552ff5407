"""`waystation policy ...`: policies as files (moderation's own command), and what operators decide about them.

A decision is a statement with the policy's whole text, signed with the operator's key for policies; moderation checks
it, runs the policy's own tests and tells every copy over Kafka.
"""

from __future__ import annotations

import time
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from common.events.screening import POLICY_CHARACTERS_MAX, PolicyState
from common.security.signing import Signer
from common.times import now, rfc3339
from waystation.errors import CommandError
from waystation.operator import ServiceClient
from waystation.output import HomeOption, JsonFlag, Output
from waystation.screening import PASSED_ON, become, home_in
from waystation.stack import Stack
from waystation.stack.credentials import OPERATOR, signing_key

if TYPE_CHECKING:
    from common.events.screening import PolicyStatus

ASK_TIMES = 50
ASK_EVERY_SECONDS = 0.2

app = typer.Typer(help="Policies of screening: as files, in shadow, in force.", no_args_is_help=True)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The policy, YAML.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept with the decision.")]


@app.command(context_settings=PASSED_ON)
def check(context: typer.Context) -> None:
    """Read a policy, run its own tests: place and reason of every mistake."""
    become("policy", ["check", *context.args])


@app.command(context_settings=PASSED_ON)
def diff(context: typer.Context) -> None:
    """Show what differs between two policies."""
    become("policy", ["diff", *context.args])


@app.command(context_settings=PASSED_ON)
def explain(context: typer.Context) -> None:
    """Tell why messages on standard input are judged as they are."""
    become("policy", ["explain", *context.args])


@app.command(context_settings=PASSED_ON)
def features(context: typer.Context) -> None:
    """List the names that expressions may use."""
    become("policy", ["features", *context.args])


@app.command(context_settings=PASSED_ON)
def backtest(context: typer.Context) -> None:
    """Count what a policy would newly stop or pass: JSON Lines on standard input, or --intake. See --help.

    With --intake the messages are those that this stack admitted, opened as screening opens them.
    """
    home, given = home_in(context.args)
    environment = Stack.open(home).service_environment("moderation") if "--intake" in given else None
    become("policy", ["backtest", *given], environment)


@app.command(name="list")
def list_policies(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show what is in force and in shadow, what the shadow would change, and what was decided."""
    with ServiceClient(Stack.open(home)) as client:
        answer = client.get("moderation", "/v1/policies")
    Output(as_json).show(answer, lambda: _shown(answer))


@app.command()
def shadow(file: FileArgument, reason: ReasonOption = "", home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Put a policy beside the one in force: counted, never applied."""
    _decide(home, "shadow", _text(file), reason, Output(as_json))


@app.command()
def activate(
    file: FileArgument,
    at_once: Annotated[bool, typer.Option("--at-once", help="Without time in shadow.")] = False,
    reason: ReasonOption = "",
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Put a policy that is in shadow in force, in every copy, between two batches."""
    text, output = _text(file), Output(as_json)
    if at_once:
        _decide(home, "shadow", text, reason, Output(as_json=True), silent=True)
    _decide(home, "active", text, reason, output)


@app.command()
def rollback(
    name: Annotated[str | None, typer.Argument(metavar="POLICY", help="Its name; left out: the one in force.")] = None,
    reason: ReasonOption = "",
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Take a policy back: the one that was active before it is in force again; also ends a shadow."""
    with ServiceClient(Stack.open(home)) as client:
        found = client.get("moderation", "/v1/policies")
        wanted = name or found["active"]
        if name is None and found["active_from"] == "file":
            raise CommandError(f"{wanted} is the policy of moderation's file; nothing of the topic is active")
        answer = client.get("moderation", f"/v1/policies/{wanted}")
    _decide(home, "rolled-back", answer["text"], reason, Output(as_json))


def name_of(text: str) -> str:
    """Return a policy's content-addressed name."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise CommandError(f"the policy is not YAML: {error}", "waystation policy check FILE") from error
    identity = document.get("id") if isinstance(document, dict) else None
    if not isinstance(identity, str):
        raise CommandError("the policy has no id", "waystation policy check FILE")
    return f"{identity}@sha256:{sha256(text.encode()).hexdigest()}"


def _text(file: Path) -> str:
    try:
        text = file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{file} cannot be read: {error}") from error
    if len(text) > POLICY_CHARACTERS_MAX:
        raise CommandError(f"{file} is longer than {POLICY_CHARACTERS_MAX:,} characters")
    return text


def _decide(
    home: Path | None, status: PolicyStatus, text: str, reason: str, output: Output, *, silent: bool = False
) -> None:
    stack = Stack.open(home)
    with ServiceClient(stack) as client:
        revision = client.get("moderation", "/v1/policies")["revision"] + 1
        state = PolicyState(
            policy=name_of(text),
            text=text,
            status=status,
            revision=revision,
            reason=reason,
            decided_by="person",
            changed_at=rfc3339(now()),
        )
        signer = Signer.from_file("policy", signing_key(stack.layout, OPERATOR), stack.trusted_keys)
        signed = signer.sign([state.statement()])[0]
        answer = client.post("moderation", "/v1/policies", signed.model_dump(mode="json"))
        _await_revision(client, revision)
    if not silent:
        output.show(answer, lambda: f"{answer['policy']} is {answer['status']} (revision {answer['revision']})")


def _await_revision(client: ServiceClient, revision: int) -> None:
    """Return when the copy that was asked has read the statement back from the topic."""
    for _ in range(ASK_TIMES):
        if client.get("moderation", "/v1/policies")["revision"] >= revision:
            return
        time.sleep(ASK_EVERY_SECONDS)
    raise CommandError("the statement is in the topic, and moderation has not read it yet", "waystation policy list")


def _shown(answer: Any) -> Any:
    lines = [
        f"active   {answer['active']} ({answer['active_from']})",
        f"shadow   {answer['shadow'] or 'none'}",
    ]
    found = answer["differences"]
    if found["messages"]:
        lines.append(f"differences over {found['messages']:,} messages, as one copy counted")
        for title in ("newly_stopped", "newly_passed"):
            told = ", ".join(f"{one['clause']} {one['messages']:,}" for one in found[title]) or "none"
            lines.append(f"  {title.replace('_', ' ')}: {told}")
    if answer["refused"]:
        lines.append("refused  " + ", ".join(f"{kind} {count}" for kind, count in answer["refused"].items()))
    lines += [
        f"{one['revision']:>5}  {one['changed_at'][:19]}  {one['decided_by']:<8}{one['status']:<12}"
        f"{one['policy'][:40]}  {one['reason']}"
        for one in answer["history"]
    ]
    return "\n".join(lines)
