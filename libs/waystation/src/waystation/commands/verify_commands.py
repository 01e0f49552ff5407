"""`waystation verify FILE|MESSAGE_ID`, where the stack is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from waystation.evidence import collect
from waystation.output import HomeOption, JsonFlag  # noqa: TC001  typer reads them
from waystation.proof.command import KeysOption, MailOption, read_text, show
from waystation.stack import Stack


def verify(
    what: Annotated[
        str, typer.Argument(metavar="FILE|MESSAGE_ID", help="A proof document, records from kcat, -, or a message.")
    ],
    keys: KeysOption = None,
    mail: MailOption = None,
    home: HomeOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Check instruction, verdict and receipts with public keys alone; of a file nothing else is needed.

    Exit status 0: all is proved; 1: something is refused, or the stack did not answer; 2: nothing could be checked.
    """
    trusted = keys or Stack.open(home).trusted_keys
    if not Path(what).exists() and _is_message_id(what):
        show(json.dumps(collect(Stack.open(home), what)), trusted, mail, as_json=as_json)
    else:
        show(read_text(Path(what)), trusted, mail, as_json=as_json)


def _is_message_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
