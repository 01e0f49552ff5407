"""Mailbox addresses: syntax and normal form (RFC 5321, 6531, 5891)."""

from __future__ import annotations

import re
import unicodedata

from common.addresses import ascii_domain
from ingestion.mime.content import ADDRESS_OCTETS_MAX, LOCAL_PART_OCTETS_MAX, ContentError

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~-"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = rf"(?:{_LABEL}\.)+[A-Za-z](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?"
_PLAIN_ADDRESS = re.compile(rf"([{_ATEXT}]+(?:\.[{_ATEXT}]+)*)@({_DOMAIN})")
_LOCAL_PART = re.compile(rf"[\u00a1-\U0010ffff{_ATEXT}]+(?:\.[\u00a1-\U0010ffff{_ATEXT}]+)*")
_DOMAIN_NAME = re.compile(_DOMAIN)


def parse_address(text: str, *, field: str) -> str:
    """The normal form of an address: domain in lower-case A-labels, local part as written (NFC).

    Quoted local parts and address literals (`user@[192.0.2.1]`) are refused: few systems carry them unchanged.

    Raises:
        ContentError: naming `field`, never the address.
    """
    if len(text) > ADDRESS_OCTETS_MAX:
        raise ContentError(field, f"is longer than {ADDRESS_OCTETS_MAX} octets", ADDRESS_OCTETS_MAX)
    match = _PLAIN_ADDRESS.fullmatch(text)
    if match is not None and match.end(1) <= LOCAL_PART_OCTETS_MAX:
        return f"{match[1]}@{match[2].lower()}"
    return _uncommon_address(text, field)


def _uncommon_address(text: str, field: str) -> str:
    local_part, at_sign, domain = text.rpartition("@")
    if not at_sign or not local_part or not domain:
        raise ContentError(field, "needs one at sign with a name before and a domain after it")
    address = f"{_local_part(local_part, field)}@{_domain(domain, field)}"
    if len(address.encode()) > ADDRESS_OCTETS_MAX:
        raise ContentError(field, f"is longer than {ADDRESS_OCTETS_MAX} octets", ADDRESS_OCTETS_MAX)
    return address


def _local_part(text: str, field: str) -> str:
    if not text.isprintable() or not _LOCAL_PART.fullmatch(text):
        raise ContentError(
            field, "has a character or a dot before the at sign that an address cannot hold without quotes"
        )
    normal = unicodedata.normalize("NFC", text)
    if len(normal.encode()) > LOCAL_PART_OCTETS_MAX:
        raise ContentError(
            field, f"is longer than {LOCAL_PART_OCTETS_MAX} octets before the at sign", LOCAL_PART_OCTETS_MAX
        )
    return normal


def _domain(text: str, field: str) -> str:
    try:
        domain = ascii_domain(text)
    except ValueError:
        raise ContentError(field, "has a domain that is no internationalised domain name (RFC 5891)") from None
    if not _DOMAIN_NAME.fullmatch(domain):
        raise ContentError(field, "needs a full domain name after the at sign, such as example.org")
    return domain
