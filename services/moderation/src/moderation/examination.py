"""Tier 0: what a message holds, as features and as the places where patterns, links and files told something."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from moderation.attachments import Budget, find_eicar, inspect
from moderation.features import FILES_AT, INDEX, LINKS_AT
from moderation.language import language_of
from moderation.links import host_of
from moderation.reported import is_reported
from moderation.text import NO_SIGNS, normalise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from common.events.intake import Tool
    from moderation.attachments import FileFinding
    from moderation.features import Value
    from moderation.mail import Link, MailParts
    from moderation.matching import Hit
    from moderation.policy.document import HostKind, LinkConditions, Rule
    from moderation.policy.reading import Policy
    from moderation.text import NormalisedText

OCCURRENCES_MAX = 20
NEAR_CHECKS_MAX = 500
LINKS_EXAMINED_MAX = 300
MESSAGE_CHARACTERS_MAX = 250_000
FOREIGN_COST = 5
"""How many characters one of a text that is not ASCII alone counts for: it takes so much longer to read."""
_TEXT_KINDS = {"text": "text", "html-text": "html"}
TEXTS = ("text", "subject", "html")
_CAPITALS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SMALL = _CAPITALS.lower()
_DIGITS = b"0123456789"
_LETTERS_MIN = 20
_EICAR_BEGINS = b"x5o!p%@ap"
_TOGETHER = 64
"""For how many messages each step is taken before the next: more of them leave the caches before they are judged."""


Carried = tuple[int, tuple[int, ...]]
"""How many sketches of the text, and all hashes (`moderation.rejudging.hashes`)."""
NOTHING_CARRIED: Carried = (0, ())


class Place(NamedTuple):
    """A readable piece of a message."""

    kind: str
    name: str
    normal: NormalisedText


class Context(NamedTuple):
    """What is known of a message beside its content; None is unknown. `capped` are rules over their day's cap."""

    messages_per_minute: float | None = None
    same_text_share: float | None = None
    recipient_overlap: float | None = None
    authentication_failed: bool | None = None
    clamd_infected: bool | None = None
    rspamd_score: float | None = None
    degraded: tuple[str, ...] = ()
    capped: frozenset[str] = frozenset()


NOTHING_KNOWN = Context()


class Case(NamedTuple):
    """A message to be screened, with what is known beside its content."""

    parts: MailParts
    tool: Tool
    context: Context = NOTHING_KNOWN


@dataclass(slots=True)
class Examination:
    """Features (see `Compiled.names`) and where they come from.

    `hits` are by number of rule (patterns and pairs of phrase and link) or bank; `hosts` and `kinds` are the links'.
    """

    tool: Tool
    values: list[Value]
    parts: MailParts
    places: list[Place] = field(default_factory=list)
    rule_hits: dict[int, list[tuple[Place, Hit]]] = field(default_factory=dict)
    bank_hits: dict[int, list[tuple[Place, Hit]]] = field(default_factory=dict)
    rule_links: dict[int, list[int]] = field(default_factory=dict)
    hosts: list[str | None] = field(default_factory=list)
    kinds: list[frozenset[HostKind]] = field(default_factory=list)
    files: list[tuple[str, FileFinding]] = field(default_factory=list)
    degraded: set[str] = field(default_factory=set)
    carried: Carried = NOTHING_CARRIED

    @property
    def language(self) -> str | None:
        """The language of the text, if it could be told."""
        value = self.values[_LANGUAGE_AT]
        return value if isinstance(value, str) else None

    def longest_text(self) -> bytes:
        """Return the longest readable part, normalised, UTF-8; nothing when there is none."""
        return max((place.normal.data for place in self.places if place.kind in ("text", "html")), key=len, default=b"")

    def text(self) -> str:
        """Return subject and texts as one, normalised, for models."""
        return "\n".join([place.normal.text for place in self.places if place.kind in TEXTS])


