"""Domains of mail addresses, in the one form that door and vault compare."""

from __future__ import annotations

import idna


def ascii_domain(domain: str) -> str:
    """Return a domain in lower-case A-labels (RFC 5891 with the mapping of UTS 46); ASCII is only made lower case.

    Raises:
        ValueError: it is no internationalised domain name.
    """
    if domain.isascii():
        return domain.lower()
    return idna.encode(domain, uts46=True).decode("ascii").lower()


def unicode_domain(domain: str) -> str:
    """Return a domain in U-labels.

    Raises:
        ValueError: it is no internationalised domain name.
    """
    return idna.decode(domain, uts46=True)
