"""What a link's host tells: an address in numbers, an internationalised name, a look-alike, another site than shown."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from moderation.mail import Link
    from moderation.policy.document import HostKind

_WEB = re.compile(r"(?:https?:[/\\]*+|[/\\]{2,}+|(?=www\.))(.*)", re.IGNORECASE | re.DOTALL)
_SHOWN_CHARACTERS_MAX = 300
_LABEL_CHARACTERS_MAX = 63
_ACE_PREFIX = "xn--"
_INTERNAL_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "fc00::/7",
        "fe80::/10",
        "::1",
    )
)

# Letters of other scripts that readers take for the Latin letter (a selection from Unicode TR 39 confusables).
_ALIKE = (
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u051b\u051d\u04bb\u04cf"  # Cyrillic
    "\u03bf\u03b1\u03b9\u03bd\u03c1\u03c5\u0131\u0261"  # Greek, dotless i, script g
)
_ALIKE_IN_A_WORD = "\u0432\u043a\u043c\u043d\u0442\u03c4\u03ba"  # small capitals to the eye
_LATIN_LOOK = str.maketrans(_ALIKE + _ALIKE_IN_A_WORD, "aeopcyxijsdqwhl" + "oaivpuig" + "bkmhttk")
_ALWAYS_ALIKE = frozenset(_ALIKE)


class SuffixList(Protocol):
    """The public suffix list, as `publicsuffixlist.PublicSuffixList` answers it."""

    def privatesuffix(self, domain: str, /) -> str | None:
        """Return the registrable domain of a host name."""


def authority_and_path(url: str) -> tuple[str, str]:
    """Return user, host and port of an http(s) address, and all behind them; nothing for other schemes.

    As browsers read it: a backslash is a slash, any number of them may stand behind the scheme, two of them need none.
    """
    start = _WEB.match(url.strip())
    if start is None:
        return "", ""
    rest = start[1].replace("\\", "/")
    end = min(at for at in (rest.find("/"), rest.find("?"), rest.find("#"), len(rest)) if at >= 0)
    return rest[:end], rest[end:]


def host_of(url: str) -> str | None:
    """Return the host of an http(s) address, lower case, without user, port or final dot; None for other schemes."""
    authority, _ = authority_and_path(url)
    host = authority.rpartition("@")[2]
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].rstrip(".").lower() or None


def host_kinds(link: Link, suffixes: SuffixList) -> Iterator[HostKind]:
    """Yield what is remarkable about a link's host."""
    host = host_of(link.url)
    if host is None:
        return
    if is_raw_ip(host):
        yield "raw-ip"
        return
    if not host.isascii() or _ACE_PREFIX in host:
        yield "punycode"
        if any(looks_latin(label) for label in _labels(host)):
            yield "lookalike"
    shown = shown_host(link.shown) if link.shown else None
    if shown is not None and _site(shown, suffixes) != _site(host, suffixes):
        yield "displayed-differs"


def is_raw_ip(host: str) -> bool:
    """Whether browsers take the host for an IP address outside one's own network, odd forms (hexadecimal) included."""
    if not host or not (host[0] == "[" or (host[0].isdigit() and host[0].isascii())):
        return False
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        labels = host.split(".")
        return len(labels) <= 4 and all(_is_number(label) for label in labels)
    return not any(address in network for network in _INTERNAL_NETWORKS)


def looks_latin(label: str) -> bool:
    """Whether a name written (in part) in another script reads as a Latin word; a plain Cyrillic word does not."""
    foreign = [character for character in label if not character.isascii()]
    if not foreign or not label.translate(_LATIN_LOOK).isascii():
        return False
    mixed = any(character.isascii() and character.isalpha() for character in label)
    return mixed or all(character in _ALWAYS_ALIKE for character in foreign)


def shown_host(shown: str) -> str | None:
    """Return the host that a link's shown text claims to lead to; None when it is no address."""
    text = shown.strip().strip("<>()[].,;:")
    if not text or len(text) > _SHOWN_CHARACTERS_MAX or "." not in text or any(map(str.isspace, text)):
        return None
    host = host_of(text if "://" in text else f"http://{text}")
    if host is None or "@" in text.partition("/")[0]:
        return None
    top = host.rpartition(".")[2]
    return host if "." in host and len(top) >= 2 and (top.isalpha() or top.startswith(_ACE_PREFIX)) else None


def _site(host: str, suffixes: SuffixList) -> str:
    name = ".".join(_labels(host))
    ascii_name = name if name.isascii() else name.encode("punycode").decode()
    return suffixes.privatesuffix(ascii_name) or ascii_name


def _labels(host: str) -> Iterable[str]:
    for label in host.split("."):
        yield _decoded(label) if label.startswith(_ACE_PREFIX) else label


def _decoded(label: str) -> str:
    """Return the Unicode form of an ACE label (RFC 3492), or the label when it is none."""
    if len(label) > _LABEL_CHARACTERS_MAX:
        return label
    try:
        return label.removeprefix(_ACE_PREFIX).encode("ascii").decode("punycode")
    except ValueError:
        return label


def _is_number(label: str) -> bool:
    if label.isascii() and label.isdigit():
        return True
    return label.startswith("0x") and all(digit in "0123456789abcdef" for digit in label[2:])
