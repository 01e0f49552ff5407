"""`waystation trace MESSAGE_ID`: the story of one message, from what each service knows of it, in order of time."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Protocol
from urllib.parse import quote

import typer

from waystation.evidence import collect
from waystation.operator import RefusedError, ServiceClient
from waystation.output import HomeOption, JsonFlag, Output, table
from waystation.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.table import Table

COLUMNS = ("after", "+", "service", "what happened", "why, with what")
MILLISECONDS_SHOWN_MAX = 10_000


class Services(Protocol):
    """What is needed of the services; `waystation.operator.ServiceClient` has it."""

    def get(self, service: str, path: str, params: Mapping[str, str | int | None] | None = None) -> Any:
        """Return the JSON answer of a GET."""


@dataclass(frozen=True, slots=True)
class Known:
    """What each service answered about one message; None where it has not heard of it."""

    admission: dict[str, Any]
    verdict: dict[str, Any] | None
    delivery: dict[str, Any] | None
    disclosures: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Moment:
    """One step of the road. `detail` is the reason, and what it was done with."""

    at: datetime
    service: str
    what: str
    detail: str = ""


def ask(services: Services, message_id: str) -> Known:
    """Ask all services about a message.

    Raises:
        CommandError: ingestion does not know it, or a service does not answer.
    """
    path = quote(message_id, safe="")
    return Known(
        admission=services.get("ingestion", f"/v1/messages/{path}"),
        verdict=_if_known(services, "moderation", f"/v1/verdicts/{path}"),
        delivery=_if_known(services, "routing", f"/v1/deliveries/{path}"),
        disclosures=services.get("vault", "/v1/disclosures", {"message_id": message_id})["items"],
    )


def _if_known(services: Services, service: str, path: str) -> dict[str, Any] | None:
    try:
        answer: dict[str, Any] = services.get(service, path)
    except RefusedError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return None
        raise
    return answer


def moments(known: Known) -> list[Moment]:
    """Return the message's steps, oldest first; steps of the same millisecond stay in the order of the road."""
    steps = [*_admitted(known.admission), *_screened(known.verdict), *_planned(known.delivery)]
    steps += [_disclosed(disclosure) for disclosure in known.disclosures]
    steps += [moment for attempt in (known.delivery or {}).get("attempts", ()) for moment in _attempted(attempt)]
    steps += [moment for step in known.admission["steps"] for moment in _receipted(step)]
    steps += [moment for disclosure in known.disclosures for moment in _acknowledged(disclosure)]
    return sorted(steps, key=lambda moment: int(moment.at.timestamp() * 1000))


def _admitted(admission: Mapping[str, Any]) -> Iterator[Moment]:
    instructed = admission["acceptance"]["statement"]
    detail = f"purpose {instructed['purpose']}, basis {instructed['legal_basis']}, sha256 {admission['digest'][:16]}..."
    yield Moment(_time(admission["admitted_at"]), "ingestion", "admitted, instruction signed", detail)


def _screened(verdict: Mapping[str, Any] | None) -> Iterator[Moment]:
    if verdict is None:
        return
    rules = verdict["verdict"]["statement"]["rules"]
    found = f"{', '.join(verdict['clauses'])}: {', '.join(rules)}" if rules else "no rule matches"
    policy = verdict["policy"].partition(":")[0].partition("@")[0]
    detail = f"{found} (policy {policy})"
    yield Moment(_time(verdict["screened_at"]), "moderation", f"verdict {verdict['action']}, signed", detail)


def _planned(delivery: Mapping[str, Any] | None) -> Iterator[Moment]:
    if delivery is not None:
        until = delivery["not_after"][:16].replace("T", " ")
        yield Moment(_time(delivery["planned_at"]), "routing", "planned", f"to be handed over until {until} UTC")


def _disclosed(disclosure: Mapping[str, Any]) -> Moment:
    fields, provider = ", ".join(disclosure["fields"]), disclosure["provider"]
    detail = f"purpose {disclosure['purpose']}, basis {disclosure['legal_basis']}, for attempt {disclosure['attempt']}"
    return Moment(_time(disclosure["asked_at"]), "vault", f"{fields} disclosed to {provider}", detail)


def _acknowledged(disclosure: Mapping[str, Any]) -> Iterator[Moment]:
    if disclosure["acknowledged_at"]:
        yield Moment(_time(disclosure["acknowledged_at"]), "vault", "provider has acknowledged: spent", "no more calls")


def _attempted(attempt: Mapping[str, Any]) -> Iterator[Moment]:
    number = attempt["number"]
    detail = f"by {attempt['provider']}, lease epoch {attempt['epoch']}"
    yield Moment(_time(attempt["begun_at"]), "routing", f"attempt {number} begun", detail)
    if attempt["settled_at"]:
        what = f"attempt {number}: {RESULTS.get(attempt['result'], attempt['result'])}"
        yield Moment(_time(attempt["settled_at"]), "routing", what, attempt["reason"] or "")


RESULTS = {
    "accepted": "accepted",
    "refused": "refused for good",
    "later": "refused for now",
    "unreached": "not reached",
    "doubt": "in doubt",
}


def _receipted(step: Mapping[str, Any]) -> Iterator[Moment]:
    if step["state"] != "admitted":
        reason = "" if step.get("attempt") else step["reason"]
        what = f"receipt {step['sequence']}: {step['state'].replace('_', ' ')}"
        yield Moment(_time(step["occurred_at"]), "routing", what, reason)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def trace(
    message_id: Annotated[str, typer.Argument(metavar="MESSAGE_ID", help="As the door answered it.")],
    proof: Annotated[bool, typer.Option("--proof", help="Print its signed statements, for waystation verify.")] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Tell the story of one message: every step with its time, its reason and how long it took."""
    if proof:
        typer.echo(json.dumps(collect(Stack.open(home), message_id), indent=2))
        return
    with ServiceClient(Stack.open(home)) as services:
        known = ask(services, message_id)
    steps = moments(known)
    answer = {**asdict(known), "story": [{**asdict(step), "at": step.at.isoformat()} for step in steps]}
    Output(as_json).show(answer, lambda: trace_table(known, steps))


def trace_table(known: Known, steps: Sequence[Moment]) -> Table:
    """Return the story as a table: time since the admission, time since the step before, who, what, why."""
    begin = before = steps[0].at
    rows = []
    for step in steps:
        rows.append((_span(begin, step.at), f"+{_span(before, step.at)}", step.service, step.what, step.detail))
        before = step.at
    return table(COLUMNS, rows, title=headline(known))


def headline(known: Known) -> str:
    """Return what the message is and where it stands, in one line."""
    admission = known.admission
    state = known.delivery["state"] if known.delivery else admission["state"]
    about = f" ({admission['reference']})" if admission["reference"] else ""
    return f"{admission['id']}{about} is {state.replace('_', ' ')}; admitted {admission['admitted_at']}"


def _span(start: datetime, end: datetime) -> str:
    milliseconds = round((end - start).total_seconds() * 1000)
    if abs(milliseconds) < MILLISECONDS_SHOWN_MAX:
        return f"{milliseconds} ms"
    return f"{milliseconds / 1000:.1f} s"
