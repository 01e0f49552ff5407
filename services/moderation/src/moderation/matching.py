"""All patterns of a policy in one database, asked once per text.

Hyperscan answers where its wheel exists (x86-64 Linux), RE2's set elsewhere. Both only say which patterns *may* occur,
by parts that must stand there (`moderation.segments`), which keeps the database small; whether and where one does is
always told by RE2 itself (leftmost), so a verdict and its evidence do not depend on the engine. Neither backtracks: the
time is linear in the text, whatever it holds.

Patterns are RE2 syntax, any case, UTF-8, `.` matches line ends too, and a space stands for any run of white space.
"""

from __future__ import annotations

import contextlib
import os
from functools import cache, lru_cache
from hashlib import sha256
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import re2

try:
    import hyperscan
except ImportError:  # pragma: no cover  no wheel for this platform
    hyperscan = None  # type: ignore[assignment]

from moderation.segments import WHITE_SPACE, bytes_suffice, flat, segments
from moderation.text.engine import place

if TYPE_CHECKING:
    from collections.abc import Sequence

Backend = Literal["hyperscan", "re2"]

_RE2_MEMORY_BYTES = 64 * 1024 * 1024
_REMEMBERED_PATTERNS = 8_192
"""Policies share most of their patterns with the versions before them: what is compiled for one serves the next."""


