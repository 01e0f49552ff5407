"""Calls of up to 1,000 items: how a body is read, and how items that cannot be served are kept from the others.

What is said of an item names its field and never repeats its value.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args, get_type_hints

import asyncpg
import msgspec

from common.contracts.vault import ITEMS_MAX
from common.http.problems import Problem
from vault import store
from vault.domain import NOT_STORABLE
from vault.errors import item_problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import Request

    from common.postgres.pool import Pool
    from vault.domain import Access, Refusal
    from vault.keyring import Keyring

BODY_BYTES_MAX = 4 * 1024 * 1024

Call = TypeVar("Call", bound=msgspec.Struct)
Run = Callable[[Call, "Access", "Pool", "Keyring"], Awaitable[Any]]
Problems = dict[int, dict[str, Any]]

_PLACE = re.compile(r"(?P<text>.*) - at `(?:key in )?\$(?P<place>.*)`", re.DOTALL)
_LENGTH = re.compile(r"length (?:>=|<=) (\d+)")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING = re.compile(r"field `(\w+)`")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}").fullmatch
_NOT_STORABLE = re.compile(rb'\\u00(?:00|1[fF])|"account_id":"\*"')


@dataclass(frozen=True, slots=True)
class Read(Generic[Call]):
    """A call with the items that have their shape; the problems of the others, by their place in the body."""

    call: Call
    problems: Problems

    @property
    def items(self) -> int:
        """How many items were asked for; 1 of a call without items."""
        return len(getattr(self.call, "items", "1")) + len(self.problems)


class Batch(Generic[Call]):
    """An operation: how its call is read, who answers it, and which items are refused before."""

    def __init__(
        self,
        kind: type[Call],
        answers_kind: type[msgspec.Struct],
        run: Run[Call],
        refuse: Callable[[Any], Refusal | None] | None = None,
    ) -> None:
        self.kind = kind
        self.run = run
        self.answers = answers_kind
        self._refuse = refuse
        self._decoder: msgspec.json.Decoder[Call] = msgspec.json.Decoder(kind)
        self._item = _item_kind(kind)
        self._answer = _item_kind(answers_kind)

    def read(self, body: bytes) -> Read[Call]:
        """Return the call, or raise the Problem that names the field or limit.

        Items that do not fit have problems of their own, unless none fits.
        """
        try:
            return Read(self._decoder.decode(body), {})
        except msgspec.ValidationError as error:
            whole = unfit(error)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise unfit(error) from None
        if self._item is None:
            raise whole
        return self._read_each(body, whole)

    def _read_each(self, body: bytes, whole: Problem) -> Read[Call]:
        try:
            members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            items = msgspec.json.decode(members["items"], type=list[msgspec.Raw])
        except (msgspec.DecodeError, KeyError):
            raise whole from None
        if len(items) > ITEMS_MAX:
            raise Problem(422, "invalid-field", f"items: at most {ITEMS_MAX}", field="items", limit=ITEMS_MAX)
        decoder = msgspec.json.Decoder(self._item)
        problems: Problems = {}
        fitting: list[msgspec.Raw] = []
        for number, item in enumerate(items):
            try:
                decoder.decode(item)
                fitting.append(item)
            except msgspec.DecodeError as error:
                problems[number] = unfit(error, "item").document()
        if not fitting:
            raise whole
        try:
            call = self._decoder.decode(msgspec.json.encode({**members, "items": fitting}))
        except msgspec.DecodeError as error:
            raise unfit(error) from None
        return Read(call, problems)

    async def answer(self, read: Read[Call], access: Access, pool: Pool, keyring: Keyring) -> Any:
        """Serve what can be served; the other items have their problems in their places."""
        call: Any = read.call
        problems = read.problems
        if self._refuse is not None:
            call, problems = _without(call, problems, self._refused(call))
        try:
            found = await self._serve(call, access, pool, keyring)
        except (asyncpg.DataError, Problem):  # nothing is done: a text of some items cannot be stored, perhaps
            refused = _not_storable(call)
            if not refused or len(refused) == len(call.items):
                raise
            call, problems = _without(call, problems, refused)
            found = await self._serve(call, access, pool, keyring)
        return self._merged(found, problems) if problems else found

    def _refused(self, call: Any) -> Problems:
        assert self._refuse is not None
        refusals = {number: self._refuse(item) for number, item in enumerate(call.items)}
        return {number: item_problem(refusal) for number, refusal in refusals.items() if refusal is not None}

    async def _serve(self, call: Any, access: Access, pool: Pool, keyring: Keyring) -> Any:
        if not getattr(call, "items", "1"):
            await store.log_access(pool, access)
            return []
        return await self.run(call, access, pool, keyring)

    def _merged(self, found: Sequence[Any], problems: Problems) -> list[Any]:
        assert self._answer is not None
        served = iter(found)
        places = range(len(found) + len(problems))
        return [self._answer(problem=problems[place]) if place in problems else next(served) for place in places]


def _item_kind(kind: type[msgspec.Struct]) -> Any:
    """Return what the items of a call or its answers are, or None when it has none."""
    hints = get_type_hints(kind)
    return get_args(hints["items"])[0] if "items" in hints else None


def _without(call: Any, problems: Problems, refused: Problems) -> tuple[Any, Problems]:
    """Take items out of a call. `refused` counts by their places in the call, `problems` by those in the body."""
    if not refused:
        return call, problems
    places = [place for place in range(len(call.items) + len(problems)) if place not in problems]
    kept = [item for number, item in enumerate(call.items) if number not in refused]
    return msgspec.structs.replace(call, items=kept), problems | {places[one]: refused[one] for one in refused}


def _not_storable(call: Any) -> Problems:
    """Return the items with a text that PostgreSQL does not take or that would part columns, or for every account."""
    problem = item_problem(NOT_STORABLE)
    items = enumerate(getattr(call, "items", ()))
    return {number: problem for number, item in items if _NOT_STORABLE.search(msgspec.json.encode(item))}


async def read_body(request: Request) -> bytes:
    """Return the body, or raise the problem that names its limit."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > BODY_BYTES_MAX:
            detail = "the body is not read: send fewer items in a call, or shorter values"
            raise Problem(413, "body-too-large", detail, field="body", limit=BODY_BYTES_MAX)
        parts.append(part)
    return b"".join(parts)


