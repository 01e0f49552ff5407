"""What kind of site a link leads to: a brand's look-alike, a shortener, a free host, an address from a list.

Host names and senders are looked at once and remembered; what depends on the whole link (shown text, path) is looked
at each time.
"""

from __future__ import annotations

import re
from email.utils import parseaddr
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

from moderation.features import INDEX
from moderation.links import authority_and_path, host_kinds, is_raw_ip
from moderation.mail import Link, can_be_addresses
from moderation.text import normalise
from moderation.text.words import lexicon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moderation.links import SuffixList
    from moderation.lists import HashLists
    from moderation.mail import Correspondent
    from moderation.policy.document import HostKind, Hosts

REMEMBERED_HOSTS = 20_000
REMEMBERED_SENDERS = 2_000
_MISSPELT_CHARACTERS_MIN = 5
_INSIDE_CHARACTERS_MIN = 6
_DEEP_LABELS = 4
_LOOKS_LIKE = (("rn", "m"), ("vv", "w"), ("cl", "d"))
_DIGITS = str.maketrans("013458$@", "oleasbsa")
_SPLIT = re.compile(r"[.\-_]+")
_CREDENTIAL_PATH = re.compile(
    r"(?:log-?in|log-?on|sign-?in|verif|secure|account|update|confirm|authenti|credential|password|wallet|unlock"
    r"|billing|webscr|banking|kyc|tracking-?fee|redeliver)",
    re.IGNORECASE,
)
_REDIRECT = re.compile(
    r"[?&](?:url|u|q|to|target|redirect(?:_ur[il])?|next|dest(?:ination)?|continue|goto|link)=(?:https?|www|%68%74%74%70)",
    re.IGNORECASE,
)