class PatternError(ValueError):
    """A pattern cannot be compiled; `index` is its place in the sequence given."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index


class Hit(NamedTuple):
    """One pattern in one text: the leftmost place it occurs, as byte offsets of the UTF-8 form."""

    pattern: int
    start: int
    end: int


class _Index(Protocol):
    def candidates(self, data: bytes) -> Sequence[int]:
        """Return which patterns may occur, each once, in any order; none that occurs is missing."""


class _HyperscanIndex:
    def __init__(self, patterns: Sequence[str]) -> None:
        try:
            self._database = _hyperscan_database(patterns)
        except hyperscan.error:
            for index, pattern in enumerate(patterns):
                _check_alone(index, pattern)
            raise

    def candidates(self, data: bytes) -> Sequence[int]:
        found: list[int] = []
        self._database.scan(data, match_event_handler=_note, context=found)
        return found


def _hyperscan_database(patterns: Sequence[str]) -> hyperscan.Database:
    """Compile, or read what an earlier process compiled: seconds for many patterns, and each command would wait."""
    key = sha256("\0".join([*patterns, version("hyperscan")]).encode()).hexdigest()
    kept = cache_folder() / f"{key}.hs"
    with contextlib.suppress(OSError, RuntimeError, hyperscan.error, ValueError):
        database = hyperscan.loadb(kept.read_bytes(), hyperscan.HS_MODE_BLOCK)
        database.scratch = hyperscan.Scratch(database)
        return database
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    database.compile(
        expressions=[pattern.encode() for pattern in patterns],
        ids=list(range(len(patterns))),
        elements=len(patterns),
        flags=[_flags(pattern) for pattern in patterns],
    )
    if len(patterns) > 1:
        with contextlib.suppress(OSError):
            _keep(kept, hyperscan.dumpb(database))
    return database


def _flags(pattern: str) -> int:
    flags: int = hyperscan.HS_FLAG_DOTALL | hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_PREFILTER
    return flags | hyperscan.HS_FLAG_CASELESS | (0 if bytes_suffice(pattern) else hyperscan.HS_FLAG_UTF8)


def cache_folder() -> Path:
    """Return where compiled patterns are kept, as `pyc` files are: of use to this user and machine only."""
    return Path.home() / ".cache" / "waystation" / "patterns"


def _keep(file: Path, content: bytes) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    part.write_bytes(content)
    part.replace(file)


def _check_alone(index: int, pattern: str) -> None:
    """Raise PatternError for a pattern that RE2 takes and Hyperscan does not."""
    try:
        _hyperscan_database([pattern])
    except hyperscan.error as error:
        raise PatternError(index, f"Hyperscan does not take it: {_said(error)}") from None


def _note(pattern: int, _start: int, _end: int, _flags: int, found: object) -> None:
    assert isinstance(found, list), "the context of a scan is the list it fills"
    found.append(pattern)


class _Re2Index:
    def __init__(self, patterns: Sequence[str]) -> None:
        self._set = re2.Set.SearchSet(_options())
        for pattern in patterns:
            self._set.Add(pattern)
        self._set.Compile()

    def candidates(self, data: bytes) -> Sequence[int]:
        found: Sequence[int] | None = self._set.Match(data)
        return found or ()


class PatternBank:
    """Finds which of many patterns occur in a text, and where."""

    def __init__(self, patterns: Sequence[str], backend: Backend | None = None) -> None:
        """Compile; raise PatternError for the first pattern that is not valid."""
        expanded = [expand_spaces(pattern) for pattern in patterns]
        self._located = [_compile(index, pattern) for index, pattern in enumerate(expanded)]
        self.size = len(expanded)
        self.backend = backend or preferred_backend()
        self._index: _Index | None = None
        numbers: dict[str, int] = {}
        told: list[list[int]] = []
        for pattern, part in enumerate(map(_telling_part, expanded)):
            if part is None:
                raise PatternError(
                    pattern,
                    "nothing of the pattern must stand in a text: each of its parts may be empty or white space",
                )
            number = numbers.setdefault(part, len(numbers))
            if number == len(told):
                told.append([])
            told[number].append(pattern)
        # By number of part: the patterns that may occur where it does.
        self._told = [tuple(patterns) for patterns in told]
        if expanded:
            self._index = _HyperscanIndex(list(numbers)) if self.backend == "hyperscan" else _Re2Index(list(numbers))

    def find_all(self, texts: Sequence[bytes]) -> list[list[Hit]]:
        """Return for each text, valid UTF-8, a hit per pattern that occurs, by pattern number.

        It looks for pattern after pattern, so each is read once.
        """
        found: list[list[Hit]] = [[] for _ in texts]
        if self._index is None:
            return found
        asked: dict[int, list[int]] = {}
        for number, parts in enumerate([self._index.candidates(data) if data else () for data in map(flat, texts)]):
            for part in parts:
                for pattern in self._told[part]:
                    asked.setdefault(pattern, []).append(number)
        for pattern in sorted(asked):
            located = self._located[pattern]
            for number in asked[pattern]:
                if (span := place(located, texts[number])) is not None:
                    found[number].append(Hit(pattern, *span))
        return found

    def locate_all(self, pattern: int, data: bytes, hits_max: int) -> list[Hit]:
        """Return the first places where a pattern occurs, at most `hits_max`."""
        matches = islice(self._located[pattern].finditer(data), hits_max)
        return [Hit(pattern, *match.span()) for match in matches]


@lru_cache(_REMEMBERED_PATTERNS)
def _telling_part(pattern: str) -> str | None:
    """Return the part to look for: the one that letters of every day have least, of several the one of most words.

    None when each part may be empty or white space.
    """
    parts = [part for part in segments(pattern) if _engine(part.widened).search(b"") is None]
    telling = [part.widened + part.border for part in parts]
    if len(telling) < 2:
        return telling[0] if telling else None
    everyday = _everyday()
    return min(
        telling,
        key=lambda part: (sum(1 for _ in _engine(part).finditer(everyday)), -part.count(" "), -len(part)),
    )


def _engine(pattern: str) -> re2._Regexp:
    return re2.compile(pattern.encode(), _options())


@cache
def _everyday() -> bytes:
    """Return letters as businesses write them, in the languages of tier 0: what they have tells little of a message."""
    return flat(Path(__file__).with_name("everyday.txt").read_bytes())


def preferred_backend() -> Backend:
    """Return the faster engine that this platform has."""
    return "re2" if hyperscan is None else "hyperscan"


def expand_spaces(pattern: str) -> str:
    """Return the pattern with each run of spaces outside classes as `WHITE_SPACE`."""
    out: list[str] = []
    escaped = in_class = False
    for character in pattern:
        if character == " " and not escaped and not in_class:
            if not out or out[-1] != WHITE_SPACE:
                out.append(WHITE_SPACE)
            continue
        if not escaped:
            in_class = character == "[" or (in_class and character != "]")
        escaped = character == "\\" and not escaped
        out.append(character)
    return "".join(out)


def remember(pattern: str) -> None:
    """Compile a valid pattern, so that a bank with it is made at once."""
    expanded = expand_spaces(pattern)
    _compiled(expanded)
    _telling_part(expanded)


@lru_cache(_REMEMBERED_PATTERNS)
def _compiled(pattern: str) -> re2._Regexp:
    return _engine(pattern)


def _compile(index: int, pattern: str) -> re2._Regexp:
    try:
        compiled = _compiled(pattern)
    except re2.error as error:
        raise PatternError(index, _said(error)) from None
    if compiled.search(b"") is not None:
        raise PatternError(index, "the pattern matches the empty text, so it would match every message")
    return compiled


def _said(error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)


def _options() -> re2.Options:
    options = re2.Options()
    options.case_sensitive = False
    options.dot_nl = True
    options.never_capture = True
    options.max_mem = _RE2_MEMORY_BYTES
    options.log_errors = False
    return options
