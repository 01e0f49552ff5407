"""Whether words are somebody's own or tell what another said: a complaint that quotes a threat is no threat.

Heuristics over the clause around a match, for rules that judge what is said *to* the reader (threats, hatred, abuse).
Not for lures: those quote banks and friends all day. Whoever hides a threat in a report escapes the rule, not the
models.
"""

from __future__ import annotations

import re

REACH_BYTES = 320
"""How far around a match it is looked: the longest quotation, and what introduces it."""
_CONTEXT_CHARACTERS = 90
_OPENING = re.compile(r"(?:^|(?<=[\s(:,\-]))[\"'\u2018](?=\w|$)|[\u201c\u201e\u00ab\u2039]|(?<=[\s(:])\u201d(?=\w|$)")
_CLOSING = re.compile(r"[\"\u201d\u201c\u00bb\u203a\u2019](?!\w)|(?<=[\w.!?,])'(?!\w)")

_SAID = (
    r"sa(?:id|ys|ying)|wr(?:ote|ites|iting|itten)|tell(?:s|ing)|told|shout(?:s|ed|ing)|yell(?:s|ed|ing)|"
    r"scream(?:s|ed|ing)|text(?:s|ed|ing)|messag(?:es|ed|ing)|post(?:s|ed|ing)|comment(?:s|ed|ing)|spray(?:s|ed|ing)|"
    r"threaten(?:s|ed|ing)|repl(?:ies|ied)|answer(?:s|ed)|whisper(?:s|ed)|claim(?:s|ed|ing)|chant(?:s|ed|ing)|"
    r"call(?:s|ed|ing)|quot(?:es|ed|ing)|scratch(?:es|ed)|paint(?:s|ed)|sent|sends|shared?|heard|reads?|left|"
    r"sagte?n?|schrieb|schreibt|rief|ruft|brüllte?|schrie|drohte?|drohend|"
    r"dit|disait|écrit|écrivait|crié|criait|menacé|dijo|decía|escribió|gritó|amenazó"
)
_THING = (
    r"messages?|texts?|e-?mails?|voicemails?|comments?|posts?|graffiti|slogans?|reviews?|threats?|words?|sentence|"
    r"phrase|caption|letter|note|statement|sticker|sign|poster|hashtag|chat|insults?|abuse|"
    r"nachricht|kommentar|drohung|menace|mensaje|amenaza"
)
_SOMEBODY = (
    r"he|she|they|who|which|somebody|someone|anybody|people|man|men|woman|women|guys?|persons?|stranger|callers?|"
    r"drivers?|couriers?|agents?|clerk|users?|customers?|colleagues?|boss|landlord|tenants?|neighbou?rs?|husband|wife|"
    r"ex|boyfriend|girlfriend|father|mother|brother|uncle|son|daughter|kids?|pupils?|students?|teacher|classmates?|"
    r"defendant|suspect|accused|attacker|blackmailer|scammer|speaker|politician|author|magazine|article|leaflet|"
    r"er|sie|jemand|nachbarn?|il|elle|ils|quelqu.un|él|ella|alguien|vecino"
)
_QUOTED_BY = re.compile(rf"\b(?:{_SAID}|{_THING})\b")
_TOLD = re.compile(rf"\b(?:{_SOMEBODY})\b[^.!?]{{0,40}}\b(?:{_SAID})\b(?:,| (?:\w+ ){{0,4}}\w+)?[\s:\"']*$")
_DENIED = re.compile(
    r"\b(?:never|not|no|wrong|nobody|stop|false|lie|lies|racist|hateful|disgusting|sick|sickening|shameful)\b"
    r"[^.!?]{0,40}\b(?:say|says|said|saying|claim|claims|claiming|post|posting|write|writing)\b"
    r"(?: (?:that|things like|how))?[\s:,\"']*$"
)


def is_reported(data: bytes, start: int, end: int) -> bool:
    """Return whether the bytes `start:end` of a normalised text stand in a quotation or behind "he said"."""
    before = data[max(0, start - REACH_BYTES) : start].decode("utf-8", "ignore")
    after = data[end : end + REACH_BYTES].decode("utf-8", "ignore")
    near = before[-_CONTEXT_CHARACTERS:]
    if _TOLD.search(near) or _DENIED.search(near):
        return True
    openings = [*_OPENING.finditer(before)]
    if not openings or _CLOSING.search(before, openings[-1].end()):
        return False
    closing = _CLOSING.search(after)
    introduced = before[: openings[-1].start()][-_CONTEXT_CHARACTERS:]
    followed = after[closing.end() :][:_CONTEXT_CHARACTERS] if closing else ""
    return bool(_QUOTED_BY.search(introduced) or (closing and _QUOTED_BY.search(followed)))