class Sites:
    """The hosts section of a policy, ready to be asked about links."""

    def __init__(self, hosts: Hosts, suffixes: SuffixList, lists: HashLists) -> None:
        self._suffixes = suffixes
        self._lists = lists
        self._shorteners = frozenset(hosts.shorteners)
        self._free_hosts = frozenset(hosts.free_hosts)
        self._endings = frozenset(hosts.suspicious_endings)
        self._own = frozenset(domain for domains in hosts.brands.values() for domain in domains)
        self._brands = frozenset(name.replace("_", "") for name in hosts.brands)
        self._long_brands = tuple(name for name in self._brands if len(name) >= _INSIDE_CHARACTERS_MIN)
        long_enough = [name for name in self._brands if len(name) >= _MISSPELT_CHARACTERS_MIN]
        self._near = {form for name in long_enough for form in _deletions(name)}
        self.free_mail = frozenset(hosts.free_mail)
        self.kinds_of_host = lru_cache(maxsize=REMEMBERED_HOSTS)(self._kinds_of_host)
        self.kinds_of_sender = lru_cache(maxsize=REMEMBERED_SENDERS)(self._kinds_of_sender)

    def kinds(self, link: Link, host: str | None) -> frozenset[HostKind]:
        """Return what is remarkable about where a link leads; `host` is that of its address."""
        if host is None:
            return frozenset()
        kinds = set(self.kinds_of_host(host))
        if link.bare:
            kinds.add("bare")
        elif link.shown:
            kinds.update(host_kinds(link, self._suffixes))
        authority, path = authority_and_path(link.url)
        path = path[1:]
        if path and _CREDENTIAL_PATH.search(path[:500]):
            kinds.add("credential-path")
        if "=" in path and _REDIRECT.search(link.url[:2000]):
            kinds.add("redirect")
        if "@" in authority:
            kinds.add("user-info")
        if self._lists.has_address(link.url, host):
            kinds.add("listed")
        return frozenset(kinds)

    def site(self, host: str) -> str:
        """Return the registrable domain of a host name, or the host when it has none."""
        return self._suffixes.privatesuffix(host) or host

    def is_brand_site(self, site: str) -> bool:
        """Whether a registrable domain is one of a protected brand's own, or its name under an ordinary ending."""
        label, _, ending = site.partition(".")
        return site in self._own or (label in self._brands and ending not in self._endings)

    def brands_in(self, name: str) -> frozenset[str]:
        """Return the protected brands that a shown name (any case) names as whole words."""
        words = normalise(name).text.split()
        pairs = {a + b for a, b in pairwise(words)}
        return self._brands & (set(words) | pairs)

    def _kinds_of_sender(self, sender: Correspondent, answers_to: Correspondent | None) -> tuple[int, ...]:
        """Return the features that are 1 for a sender."""
        return tuple(INDEX[name] for name in self._told_by_sender(sender, answers_to))

    def _told_by_sender(self, sender: Correspondent, answers_to: Correspondent | None) -> Iterator[str]:
        site = self._site_of_mailbox(sender.address)
        if sender.name:
            shown = parseaddr(sender.name)[1] if "@" in sender.name and can_be_addresses(sender.name) else ""
            if "@" in shown and self._site_of_mailbox(shown) != site:
                yield "mail.name_is_other_address"
            if self.brands_in(sender.name) and not self.is_brand_site(site):
                yield "mail.name_is_other_brand"
        if site in self.free_mail:
            yield "mail.free_sender"
        if answers_to is not None and self._site_of_mailbox(answers_to.address) != site:
            yield "mail.reply_elsewhere"

    def _site_of_mailbox(self, address: str) -> str:
        return self.site(address.rpartition("@")[2].lower())

    def _kinds_of_host(self, host: str) -> tuple[HostKind, ...]:
        by_number = host_kinds(Link(f"http://{host}/"), self._suffixes)
        return tuple(dict.fromkeys([*by_number, *self._named(host)]))

    def _named(self, host: str) -> Iterator[HostKind]:
        if is_raw_ip(host):
            return
        ascii_host = host if host.isascii() else normalise(host).text
        site = self.site(ascii_host)
        if site in self._shorteners:
            yield "shortener"
        free = next((parent for parent in _parents(ascii_host) if parent in self._free_hosts), None)
        if free is not None:
            yield "free-host"
        if any(parent in self._endings for parent in _parents(ascii_host)):
            yield "suspicious-ending"
        label = site.partition(".")[0]
        if label.count("-") >= 2 or sum(map(str.isdigit, label)) >= 4:
            yield "young-shape"
        if ascii_host.count(".") >= _DEEP_LABELS:
            yield "deep-host"
        if not self.is_brand_site(site) and not (free is None and site in self._shorteners):
            yield from self._look_alike(ascii_host, site, free)

    def _look_alike(self, host: str, site: str, free: str | None) -> Iterator[HostKind]:
        """Yield `brand` for a brand's name on somebody else's host, `brand-misspelt` for one that nearly is it."""
        own = free or site.partition(".")[2]
        named = host.removesuffix(own).strip(".")
        tokens = [token for token in _SPLIT.split(named) if token][:20]
        if any(token in self._brands for token in tokens) or any(
            brand in token for token in tokens for brand in self._long_brands if len(token) > len(brand)
        ):
            yield "brand"
        if any(self._nearly_brand(token) for token in tokens):
            yield "brand-misspelt"

    def _nearly_brand(self, token: str) -> bool:
        if token in self._brands or not 3 <= len(token) <= 30:
            return False
        read = token.translate(_DIGITS)
        for pair, letter in _LOOKS_LIKE:
            if read.replace(pair, letter) in self._brands:
                return True
        if read in self._brands or token.translate(str.maketrans("1", "i")) in self._brands:
            return True
        if len(token) < _MISSPELT_CHARACTERS_MIN or token in lexicon():
            return False
        return not self._near.isdisjoint(_deletions(read)) and _one_edit(read, self._brands)


def _deletions(name: str) -> Iterator[str]:
    yield name
    for place in range(len(name)):
        yield name[:place] + name[place + 1 :]


def _one_edit(name: str, brands: frozenset[str]) -> bool:
    """Whether one letter more, less, other or swapped with its neighbour makes a brand."""
    return any(
        len(brand) >= _MISSPELT_CHARACTERS_MIN and abs(len(brand) - len(name)) <= 1 and _apart(name, brand)
        for brand in brands
    )


def _apart(one: str, other: str) -> bool:
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    rest, end = one[start:], other[start:]
    return (
        rest[1:] == end[1:]
        or rest[1:] == end
        or rest == end[1:]
        or (rest[1:2] + rest[:1] + rest[2:] == end and len(rest) > 1)
    )


def _parents(host: str) -> Iterator[str]:
    yield host
    while "." in host:
        host = host.partition(".")[2]
        yield host
