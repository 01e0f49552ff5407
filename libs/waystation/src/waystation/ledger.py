"""`waystation ledger`: what was admitted is somewhere, and each term is counted from the rows of its owner.

admitted = handed over (delivered ones too) + refused + withheld + expired + held + in doubt + in flight

Ingestion counts what was admitted and lists what has no receipt yet; routing, asked afterwards, counts deliveries by
state and tells which of the listed ones it has. In flight is what routing has planned or is handing over, and what
routing does not have yet. As ingestion is read first, a message can only be seen twice, never missed: a lack is a loss,
and a surplus is explained by what was admitted during the reading, or is none. A long list comes in pages, and routing
is asked about each; its states are those of the last page, so what it planned since the first is seen twice too.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from waystation.operator import ServiceClient
from waystation.output import HomeOption, JsonFlag, Output, table
from waystation.stack import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.table import Table

READINGS_MAX = 6
PAUSE_SECONDS = 1.0
COUNTED_BY = ("moderation", "routing", "vault", "ingestion")
RESTING = ("handed_over", "refused", "withheld", "expired", "held", "in_doubt")
COLUMNS = (
    "account",
    "admitted",
    "=",
    "handed over",
    "refused",
    "withheld",
    "expired",
    "held",
    "in doubt",
    "in flight",
    "",
)


class Services(Protocol):
    """What is needed of the services; `waystation.operator.ServiceClient` has it."""

    def get(self, service: str, path: str, params: Mapping[str, str | int | None] | None = None) -> Any:
        """Return the JSON answer of a GET."""

    def post(self, service: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the JSON answer of a POST."""


@dataclass(frozen=True, slots=True)
class Balance:
    """The terms of one account, or of all together."""

    account_id: str
    name: str
    admitted: int
    handed_over: int = 0
    refused: int = 0
    withheld: int = 0
    expired: int = 0
    held: int = 0
    in_doubt: int = 0
    in_flight: int = 0

    @property
    def difference(self) -> int:
        """Accounted for minus admitted: below zero messages are missing, above zero there are too many."""
        resting = self.handed_over + self.refused + self.withheld + self.expired + self.held + self.in_doubt
        return resting + self.in_flight - self.admitted


def balances(
    admitted: Sequence[Mapping[str, Any]],
    deliveries: Mapping[str, Mapping[str, int]],
    before_routing: Mapping[str, int],
) -> list[Balance]:
    """Return each account's balance by name.

    Args:
        admitted: ingestion's accounts with `id`, `name` and `admitted`.
        deliveries: routing's counts, account id to state to count.
        before_routing: by account id, how many waiting messages routing does not have.
    """
    unheard = {one: {"id": one, "name": one, "admitted": 0} for one in deliveries}
    together = {**unheard, **{account["id"]: account for account in admitted}}
    made = [_balance(account, deliveries.get(one, {}), before_routing.get(one, 0)) for one, account in together.items()]
    return sorted(made, key=lambda balance: (balance.name, balance.account_id))


def _balance(account: Mapping[str, Any], states: Mapping[str, int], before_routing: int) -> Balance:
    terms = {state: states.get(state, 0) for state in RESTING}
    terms["handed_over"] += states.get("delivered", 0)
    moving = states.get("planned", 0) + states.get("handing", 0)
    return Balance(account["id"], account["name"], account["admitted"], **terms, in_flight=moving + before_routing)


def count_before_routing(door: Mapping[str, Any], road: Mapping[str, Any]) -> Counter[str]:
    """Return by account id how many messages of a page routing does not have.

    Args:
        door: ingestion's answer, `accounts` with `id` and `waiting` (ids without a receipt).
        road: routing's answer about them, `present` (which of these ids it has).
    """
    present = set(road["present"])
    return Counter({account["id"]: len(set(account["waiting"]) - present) for account in door["accounts"]})


def total(parts: Sequence[Balance]) -> Balance:
    """Return the sum of all balances."""
    terms = {term: sum(getattr(part, term) for part in parts) for term in (*RESTING, "in_flight", "admitted")}
    return Balance("", "all accounts", **terms)


def unexplained(parts: Sequence[Balance], seen_twice_max: Mapping[str, int]) -> list[Balance]:
    """Return the balances with a difference that what may have been seen twice does not explain.

    Args:
        parts: balances of one reading.
        seen_twice_max: by account id, how many messages were admitted or planned during the reading.
    """
    return [part for part in parts if not 0 <= part.difference <= seen_twice_max.get(part.account_id, 0)]


@dataclass(frozen=True, slots=True)
class Ledger:
    """A reading of the whole equation. `wrong` are the accounts whose difference lasted."""

    accounts: list[Balance]
    total: Balance
    wrong: list[Balance]
    unauthorised: dict[str, int]

    @property
    def balanced(self) -> bool:
        """Whether nothing is missing and nothing is too much."""
        return not self.wrong


