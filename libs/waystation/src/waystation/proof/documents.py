"""Reading what can hold proofs: a proof document, records as kcat prints them, the bare bodies of events."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import ValidationError

from common.events.intake import SealedContent
from common.security.merkle import leaf_hash
from common.security.signing import PURPOSES, Purpose, Signed, canonical, proof_root
from waystation.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

FORMAT = "waystation/proof/v1"
BYTES_MAX = 64 * 1024 * 1024


class UncheckableError(CommandError):
    """Nothing could be checked: the file holds no proof, or there are no keys to check it with."""

    exit_status = 2


@dataclass(frozen=True, slots=True)
class Part:
    """A signed statement as it was found, with leaf and root (hexadecimal) and sealed content where they were told."""

    purpose: Purpose
    signed: Signed
    where: str
    leaf: str | None = None
    root: str | None = None
    sealed: SealedContent | None = None

    @property
    def message_id(self) -> str:
        """Which message it claims to be about."""
        return str(self.signed.statement.get("message_id"))

    @property
    def is_revision(self) -> bool:
        """Whether it is a later word on a verdict, signed for the same purpose."""
        return self.purpose == "verdict" and "revision" in self.signed.statement


def document(message_id: str, signed: Iterable[tuple[Purpose, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the proof document of one message from signed statements in the shape {"statement", "proof"}."""
    return {"format": FORMAT, "message_id": message_id, "parts": [_exported(*one) for one in signed]}


def _exported(purpose: Purpose, signed: Mapping[str, Any]) -> dict[str, Any]:
    found = Signed.model_validate(signed)
    leaf = leaf_hash(canonical(found.statement))
    root = proof_root(leaf, found.proof)
    told = {"statement": signed["statement"], "proof": signed["proof"]}
    return {"purpose": purpose, **told, "leaf": leaf.hex(), "root": root.hex()}


def read_parts(text: str) -> list[Part]:
    """Return every signed statement in a file.

    Raises:
        UncheckableError: it is not JSON, has a name twice in an object, or holds no signed statement.
    """
    parts = [part for where, content in _contents(text) for part in _parts(where, content)]
    if not parts:
        raise UncheckableError(
            "the file holds no signed statement",
            "give a proof document (waystation trace --proof MESSAGE_ID) or records as kcat -J prints them",
        )
    return parts


def _contents(text: str) -> Iterator[tuple[str, Any]]:
    """One JSON document, or one a line."""
    try:
        yield "document", parse(text)
    except json.JSONDecodeError:
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield f"line {number}", _line(number, line)


def _line(number: int, line: str) -> Any:
    try:
        return parse(line)
    except json.JSONDecodeError as error:
        raise UncheckableError(
            f"line {number} is not JSON: {error.msg} at character {error.pos}",
            "records must stand one in a line: kcat -J, or kcat -f '%s\\n'",
        ) from None


def parse(text: str) -> Any:
    """Return what a JSON text holds; what two readers might understand differently is refused."""
    return json.loads(text, object_pairs_hook=_object, parse_float=_no_float, parse_constant=_no_float)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UncheckableError("an object has the same name twice, and readers may disagree which value holds")
    return found


def _no_float(text: str) -> NoReturn:
    raise UncheckableError(f"{text[:40]} is a floating-point number: no statement holds one")


def _parts(where: str, content: Any) -> Iterator[Part]:
    if isinstance(content, list):
        for number, one in enumerate(content, start=1):
            yield from _parts(f"{where}, item {number}", one)
    elif isinstance(content, dict):
        yield from _object_parts(where, content)


def _object_parts(where: str, content: dict[str, Any]) -> Iterator[Part]:
    if isinstance(content.get("payload"), str):  # kcat -J
        yield from _parts(_place(content), _payload(_place(content), content["payload"]))
    elif content.get("format") == FORMAT:
        for number, one in enumerate(content.get("parts") or (), start=1):
            yield _documented(f"part {number}", one)
    elif "format" in content and "parts" in content:
        raise UncheckableError(f"{where} has the format {str(content['format'])[:60]!r}, this command reads {FORMAT}")
    elif isinstance(content.get("body"), dict):  # a golden example of contracts/
        yield from _object_parts(where, content["body"])
    else:
        yield from _event_parts(where, content)


def _place(content: dict[str, Any]) -> str:
    return f"{content.get('topic')} {content.get('partition')}:{content.get('offset')}"


def _payload(where: str, payload: str) -> Any:
    try:
        return parse(payload)
    except json.JSONDecodeError as error:
        raise UncheckableError(f"{where}: the payload is not JSON: {error.msg}") from None


def _event_parts(where: str, body: dict[str, Any]) -> Iterator[Part]:
    if isinstance(message := body.get("message"), dict):
        yield from _event_parts(where, message)
    sealed = body.get("sealed")
    for purpose in PURPOSES:
        if isinstance(signed := body.get(purpose), dict):
            yield Part(purpose, _signed(where, signed), where, sealed=_sealed(where, sealed, purpose))
    if isinstance(revision := body.get("revision"), dict):
        yield Part("verdict", _signed(where, revision), where)


def _documented(where: str, one: Any) -> Part:
    if not isinstance(one, dict) or one.get("purpose") not in PURPOSES:
        raise UncheckableError(f"{where}: purpose must be one of {', '.join(PURPOSES)}")
    for name in ("leaf", "root"):
        if not isinstance(one.get(name), str):
            raise UncheckableError(f"{where}: {name} is missing; it is a hexadecimal text")
    return Part(one["purpose"], _signed(where, one), where, leaf=one["leaf"], root=one["root"])


def _signed(where: str, content: dict[str, Any]) -> Signed:
    try:
        return Signed.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UncheckableError(f"{where}: {field}: {first['msg']}") from None


def _sealed(where: str, content: Any, purpose: Purpose) -> SealedContent | None:
    if purpose != "instruction" or content is None:
        return None
    try:
        return SealedContent.model_validate_json(json.dumps(content))
    except ValidationError:
        raise UncheckableError(f"{where}: sealed: capsule, envelope and content must be base64url") from None
