"""The forms of personal data: a fast path for what nearly everybody has, libraries for the rest.

Values are stored as they were given, except phone numbers, which become E.164. Refusals name the field and never
repeat its value.
"""

from __future__ import annotations

import re
import unicodedata
import zoneinfo
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from email_validator import EmailNotValidError, validate_email
from phonenumbers import (
    COUNTRY_CODE_TO_REGION_CODE,
    NumberParseException,
    PhoneMetadata,
    PhoneNumberFormat,
    format_number,
    is_valid_number,
    parse,
)

from common.addresses import ascii_domain, unicode_domain
from common.contracts.vault import FIELD_CHARACTERS_MAX
from vault.domain import KINDS, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from common.contracts.vault import SealItem

ADDRESS_CHARACTERS_MAX = 320
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ADDRESS = re.compile(rf"(?=.{{3,254}}\Z)(?=[^@]{{1,64}}@){_ATOM}(?:\.{_ATOM})*@(?:{_LABEL}\.)*{_LABEL}").fullmatch
_E164 = re.compile(r"\+[1-9][0-9]{7,14}").fullmatch
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*").fullmatch


class Given(NamedTuple):
    """What an item says of one person: the address or phone it is found by, and all its fields."""

    kind: str
    found_by: str
    normal: str
    fields: dict[str, str]


def read_person(item: SealItem) -> Given | Refusal:
    """Return the person that an item describes, or why it describes none."""
    if item.kind not in KINDS:
        return Refusal(422, "invalid-field", f"kind: one of {', '.join(KINDS)}", {"field": "kind"})
    address = item.address
    if address is None and "phone" not in item.fields:
        return Refusal(422, "invalid-field", "address: a person needs an address or a phone", {"field": "address"})
    made: dict[str, str] = {}
    if address is not None:
        formed = mail_address(address)
        if isinstance(formed, Refusal):
            return formed
        made["address"] = formed
    if item.fields and (refusal := _take_fields(item.fields, made)):
        return refusal
    if address is None:
        return Given(item.kind, "phone", made["phone"], made)
    return Given(item.kind, "address", normal_address(address), made)


def _take_fields(fields: dict[str, str], made: dict[str, str]) -> Refusal | None:
    """Add the fields in their forms to what was made; return why one of them is no field or has no such form."""
    for name, value in fields.items():
        form = _FORMS.get(name)
        if form is None:
            return Refusal(422, "unknown-field", f"fields: may be {', '.join(_FORMS)}", {"field": "fields"})
        formed = form(value)
        if isinstance(formed, Refusal):
            return formed
        made[name] = formed
    return None


def read_fields(fields: Mapping[str, str | None]) -> dict[str, str | None] | Refusal:
    """Return given fields in their forms, null where one is to be removed; or why one of them is no field."""
    made: dict[str, str | None] = {}
    for name, value in fields.items():
        form = mail_address if name == "address" else _FORMS.get(name)
        if form is None:
            return Refusal(422, "unknown-field", f"fields: may be address, {', '.join(_FORMS)}", {"field": "fields"})
        formed = None if value is None else form(value)
        if isinstance(formed, Refusal):
            return formed
        made[name] = formed
    return made


def normal_address(address: str) -> str:
    """Return the form under which addresses are compared: lower case, Unicode in NFC, the domain in A-labels.

    RFC 5321 lets a host tell apart local parts by case; none that matters does, and one person must not become two.
    The address itself is stored as it was given.
    """
    if address.isascii():
        return address.lower()
    local_part, _, domain = address.rpartition("@")
    try:
        return f"{_lower(local_part)}@{ascii_domain(domain)}"
    except ValueError:
        return _lower(address)


def normal_addresses(address: str) -> list[str]:
    """Return the forms under which persons may stand: the normal one, and the one of before with U-labels."""
    normal = normal_address(address)
    local_part, _, domain = normal.rpartition("@")
    if "xn--" not in domain:
        return [normal]
    try:
        return [normal, _lower(f"{local_part}@{unicode_domain(domain)}")]
    except ValueError:
        return [normal]


def _lower(text: str) -> str:
    return unicodedata.normalize("NFC", text.lower())


def mail_address(value: str) -> str | Refusal:
    """Return an address of RFC 5321 or 6531 as it is, or the refusal."""
    if _ADDRESS(value):
        return value
    if len(value) > ADDRESS_CHARACTERS_MAX:
        limit = ADDRESS_CHARACTERS_MAX
        return Refusal(422, "invalid-address", f"address: longer than {limit}", {"field": "address", "limit": limit})
    try:
        validate_email(
            value,
            check_deliverability=False,
            allow_quoted_local=True,
            allow_domain_literal=True,
            test_environment=True,
        )
    except EmailNotValidError:
        return Refusal(422, "invalid-address", "address: no e-mail address (RFC 5321)", {"field": "address"})
    return value


def phone_number(value: str) -> str | Refusal:
    """Return a number in E.164, or the refusal; without a country code nobody knows whose it is."""
    if _E164(value) and not _has_trunk_prefix(value):
        return value
    try:
        number = parse(value) if len(value) <= FIELD_CHARACTERS_MAX else None
    except NumberParseException:
        number = None
    if number is None or not is_valid_number(number):
        detail = "phone: no number with a country code, such as +4930123456 (E.164)"
        return Refusal(422, "invalid-phone", detail, {"field": "phone"})
    return format_number(number, PhoneNumberFormat.E164)


def _has_trunk_prefix(value: str) -> bool:
    """Return whether behind the country code stands what may be dialled within the country only, as in +49 0 30."""
    for end in (2, 3, 4):
        if (prefix := _trunk_prefix(int(value[1:end]))) is not None:
            found = prefix.match(value, end)
            return found is not None and found.end() > end
    return False


@cache
def _trunk_prefix(country_code: int) -> re.Pattern[str] | None:
    """Return the pattern of a country code; one that matches nothing where there is no prefix, None for no country."""
    regions = COUNTRY_CODE_TO_REGION_CODE.get(country_code)
    if regions is None:
        return None
    metadata = PhoneMetadata.metadata_for_region_or_calling_code(country_code, regions[0])
    return re.compile((metadata and metadata.national_prefix_for_parsing) or "(?!)")


def _text(name: str) -> Callable[[str], str | Refusal]:
    def form(value: str) -> str | Refusal:
        if len(value) <= FIELD_CHARACTERS_MAX:
            return value
        limit = FIELD_CHARACTERS_MAX
        return Refusal(422, "invalid-field", f"{name}: longer than {limit}", {"field": name, "limit": limit})

    return form


def _language(value: str) -> str | Refusal:
    if len(value) <= 35 and _LANGUAGE(value):
        return value
    return Refusal(422, "invalid-field", "language: no language tag (BCP 47)", {"field": "language"})


@cache
def _zones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def _time_zone(value: str) -> str | Refusal:
    if value in _zones():
        return value
    return Refusal(422, "invalid-field", "time_zone: no zone of the IANA database", {"field": "time_zone"})


_FORMS: dict[str, Callable[[str], str | Refusal]] = {
    "name": _text("name"),
    "phone": phone_number,
    "postal_address": _text("postal_address"),
    "language": _language,
    "time_zone": _time_zone,
}