def read_ledger(
    services: Services, account_id: str | None = None, *, sleep: Callable[[float], None] = time.sleep
) -> Ledger:
    """Read the equation, again after a second when it does not balance: up to six times.

    Raises:
        CommandError: a service does not answer.
    """
    parts, wrong = read_balances(services, account_id)
    for _ in range(READINGS_MAX - 1):
        if not wrong:
            break
        sleep(PAUSE_SECONDS)
        parts, wrong = read_balances(services, account_id)
    counts = {service: int(services.get(service, "/v1/unauthorised", {"limit": 1})["count"]) for service in COUNTED_BY}
    return Ledger(parts, total(parts), wrong, counts)


def read_balances(services: Services, account_id: str | None = None) -> tuple[list[Balance], list[Balance]]:
    """Read the balances once; return all, and those whose difference this reading does not explain."""
    first_door = door = services.get("ingestion", "/v1/ledger", {"account_id": account_id})
    first_road = road = _ask_routing(services, account_id, door)
    before_routing = count_before_routing(door, road)
    while after := door.get("next"):
        door = services.get("ingestion", "/v1/ledger", {"account_id": account_id, "after": after})
        road = _ask_routing(services, account_id, door)
        before_routing += count_before_routing(door, road)
    parts = balances(first_door["accounts"], road["accounts"], before_routing)
    if all(part.difference == 0 for part in parts):
        return parts, []
    later = services.get("ingestion", "/v1/ledger", {"account_id": account_id})
    seen_twice_max = _admitted(later) - _admitted(first_door) + (_planned(road) - _planned(first_road))
    return parts, unexplained(parts, seen_twice_max)


def _ask_routing(services: Services, account_id: str | None, door: Mapping[str, Any]) -> Any:
    waiting = [message_id for account in door["accounts"] for message_id in account["waiting"]]
    return services.post("routing", "/v1/ledger", {"account_id": account_id, "waiting": waiting})


def _admitted(door: Mapping[str, Any]) -> Counter[str]:
    return Counter({account["id"]: account["admitted"] for account in door["accounts"]})


def _planned(road: Mapping[str, Any]) -> Counter[str]:
    return Counter({account: sum(states.values()) for account, states in road["accounts"].items()})


def ledger(
    account: Annotated[str | None, typer.Option("--account", help="Only this account, by its id.")] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show that nothing was lost: admitted = handed over + ... + in flight; exit status 1 when it is not so."""
    with ServiceClient(Stack.open(home)) as services:
        read = read_ledger(services, account)
    output = Output(as_json)
    output.show(as_document(read), lambda: ledger_table(read))
    output.say(equation(read.total))
    output.say(unauthorised_line(read))
    for line in differences(read):
        output.say(line)
    if not read.balanced:
        raise typer.Exit(1)


def ledger_table(read: Ledger) -> Table:
    """Return the equation as a table, an account a line."""
    wrong = {part.account_id for part in read.wrong}
    lines = [*read.accounts, read.total] if len(read.accounts) != 1 else read.accounts
    rows = []
    for part in lines:
        off = bool(wrong) if part is read.total else part.account_id in wrong
        terms = [getattr(part, term) for term in (*RESTING, "in_flight")]
        rows.append((part.name, part.admitted, "!" if off else "=", *terms, f"off by {part.difference}" if off else ""))
    return table(COLUMNS, rows)


def equation(part: Balance) -> str:
    """Return the equation of one balance, written out."""
    terms = [f"{getattr(part, term)} {term.replace('_', ' ')}" for term in (*RESTING, "in_flight")]
    sign = "=" if part.difference == 0 else "is not"
    return f"{part.admitted} admitted {sign} {' + '.join(terms)}"


def differences(read: Ledger) -> list[str]:
    """Return one sentence for each account whose difference lasted."""
    return [
        f"{part.name} ({part.account_id}): {abs(part.difference)} messages {_kind(part.difference)};"
        " look for the missing step with `waystation trace`, for given-up records with `waystation dlq list`"
        for part in read.wrong
    ]


def _kind(difference: int) -> str:
    return "are missing" if difference < 0 else "too many are on the road"


def unauthorised_line(read: Ledger) -> str:
    """Return the counts of what came without authority, in one line."""
    counts = ", ".join(f"{service} {count}" for service, count in read.unauthorised.items())
    return f"came without authority, never handed over: {counts}"


def as_document(read: Ledger) -> dict[str, Any]:
    """Return the reading as a JSON object."""
    return {
        "balanced": read.balanced,
        "accounts": [_document(part) for part in read.accounts],
        "total": _document(read.total),
        "unauthorised": read.unauthorised,
    }


def _document(part: Balance) -> dict[str, Any]:
    terms = {term: getattr(part, term) for term in ("admitted", *RESTING, "in_flight", "difference")}
    return {"account_id": part.account_id or None, "name": part.name, **terms}