def examine(parts: MailParts, policy: Policy, tool: Tool = "email", context: Context = NOTHING_KNOWN) -> Examination:
    """Look at a message with all of tier 0; never raises, whatever it holds."""
    return examine_all([Case(parts, tool, context)], policy)[0]


def examine_all(cases: Sequence[Case], policy: Policy) -> list[Examination]:
    """Look at messages, in their order; what is found of one does not depend on the others.

    Each step is taken for many messages before the next one: a step finds its code in the processor's caches, which
    hold no whole message's way. Taken message by message they cost half as much again.
    """
    return [
        item
        for start in range(0, len(cases), _TOGETHER)
        for item in _examine_together(cases[start : start + _TOGETHER], policy)
    ]


def _examine_together(cases: Sequence[Case], policy: Policy) -> list[Examination]:
    template = policy.compiled.template
    found = [
        Examination(case.tool, list(template), case.parts, degraded={*case.parts.degraded, *case.context.degraded})
        for case in cases
    ]
    for item in found:
        _read_places(item, policy)
    places = [place for item in found for place in item.places]
    hits = iter(policy.bank.find_all([place.normal.data for place in places]))
    near = [_note_patterns(item, islice(hits, len(item.places)), policy) for item in found]
    for item in found:
        _count_letters(item)
    for item, phrases in zip(found, near, strict=True):
        if item.parts.links:
            _examine_links(item, phrases, policy)
    for item in found:
        if item.parts.senders:
            _examine_sender(item, policy)
        if item.parts.attachments or [place for place in item.places if _EICAR_BEGINS in place.normal.data]:
            _examine_files(item, policy)
    for item, case in zip(found, cases, strict=True):
        if case.context is not NOTHING_KNOWN:
            _note_context(item, case.context, policy)
    return found


