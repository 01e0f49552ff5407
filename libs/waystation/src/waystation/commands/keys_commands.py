"""`waystation keys list | publish | rotate | retire | export`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.security.signing import PURPOSES
from common.times import now, parse_rfc3339, rfc3339
from waystation.errors import CommandError
from waystation.keys import Keyring, SigningKey, checked_purpose
from waystation.output import HomeOption, JsonFlag, Output, table
from waystation.stack import Stack

if TYPE_CHECKING:
    from common.security.signing import Purpose

ALL = "all"

app = typer.Typer(
    help="Keys that instructions, verdicts, receipts, and what the vault says are signed with.", no_args_is_help=True
)

PurposeArgument = Annotated[
    str, typer.Argument(metavar="PURPOSE", help="instruction, verdict, receipt, or all of these; vault; policy.")
]


@app.command("list")
def list_keys(home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Show every published key: which one signs, which were good until when."""
    keys = _keyring(home).keys()
    rows = [(one.purpose, one.key, one.state, _moment(one.published_at), _moment(one.retired_at)) for one in keys]
    columns = ("purpose", "key", "state", "published", "good until")
    Output(as_json).show([_document(one) for one in keys], lambda: table(columns, rows))


@app.command()
def publish(purpose: PurposeArgument, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Publish the key that will sign next, and let the present one go on signing."""
    keyring = _keyring(home)
    answer = [{"purpose": one, "key": keyring.publish(one, now())} for one in _purposes(purpose)]
    Output(as_json).show(answer, lambda: "\n".join(f"{one['purpose']}: {one['key']} is published" for one in answer))


@app.command()
def rotate(purpose: PurposeArgument, home: HomeOption = None, as_json: JsonFlag = False) -> None:
    """Publish a new key where none waits, and sign with it from the next batch on; nothing stops."""
    keyring, answer = _keyring(home), []
    for one in _purposes(purpose):
        old, new = keyring.rotate(one, now())
        answer.append({"purpose": one, "old": old, "new": new})
    told = [f"{one['purpose']}: {one['new']} signs, {one['old']} still verifies" for one in answer]
    Output(as_json).show(answer, lambda: "\n".join(told))


@app.command()
def retire(
    key: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `keys list` shows it.")],
    at: Annotated[str | None, typer.Option("--at", help="Until when it was good, RFC 3339; now when left out.")] = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Say until when a key was good: what it signed until then still verifies, what tells a later time is refused."""
    retired = _keyring(home).retire(key, now() if at is None else _parsed(at))
    told = f"{retired.purpose}: {key} was good until {_moment(retired.retired_at)}"
    Output(as_json).show(_document(retired), lambda: told)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made when it is not there.")],
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Copy the public keys with their terms, for who verifies elsewhere (`verify --keys DIR`); nothing secret."""
    keys = _keyring(home).export(folder)
    Output(as_json).show([_document(one) for one in keys], lambda: f"{len(keys)} public keys are in {folder}")


def _keyring(home: Path | None) -> Keyring:
    stack = Stack.open(home)
    _ = stack.state  # says so when there is no stack
    return Keyring(stack.layout)


def _purposes(text: str) -> tuple[Purpose, ...]:
    return PURPOSES if text == ALL else (checked_purpose(text),)


def _parsed(text: str) -> datetime:
    try:
        return parse_rfc3339(text)
    except ValueError as error:
        raise CommandError(f"--at {text!r} is no time: {error}", "for example --at 2026-01-31T09:30:00Z") from None


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def _document(key: SigningKey) -> dict[str, Any]:
    return {
        "purpose": key.purpose,
        "key": key.key,
        "state": key.state,
        "published_at": _moment(key.published_at),
        "retired_at": _moment(key.retired_at),
        "file": str(key.file),
    }