def unfit(error: Exception, whole: str = "body") -> Problem:
    """Return the problem for a text that is no JSON, or does not fit its shape, from what the decoder told.

    The decoder repeats words that are not in a list, and names of fields that it does not know.
    """
    if isinstance(error, RecursionError | UnicodeDecodeError):
        return Problem(400, "bad-request", f"the {whole} is no UTF-8, or nested too deeply", field=whole)
    if not isinstance(error, msgspec.ValidationError):
        return Problem(400, "invalid-json", f"the {whole} is no JSON document: {error}", field=whole)
    found = _PLACE.fullmatch(str(error))
    text, place = (found["text"], found["place"]) if found else (str(error), "")
    field = re.sub(r"\[(\d*)(?:\.\.\.)?\]", r".\1", place).strip(".")
    kind = "invalid-field"
    if unknown := _UNKNOWN.fullmatch(text):
        kind, text = "unknown-field", "there is no such field"
        if _NAME(unknown["name"]):
            field = f"{field}.{unknown['name']}".strip(".")
    elif missing := _MISSING.search(text):
        field = f"{field}.{missing[1]}".strip(".")
    elif text.startswith("Invalid enum value"):
        text = "not one of the words that the API document lists"
    limit = int(length[1]) if (length := _LENGTH.search(text)) else None
    return Problem(422, kind, f"{field or whole}: {text}", field=field or whole, limit=limit)
