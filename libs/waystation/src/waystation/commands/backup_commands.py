"""`waystation backup | restore | start | stop`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.times import rfc3339
from waystation.backup import back_up, checked_services
from waystation.backup import restore as put_back
from waystation.errors import CommandError
from waystation.output import ConsoleReport, HomeOption, JsonFlag, Output, table
from waystation.stack import SERVICES, Stack

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A service, or a further copy of it: routing-2.")]


def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made when it is not there.")],
    service: Annotated[list[str] | None, typer.Argument(metavar="[SERVICE]...", help="Default: all five.")] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Dump the databases of the running stack. Keys are not in it: copy the folder of secrets, and elsewhere."""
    taken = back_up(Stack.open(home), folder, checked_services(service or ()))
    Output(as_json).show(taken, lambda: table(("database", "as of"), sorted(taken.items())))


def restore(
    service: Annotated[str, typer.Argument(metavar="SERVICE")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `waystation backup` has written.")],
    discard: Annotated[bool, typer.Option("--discard", help="Give up what only the present database has.")] = False,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Put the database of a stopped service back; started again, it first reads what happened since from Kafka."""
    checked_services([service])
    done = put_back(Stack.open(home, report=ConsoleReport(silent=as_json)), service, folder, discard=discard)
    answer = {"service": service, "since": rfc3339(done.since), "migrations": done.migrations, "untold": done.untold}
    told = f"{service} is back; from {rfc3339(done.since)} on it reads again; next: waystation start {service}"
    Output(as_json).show(answer, lambda: told)


def start(name: NameArgument, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Start one service, or one more copy of it, and wait until it is ready."""
    stack = Stack.open(home, report=ConsoleReport(silent=as_json))
    service, instance = _parsed(name)
    record = stack.start_service(service, instance)
    answer = {"name": record.name, "pid": record.pid, "url": stack.url(service, instance)}
    Output(as_json).show(answer, lambda: f"{record.name} is ready at {answer['url']}")


def stop(name: NameArgument, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Stop one copy of a service when it has finished the batch in hand."""
    service, instance = _parsed(name)
    Stack.open(home).stop_service(service, instance)
    Output(as_json).show({"stopped": name}, lambda: f"{service}-{instance} is stopped")


def _parsed(name: str) -> tuple[str, int]:
    service, _, number = name.rpartition("-")
    pair = (service, int(number)) if service and number.isdecimal() else (name, 1)
    if pair[0] not in SERVICES or pair[1] < 1:
        raise CommandError(f"there is no service {name!r}", f"choose from: {', '.join(SERVICES)}, or routing-2")
    return pair
