"""The development rows, split once and for all by text, with masks for what a source does not say."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from moderation.models.heads import HEADS

if TYPE_CHECKING:
    from collections.abc import Iterator

Split = Literal["train", "calibrate", "test"]
_LETTERS = re.compile(r"[\W_]+")
_CALIBRATE_PERCENT, _TEST_PERCENT = 6, 8
CLEAN_SOURCES = {"banking77", "clinc150", "enron_spam", "spamassassin", "uci_sms", "mendeley_sms"}
CLEAN_SECTIONS = {"codes", "orders", "appointments", "office", "care"}


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text; a head in neither `positive` nor `negative` is unknown."""

    text: str
    positive: frozenset[str]
    negative: frozenset[str]
    source: str
    origin: str
    channel: str
    split: Split

    def label(self, head: str) -> int:
        """Return 1, 0 or -1 (unknown)."""
        return 1 if head in self.positive else 0 if head in self.negative else -1


def is_clean(row: Row) -> bool:
    """Whether a row is honest business text."""
    if row.source == "synthetic":
        return row.origin in CLEAN_SECTIONS
    return row.source in CLEAN_SOURCES and not row.positive and "spam" in row.negative and "toxic" in row.negative


def rows_by_hand() -> list[Row]:
    """Return messages written down one by one, for tests alone.

    A line is a tool, a head ("-" for an honest message, which has none) and the text, with ⏎ for the end of a line.
    """
    lines = (Path(__file__).parent / "by_hand.tsv").read_text(encoding="utf-8").splitlines()
    return [_by_hand(*line.split("\t")) for line in lines]


def _by_hand(tool: str, head: str, text: str) -> Row:
    positive = frozenset(HEADS) & {head}
    negative = frozenset() if positive else frozenset(HEADS)
    return Row(text.replace("⏎", "\n"), positive, negative, "by_hand", head, tool, "test")


def split_of(text: str) -> Split:
    """Return where a text belongs: by a hash of its beginning, so that near copies stay together."""
    key = _LETTERS.sub("", text.lower())[:24]
    percent = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % 100
    if percent < _TEST_PERCENT:
        return "test"
    return "calibrate" if percent < _TEST_PERCENT + _CALIBRATE_PERCENT else "train"


def read_rows(folder: Path) -> Iterator[Row]:
    """Read `dev.jsonl.gz` of the data folder, with the weak labels added."""
    with gzip.open(folder / "dev.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            yield read_row(json.loads(line))


def read_row(record: dict[str, object]) -> Row:
    """Make a row of a record of the data's README."""
    text, source = str(record["text"]), str(record["source"]).split("/", maxsplit=1)[0]
    positive, negative = frozenset(record["pos"]), frozenset(record["neg"])  # type: ignore[call-overload]
    weak = weak_positives(text, source, str(record["orig"])) - negative if source in _WEAK_SOURCES else frozenset()
    negative = negative - weak
    if source in _WEAK_SOURCES and not positive & {"threat"}:
        negative = negative | ({"threat", "sexual"} - positive - weak - _maybe(text))
    assert positive | negative <= set(HEADS), record["id"]
    return Row(text, positive | weak, negative, source, str(record["orig"]), str(record["ch"]), split_of(text))


_WEAK_SOURCES = {"davidson", "paradetox", "edos", "hatemojibuild", "toxigen_prompts", "youtube_spam"}
_THREAT = re.compile(
    r"\b(?:i(?:'ll|ll|m gonna|'m gonna| will| wanna| want to| am going to|ma)|we(?:'ll| will| should| need to| must)|"
    r"should(?: all)? be|deserves? to be|needs? to be|ought to be|going to|gonna|someone|somebody|"
    r"please)\s+(?:\w+\s+){0,2}"
    r"(?:kill(?:ed)?|shoot|shot|stab(?:bed)?|murder(?:ed)?|hang(?:ed)?|lynch(?:ed)?|behead(?:ed)?|gas(?:sed)?|"
    r"burn(?:ed|t)?(?: alive)?|execut(?:e|ed)|exterminated?|rape[d]?|strangle[d]?|slaughter(?:ed)?|beat(?:en)? up|"
    r"curb ?stomp(?:ed)?|put down|wiped out|choke[d]?)\b|\b(?:kill (?:all|them|yourself|urself|y?our ?self)|kys|"
    r"hope (?:you|u|they|she|he) (?:all )?dies?|(?:bomb|nuke) (?:them|those|the)|beat (?:yo|your|her|his|dat|that) ass|"
    r"slit (?:your|his|her|their)|bullet in (?:your|his|her|their))",
    re.IGNORECASE,
)
_SEXUAL = re.compile(
    r"\b(?:suck(?:ing|ed|s)? (?:my|his|your|yo|a|dat|that|some) ?(?:big )?(?:dick|cock|d)\b|"
    r"blow ?jobs?|cum(?:ming|shot)?\b|"
    r"eat(?:in|ing)? (?:dat|that|her|my|the|some|your) (?:pussy|ass)|wet pussy|tight pussy|"
    r"pussy (?:so|is) (?:wet|tight)|"
    r"porn(?:hub|o)?|horny|nudes?|masturbat\w+|orgasm\w*|anal sex|deep ?throat|handjobs?|hard ?cock|dildo|"
    r"threesome|jerk(?:ing)? off|have sex with (?:me|her|him|you)|lick(?:ing)? (?:her|my|your|dat|that)|"
    r"(?:fuck|fucking|fuckin|bang|smash) (?:her|him|me|you|dat|that) (?:hard|good|all night|from behind)|"
    r"ride (?:my|his|this|dat|the) (?:dick|face|cock)|titties|big (?:tits|boobs|dick|cock))\b",
    re.IGNORECASE,
)
_MAYBE_THREAT = re.compile(
    r"\b(?:kill|shoot|die|dead|gun|knife|rape|hang|burn|bomb|beat|punch|slap|smack|hurt|murder)", re.IGNORECASE
)
_MAYBE_SEXUAL = re.compile(
    r"\b(?:sex|dick|cock|pussy|tit|boob|nude|naked|fuck|suck|cum|ass|anal|hoe|slut|thot|rape)", re.IGNORECASE
)


def weak_positives(text: str, source: str, origin: str) -> frozenset[str]:
    """Return heads that a strong phrase gives away in sources that do not label them."""
    del source
    if origin in {"none", "neutral"}:
        return frozenset()
    found = {"threat"} if _THREAT.search(text) else set()
    return frozenset(found | ({"sexual"} if _SEXUAL.search(text) else set()))


def _maybe(text: str) -> frozenset[str]:
    """Return heads of which nothing can be said from the words alone."""
    found = {"threat"} if _MAYBE_THREAT.search(text) else set()
    return frozenset(found | ({"sexual"} if _MAYBE_SEXUAL.search(text) else set()))
