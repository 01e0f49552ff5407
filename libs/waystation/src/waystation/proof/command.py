"""`waystation verify FILE`: what a file proves, in words and in JSON. Exit status 0 proved, 1 refused, 2 unchecked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from waystation.output import JsonFlag, Output
from waystation.proof.checking import Checked, MessageProof, PublishedKeys, check, said_at
from waystation.proof.documents import BYTES_MAX, UncheckableError, read_parts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NEVER_PROVED = (
    "that what was said is true: a signature proves who said it, and that nothing was changed since",
    "that the times are right: each is by the clock of the one who signed",
)

KeysOption = Annotated[
    Path | None, typer.Option("--keys", help="Folder of public keys, <purpose>/*.pem. Default: those of this stack.")
]
MailOption = Annotated[
    Path | None, typer.Option("--mail", help="The mail in question; its SHA-256 is compared with the instruction.")
]


def verify_file(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A proof document, or records from kcat; - reads stdin.")
    ],
    keys: KeysOption = None,
    mail: MailOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Check signatures and paths with public keys alone. This installation has no stack, so --keys is needed."""
    if keys is None:
        raise UncheckableError("--keys is missing", "give the folder that `waystation keys export DIR` has written")
    show(read_text(file), keys, mail, as_json=as_json)


def read_text(file: Path) -> str:
    """Return the text of a file (`-` is standard input), at most 64 MiB of UTF-8."""
    try:
        source = typer.get_binary_stream("stdin") if str(file) == "-" else file.open("rb")
        with source:
            content = source.read(BYTES_MAX + 1)
        if len(content) > BYTES_MAX:
            raise UncheckableError(
                f"{file} is larger than {BYTES_MAX} bytes", "split it: one record stands in one line"
            )
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UncheckableError(f"{file} cannot be read: {_why(error)}") from None


def show(text: str, keys: Path, mail: Path | None, *, as_json: bool) -> None:
    """Check the statements in a text, tell what they prove, and exit with 1 when one is refused."""
    try:
        content = None if mail is None else mail.read_bytes()
    except OSError as error:
        raise UncheckableError(f"{mail} cannot be read: {_why(error)}") from None
    messages = check(read_parts(text), PublishedKeys.from_folder(keys), content)
    proved = all(one.proved for one in messages)
    answer = {
        "proved": proved,
        "keys": str(keys),
        "messages": [_document(one) for one in messages],
        "never_proved": NEVER_PROVED,
    }
    Output(as_json).show(answer, lambda: "\n".join(_lines(messages, keys)))
    if not proved:
        raise typer.Exit(1)


def _why(error: Exception) -> str:
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else "it is no UTF-8 text"


def _document(message: MessageProof) -> dict[str, Any]:
    return {
        "message_id": message.message_id,
        "proved": message.proved,
        "statements": [_statement(one) for one in message.checked],
        "not_proved": list(message.open_points),
    }


def _statement(one: Checked) -> dict[str, Any]:
    proof = one.part.signed.proof
    return {
        "purpose": one.part.purpose,
        "proved": one.proved,
        "refused": None if one.refused is None else {"code": one.refused.code, "text": one.refused.text},
        "digest": one.digest,
        "key": proof.key,
        "place": {"index": proof.index, "size": proof.size},
        "said_at": said_at(one),
        "says": _says(one),
        "found_in": one.part.where,
    }


def _lines(messages: Sequence[MessageProof], keys: Path) -> Iterator[str]:
    for message in messages:
        yield f"message {message.message_id}: {'proved' if message.proved else 'REFUSED'}"
        for one in message.checked:
            yield from _statement_lines(one)
        yield from (f"  not proved    {point}" for point in message.open_points)
        yield ""
    yield from (f"never proved    {point}" for point in NEVER_PROVED)
    refused = sum(not one.proved for one in messages)
    count = f"{len(messages)} messages" if len(messages) > 1 else "1 message"
    yield f"{count} checked with the keys in {keys}: " + (f"{refused} refused" if refused else "all proved")


def _statement_lines(one: Checked) -> Iterator[str]:
    proof = one.part.signed.proof
    name = _name(one)
    if one.refused is not None:
        yield f"  {name:13} REFUSED  {one.refused.code}: {one.refused.text}"
        return
    yield f"  {name:13} proved   {_says(one)}"
    yield f"  {'':13}          at {said_at(one)}, key {proof.key}, {proof.index + 1} of {proof.size} in its batch"


def _name(one: Checked) -> str:
    if one.part.is_revision:
        return f"revision {one.claims.get('revision')}"
    return f"receipt {one.claims.get('sequence')}" if one.part.purpose == "receipt" else one.part.purpose


def _says(one: Checked) -> str:
    purpose, claims = one.part.purpose, one.claims
    if one.part.is_revision:
        return _says_later(claims)
    if purpose == "instruction":
        told = f"account {claims.get('account_id')} instructed {claims.get('tool')} to {claims.get('recipient_token')}"
        return f"{told}, content SHA-256 {claims.get('content_digest')}"
    if purpose == "verdict":
        rules = ", ".join(map(str, claims.get("rules") or ())) or "no rule matches"
        return f"{claims.get('action')}: {rules} (policy {claims.get('policy')})"
    reply = f", reply {claims['reply_code']}" if claims.get("reply_code") else ""
    by = f" by {claims['provider']}" if claims.get("provider") else ""
    return f"{str(claims.get('state')).replace('_', ' ')}{by}{reply}: {claims.get('reason')}"


def _says_later(claims: Mapping[str, Any]) -> str:
    """What a revision says: of several the one with the highest number holds."""
    clauses = ", ".join(map(str, claims.get("clauses") or ())) or "no clause"
    by = (
        f"a person, case {claims.get('case_id')}"
        if claims.get("cause") == "person"
        else f"a list, {claims.get('signal')}"
    )
    return f"later {claims.get('action')}: {clauses} (by {by})"
