"""What follows from a mail and a policy: allow, hold or block, with clauses, rules and evidence. No I/O, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from moderation.attachments import find_eicar, inspect
from moderation.links import host_kinds, host_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from common.events.intake import Tool
    from common.events.screening import Action
    from moderation.mail import Link, MailParts
    from moderation.matching import Hit
    from moderation.policy.document import LinkConditions, Rule
    from moderation.policy.reading import Policy

ENGINE = "waystation-screening/1"
"""Changes whenever the same content and policy could lead to another decision."""

EVIDENCE_MAX = 32
OCCURRENCES_MAX = 20
NEAR_CHECKS_MAX = 500
ERASED = "content-erased"
_UNREADABLE = "nothing-readable"
_TEXT_KINDS = {"text": "text", "html-text": "html"}
_WEIGHT: dict[Action, int] = {"allow": 0, "hold": 1, "block": 2}


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where a rule matched: part of the mail, span, SHA-256 (hexadecimal) of what stands there; never the text.

    Spans count characters in texts, links and names, bytes in attachments.
    """

    rule: str
    part: str
    start: int
    end: int
    digest: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of screening one mail; `degraded` names what could not be evaluated."""

    action: Action
    clauses: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    degraded: tuple[str, ...] = ()


class _Place(NamedTuple):
    """A readable piece of the mail, as valid UTF-8."""

    kind: str
    name: str
    data: bytes

    def characters(self, offset: int) -> int:
        """Return the character offset of a byte offset."""
        return len(self.data[:offset].decode("utf-8", "replace"))


@dataclass(slots=True)
class _Findings:
    tool: Tool
    rules: dict[str, Rule] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)

    def applies(self, rule: Rule) -> bool:
        return self.tool in rule.tools

    def add(self, rule: Rule, part: str, start: int, end: int, matched: bytes) -> None:
        self.rules[rule.id] = rule
        if len(self.evidence) < EVIDENCE_MAX:
            self.evidence.append(Evidence(rule.id, part, start, end, sha256(matched).hexdigest()))

    def add_hit(self, rule: Rule, place: _Place, hit: Hit) -> None:
        matched = place.data[hit.start : hit.end]
        self.add(rule, place.name, place.characters(hit.start), place.characters(hit.end), matched)

    def add_link(self, rule: Rule, number: int, link: Link) -> None:
        self.add(rule, f"link[{number}]", 0, len(link.url), _utf8(link.url))


def screen(parts: MailParts, policy: Policy, tool: Tool = "email") -> Decision:
    """Judge a mail; the worst action of all matching rules wins. Never raises, whatever the mail holds."""
    findings = _Findings(tool)
    places = list(_places(parts, policy))
    near = _match_texts(places, policy, findings)
    if parts.links and policy.link_rules:
        _match_links(parts.links, near, policy, findings)
    degraded: set[str] = set(parts.degraded)
    degraded.update(_match_attachments(parts, places, policy, findings))
    if degraded and not places and not parts.attachments:
        return _decide(findings, degraded | {_UNREADABLE}, least="hold")
    return _decide(findings, degraded, least="allow")


def erased_decision() -> Decision:
    """Return what is decided of content that nobody can open any more: a person looks, nothing is handed over."""
    return Decision("hold", degraded=(ERASED,))


def _decide(findings: _Findings, degraded: set[str], *, least: Action) -> Decision:
    rules = [findings.rules[name] for name in sorted(findings.rules)]
    actions: list[Action] = [least, *(rule.action for rule in rules)]
    return Decision(
        action=max(actions, key=_WEIGHT.__getitem__),
        clauses=tuple(sorted({rule.clause for rule in rules})),
        rules=tuple(rule.id for rule in rules),
        evidence=tuple(sorted(findings.evidence, key=lambda item: (item.rule, item.part, item.start))),
        degraded=tuple(sorted(degraded)),
    )


def _places(parts: MailParts, policy: Policy) -> Iterator[_Place]:
    if parts.subject:
        yield _Place("subject", "subject", _utf8(parts.subject))
    for number, part in enumerate(parts.texts):
        if part.text:
            kind = _TEXT_KINDS[part.kind]
            yield _Place(kind, f"{kind}[{number}]", _utf8(part.text))
    if "link" in policy.places:
        for number, link in enumerate(parts.links):
            yield _Place("link", f"link[{number}]", _utf8(link.url))
    if "filename" in policy.places:
        for number, attachment in enumerate(parts.attachments):
            if attachment.filename:
                yield _Place("filename", f"filename[{number}]", _utf8(attachment.filename))


def _utf8(text: str) -> bytes:
    """Encode; what is no character (a lone surrogate) becomes `?`, so that offsets stay."""
    return text.encode("utf-8", "replace")


def _match_texts(places: Sequence[_Place], policy: Policy, findings: _Findings) -> dict[str, list[tuple[_Place, Hit]]]:
    """Apply the pattern rules; return, by rule, what was found for rules that need a link beside it."""
    near: dict[str, list[tuple[_Place, Hit]]] = {}
    for place in places:
        for hit in policy.bank.find(place.data):
            for rule in policy.text_rules.get(hit.pattern, ()):
                assert rule.match.patterns is not None, "text rules have patterns"
                if place.kind in rule.match.patterns.places and findings.applies(rule):
                    findings.add_hit(rule, place, hit)
            for rule in policy.near_rules.get(hit.pattern, ()):
                if findings.applies(rule):
                    near.setdefault(rule.id, []).append((place, hit))
    return near


def _match_links(
    links: Sequence[Link], near: dict[str, list[tuple[_Place, Hit]]], policy: Policy, findings: _Findings
) -> None:
    kinds = [frozenset(host_kinds(link, policy.suffixes)) for link in links]
    for rule in policy.link_rules:
        conditions = rule.match.links
        assert conditions is not None, "link rules have link conditions"
        if not findings.applies(rule) or (conditions.near and rule.id not in near):
            continue
        suspects = [
            (number, link)
            for number, link in enumerate(links)
            if host_of(link.url) is not None and not (conditions.hosts and kinds[number].isdisjoint(conditions.hosts))
        ]
        if conditions.near and suspects:
            hits = [
                (place, again)
                for place, hit in near[rule.id]
                for again in policy.bank.locate_all(hit.pattern, place.data, OCCURRENCES_MAX)
            ]
            _match_near(rule, conditions, suspects, hits, findings)
            continue
        for number, link in suspects:
            findings.add_link(rule, number, link)


def _match_near(
    rule: Rule,
    conditions: LinkConditions,
    suspects: Sequence[tuple[int, Link]],
    hits: Sequence[tuple[_Place, Hit]],
    findings: _Findings,
) -> None:
    """Look for a pair of link and phrase that are near each other; one is enough, and so are too many to check."""
    pairs = ((number, link, place, hit) for number, link in suspects for place, hit in hits)
    for checked, (number, link, place, hit) in enumerate(pairs):
        if checked >= NEAR_CHECKS_MAX or _is_near(link, place, hit, conditions.within_characters):
            findings.add_link(rule, number, link)
            findings.add_hit(rule, place, hit)
            return


def _is_near(link: Link, place: _Place, hit: Hit, characters: int) -> bool:
    written = [_utf8(form) for form in (link.url, (link.shown or "").strip()) if form and _utf8(form) in place.data]
    if not written:
        return True
    reach = max(len(form) for form in written)
    reached = max(0, hit.start - 4 * (characters + reach))
    before = place.data[reached : hit.start].decode("utf-8", "replace")[-characters - reach :]
    after = place.data[hit.end : hit.end + 4 * (characters + reach)].decode("utf-8", "replace")[: characters + reach]
    window = _utf8(before) + place.data[hit.start : hit.end] + _utf8(after)
    return any(form in window for form in written)


def _match_attachments(
    parts: MailParts, places: Sequence[_Place], policy: Policy, findings: _Findings
) -> Iterator[str]:
    """Apply the attachment rules; yield what could not be read."""
    for number, attachment in enumerate(parts.attachments):
        inspection = inspect(attachment.filename, attachment.content)
        yield from inspection.degraded
        for finding in inspection.findings:
            matched = attachment.content[finding.start : finding.end]
            for rule in _attachment_rules(policy, finding.kind, findings):
                findings.add(rule, f"attachment[{number}]", finding.start, finding.end, matched)
    for place in places:
        if place.kind == "text" and (found := find_eicar(place.data)) is not None:
            for rule in _attachment_rules(policy, "eicar", findings):
                start, end = place.characters(found[0]), place.characters(found[1])
                findings.add(rule, place.name, start, end, place.data[found[0] : found[1]])


def _attachment_rules(policy: Policy, kind: str, findings: _Findings) -> Iterator[Rule]:
    for rule in policy.attachment_rules:
        if rule.match.attachments is not None and kind in rule.match.attachments.any and findings.applies(rule):
            yield rule
