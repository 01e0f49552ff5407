"""What a caller may write: the JSON of one message and of a batch, and how it is read.

Bytes are base64 (either alphabet, no line breaks). Names, references and purposes travel readable through the system,
so they are codes without spaces or at signs, never words about a person.
"""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json, to_json

from common.contracts.basis import CODE_CHARACTERS_MAX, CODE_PATTERN, BasisKind
from common.http.problems import Problem, invalid_fields
from ingestion.domain import TOOLS

ITEMS_MAX = 500
BODY_BYTES_MAX = 36 * 1024 * 1024
IDEMPOTENCY_KEY_CHARACTERS_MAX = 200

Code = Annotated[str, Field(pattern=CODE_PATTERN, max_length=CODE_CHARACTERS_MAX)]
IdempotencyKey = Annotated[
    str, Field(min_length=1, max_length=IDEMPOTENCY_KEY_CHARACTERS_MAX, pattern=r"^[\x20-\x7e]+$")
]


def _within_utc(moment: datetime) -> datetime:
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("the moment lies outside the years 1 to 9999 of UTC") from None
    return moment


Moment = Annotated[AwareDatetime, AfterValidator(_within_utc)]
Address = Annotated[str, Field(min_length=1, max_length=254)]
Name = Annotated[str, Field(max_length=200)]


class _Submitted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", val_json_bytes="base64", ser_json_bytes="base64")


class Person(_Submitted):
    """An address with the name beside it."""

    address: Address
    name: Name | None = None


class SubmittedAttachment(_Submitted):
    """A file that goes with a mail; `content` is base64."""

    filename: Annotated[str, Field(max_length=255)]
    content_type: Annotated[str, Field(max_length=200)]
    content: bytes


class Content(_Submitted):
    """What is said: either `subject` with `text`, `html` or both, or `eml` alone, a person's own mail in base64."""

    subject: Annotated[str, Field(max_length=998)] | None = None
    text: str | None = None
    html: str | None = None
    reply_to: Person | None = None
    unsubscribe_url: Annotated[str, Field(max_length=900)] | None = None
    attachments: Annotated[tuple[SubmittedAttachment, ...], Field(max_length=100)] = ()
    eml: bytes | None = None


class LegalBasis(_Submitted):
    """Why the recipient's data may be passed on (R4.3): a kind, with a reference or the account's word for it."""

    kind: BasisKind
    reference: Code | None = None
    attested: Literal[True] | None = None


class MessageItem(_Submitted):
    """One message to one recipient. `inbox` is the id or the address of one of the account's inboxes."""

    tool: Annotated[str, Field(max_length=20)]
    inbox: Address
    recipient: Person
    content: Content
    purpose: Code
    legal_basis: LegalBasis | None = None
    not_before: Moment | None = None
    not_after: Moment | None = None
    duplicates_allowed: bool = False
    idempotency_key: IdempotencyKey | None = None
    reference: Code | None = None

    def fingerprint(self) -> bytes:
        """Return the SHA-256 of everything the item says; two items with the same one ask for the same message."""
        body = self.__pydantic_serializer__.to_json(self, exclude={"idempotency_key"}, exclude_defaults=True)
        return sha256(body).digest()


class MessageBatch(_Submitted):
    """Up to 500 messages; each is admitted or refused on its own."""

    items: Annotated[list[MessageItem], Field(min_length=1, max_length=ITEMS_MAX)]


Parsed = MessageItem | Problem


class _Header(BaseModel):
    idempotency_key: IdempotencyKey


def parse_single(body: bytes, header_key: str | None) -> Parsed:
    """Return the message in a body, or the problem with it. The header, when there, gives the idempotency key."""
    try:
        item = MessageItem.model_validate_json(body)
        if header_key is not None:
            item = _with_key(item, _Header(idempotency_key=header_key).idempotency_key)
        return _known_tool(item)
    except ValidationError as error:
        return _shape_problem(error, body)
    except Problem as problem:
        return problem


def parse_batch(body: bytes) -> list[Parsed]:
    """Return each item of a batch, or the problem with it.

    Raises:
        Problem: the body as a whole is no batch; nothing of it is looked at.
    """
    try:
        return [_known_tool(item) for item in MessageBatch.model_validate_json(body).items]
    except ValidationError as error:
        whole = _shape_problem(error, body)
    items = _raw_items(body, whole)
    return [_parse_item(item) for item in items]


def _raw_items(body: bytes, whole: Problem) -> list[Any]:
    """Split a body in which something is wrong; raise when the fault is not within one item."""
    try:
        envelope = from_json(body, allow_inf_nan=False)
    except ValueError:
        raise whole from None
    if not isinstance(envelope, dict) or not isinstance(envelope.get("items"), list):
        raise whole
    if unknown := sorted(set(envelope) - {"items"}):
        raise Problem(422, "unknown-field", f"a batch has only items; take out {ascii(unknown[0])[:60]}", field="items")
    items: list[Any] = envelope["items"]
    if len(items) > ITEMS_MAX:
        raise Problem(
            422,
            "batch-too-large",
            f"a batch holds up to {ITEMS_MAX} items; send several",
            field="items",
            limit=ITEMS_MAX,
        )
    if not items:
        raise whole
    return items


def _parse_item(raw: object) -> Parsed:
    body = to_json(raw)
    try:
        return _known_tool(MessageItem.model_validate_json(body))
    except ValidationError as error:
        return _shape_problem(error, body)


def _known_tool(item: MessageItem) -> Parsed:
    if item.tool in TOOLS:
        return item
    return Problem(422, "unknown-tool", f"this door carries {', '.join(sorted(TOOLS))} so far", field="tool")


def _with_key(item: MessageItem, key: str) -> MessageItem:
    if item.idempotency_key not in (None, key):
        raise Problem(
            422,
            "invalid-field",
            "the Idempotency-Key header and idempotency_key in the body differ: send one of them",
            field="idempotency_key",
        )
    return item.model_copy(update={"idempotency_key": key})


def _shape_problem(error: ValidationError, body: bytes) -> Problem:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] != "json_invalid":
        return invalid_fields(error)
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        return Problem(400, "invalid-utf-8", f"byte {wrong.start} of the body is not UTF-8", field="body")
    return Problem(400, "invalid-json", f"the body is no JSON document: {first['msg']}", field="body")