def _read_places(found: Examination, policy: Policy) -> None:
    left = MESSAGE_CHARACTERS_MAX
    for kind, name, text in _readable(found.parts, policy):
        if left <= 0:
            found.degraded.add("text-too-long")
            return
        cost = 1 if text.isascii() else FOREIGN_COST
        normal = normalise(text[: left // cost])
        if not normal.complete or len(text) > left // cost:
            found.degraded.add("text-too-long")
        left -= len(text) * cost
        found.places.append(Place(kind, name, normal))


def _readable(parts: MailParts, policy: Policy) -> Iterator[tuple[str, str, str]]:
    if parts.subject:
        yield "subject", "subject", parts.subject
    seen: set[str] = set()
    for number, part in enumerate(parts.texts):
        if part.text and part.text not in seen:
            seen.add(part.text)
            kind = _TEXT_KINDS[part.kind]
            yield kind, f"{kind}[{number}]", part.text
    if "link" in policy.places:
        for number, link in enumerate(parts.links[:LINKS_EXAMINED_MAX]):
            yield "link", f"link[{number}]", link.url
    if "filename" in policy.places:
        for number, attachment in enumerate(parts.attachments):
            if attachment.filename:
                yield "filename", f"filename[{number}]", attachment.filename


def _note_patterns(
    found: Examination, hits: Iterable[Sequence[Hit]], policy: Policy
) -> dict[int, list[tuple[Place, Hit]]]:
    """Note what patterns tell of rules and banks; return, by rule, phrases that need a link beside them."""
    near: dict[int, list[tuple[Place, Hit]]] = {}
    tool, compiled = found.tool, policy.compiled
    for place, of_place in zip(found.places, hits, strict=True):
        for hit in of_place:
            for number, rule in policy.text_rules.get(hit.pattern, ()):
                if tool in rule.tools and (own := _match_text(rule, place, hit, policy)) is not None:
                    found.rule_hits.setdefault(number, []).append((place, own))
                    found.values[compiled.matched_at + number] = 1
            for number, rule in policy.near_rules.get(hit.pattern, ()):
                if tool in rule.tools:
                    near.setdefault(number, []).append((place, hit))
            if place.kind in TEXTS:
                for bank in policy.bank_patterns.get(hit.pattern, ()):
                    found.bank_hits.setdefault(bank, []).append((place, hit))
    for bank, of_bank in found.bank_hits.items():
        found.values[compiled.banks_at + bank] = len({hit.pattern for _, hit in of_bank})
    return near


def _match_text(rule: Rule, place: Place, hit: Hit, policy: Policy) -> Hit | None:
    """Return where the rule's pattern stands, as far as the rule looks there; own words only where it asks for them."""
    assert rule.match is not None, "text rules match patterns"
    patterns, data = rule.match.patterns, place.normal.data
    assert patterns is not None, "text rules match patterns"
    if place.kind not in patterns.places:
        return None
    if not patterns.own_words:
        return hit
    occurrences = policy.bank.locate_all(hit.pattern, data, OCCURRENCES_MAX)
    return next((one for one in occurrences if not is_reported(data, one.start, one.end)), None)


_CHARACTERS, _SHARE, _EXCLAMATIONS, _DIGITS_AT = (
    INDEX[f"text.{name}"] for name in ("characters", "capitals", "exclamations", "digits")
)
_SIGNS_AT, _LANGUAGE_AT, _LINK_COUNT, _HOST_COUNT = (
    INDEX[name] for name in ("disguise.invisible", "language", "links.count", "links.hosts")
)


def _count_letters(found: Examination) -> None:
    values, texts = found.values, [place.normal for place in found.places if place.kind in TEXTS]
    if not texts:
        return
    characters = capitals = letters = exclamations = digits = 0
    for normal in texts:
        raw = normal.source.encode("utf-8", "replace")
        without_small = raw.translate(None, _SMALL)
        rest = without_small.translate(None, _CAPITALS)
        characters += len(normal.source)
        letters += len(raw) - len(rest)
        capitals += len(without_small) - len(rest)
        exclamations += rest.count(b"!")
        digits += len(rest) - len(rest.translate(None, _DIGITS))
        if normal.signs is not NO_SIGNS:
            for offset, count in enumerate(normal.signs):
                values[_SIGNS_AT + offset] += count  # type: ignore[operator]
    values[_CHARACTERS], values[_EXCLAMATIONS], values[_DIGITS_AT] = characters, exclamations, digits
    if letters >= _LETTERS_MIN:
        values[_SHARE] = round(capitals / letters, 4)
    longest = texts[0].text if len(texts) == 1 else max([normal.text for normal in texts], key=len)
    values[_LANGUAGE_AT] = language_of(longest)


def _examine_links(found: Examination, near: Mapping[int, list[tuple[Place, Hit]]], policy: Policy) -> None:
    links = found.parts.links
    if len(links) > LINKS_EXAMINED_MAX:
        found.degraded.add("links")
    links = links[:LINKS_EXAMINED_MAX]
    found.hosts = [host_of(link.url) for link in links]
    found.kinds = [policy.sites.kinds(link, host) for link, host in zip(links, found.hosts, strict=True)]
    hosts = [host for host in found.hosts if host is not None]
    values = found.values
    values[_LINK_COUNT], values[_HOST_COUNT] = len(hosts), len(set(hosts))
    for kinds in found.kinds:
        for kind in kinds:
            values[LINKS_AT[kind]] += 1  # type: ignore[operator]
    for number, rule in policy.link_rules:
        if found.tool in rule.tools:
            _match_links(found, number, rule, near.get(number, []), policy)


def _match_links(
    found: Examination, number: int, rule: Rule, phrases: Sequence[tuple[Place, Hit]], policy: Policy
) -> None:
    assert rule.match is not None, "link rules match links"
    conditions = rule.match.links
    assert conditions is not None, "link rules match links"
    if conditions.near and not phrases:
        return
    suspects = [
        place
        for place, host in enumerate(found.hosts)
        if host is not None and not (conditions.hosts and found.kinds[place].isdisjoint(conditions.hosts))
    ]
    if not suspects:
        return
    if conditions.near:
        pair = _near_pair(found, suspects, phrases, conditions, policy)
        if pair is None:
            return
        suspects = [pair[0]]
        found.rule_hits.setdefault(number, []).append(pair[1])
    found.rule_links[number] = suspects
    found.values[policy.compiled.matched_at + number] = 1


def _near_pair(
    found: Examination,
    suspects: Sequence[int],
    phrases: Sequence[tuple[Place, Hit]],
    conditions: LinkConditions,
    policy: Policy,
) -> tuple[int, tuple[Place, Hit]] | None:
    """Return a link and a phrase near each other; one pair is enough, and so are too many to check."""
    hits = [
        (place, again)
        for place, hit in phrases
        for again in policy.bank.locate_all(hit.pattern, place.normal.data, OCCURRENCES_MAX)
    ]
    pairs = ((number, hit) for number in suspects for hit in hits)
    for checked, (number, (place, hit)) in enumerate(pairs):
        link = found.parts.links[number]
        if checked >= NEAR_CHECKS_MAX or _is_near(link, place, hit, conditions.within_characters):
            return number, (place, hit)
    return None


def _is_near(link: Link, place: Place, hit: Hit, characters: int) -> bool:
    data = place.normal.data
    forms = [normalise(form).data for form in (link.url, (link.shown or "").strip()) if form]
    written = [form for form in forms if form and form in data]
    if not written:
        return True
    reach = max(len(form) for form in written)
    reached = max(0, hit.start - 4 * (characters + reach))
    before = data[reached : hit.start].decode("utf-8", "replace")[-characters - reach :]
    after = data[hit.end : hit.end + 4 * (characters + reach)].decode("utf-8", "replace")[: characters + reach]
    window = before.encode() + data[hit.start : hit.end] + after.encode()
    return any(form in window for form in written)


def _examine_sender(found: Examination, policy: Policy) -> None:
    sender, reply_to = found.parts.senders[0], found.parts.reply_to
    for place in policy.sites.kinds_of_sender(sender, reply_to[0] if reply_to else None):
        found.values[place] = 1


def _examine_files(found: Examination, policy: Policy) -> None:
    values = found.values
    values[INDEX["attachments.count"]] = len(found.parts.attachments)
    budget = Budget()
    for number, attachment in enumerate(found.parts.attachments):
        inspection = inspect(
            (attachment.filename, *attachment.other_names), attachment.content, policy.signatures, policy.lists, budget
        )
        found.degraded.update(inspection.degraded)
        found.files += [(f"attachment[{number}]", finding) for finding in inspection.findings]
    for place in found.places:
        if place.kind == "text" and (signature := find_eicar(place.normal.source.encode("utf-8", "replace"))):
            found.files.append((place.name, signature))
    for _, finding in found.files:
        values[FILES_AT[finding.kind]] += 1  # type: ignore[operator]
    for number, rule in policy.attachment_rules:
        assert rule.match is not None, "attachment rules match attachments"
        assert rule.match.attachments is not None, "attachment rules match attachments"
        kinds = rule.match.attachments.any
        if found.tool in rule.tools and any(finding.kind in kinds for _, finding in found.files):
            values[policy.compiled.matched_at + number] = 1


_CONTEXT_AT = tuple(
    INDEX[name]
    for name in (
        "velocity.messages_per_minute", "velocity.same_text_share", "velocity.recipient_overlap",
        "mail.authentication_failed", "clamd.infected", "rspamd.score",
    )
)  # fmt: skip


def _note_context(found: Examination, context: Context, policy: Policy) -> None:
    told = (
        context.messages_per_minute,
        context.same_text_share,
        context.recipient_overlap,
        _number(context.authentication_failed),
        _number(context.clamd_infected),
        context.rspamd_score,
    )
    for place, value in zip(_CONTEXT_AT, told, strict=True):
        found.values[place] = value
    for number, place in policy.compiled.capped.items() if context.capped else ():
        found.values[place] = float(policy.document.rules[number].id in context.capped)


def _number(flag: bool | None) -> float | None:
    return None if flag is None else float(flag)
