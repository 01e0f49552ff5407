from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.contracts.vault import SealItem
from vault.domain import Refusal
from vault.formats import mail_address, normal_address, normal_addresses, phone_number, read_person


def person(address=None, kind="recipient", **fields):
    return read_person(SealItem(account_id="a", message_id="m", address=address, fields=fields, kind=kind))


@given(st.emails())
def test_addresses_of_the_standard_pass_as_they_are(address):
    assert mail_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "a@example.org",
        "nobody@localhost",
        "j\u00f6rg@example.org",
        "a@b\u00fccher.example",
        '"a b"@example.org',
        "a@[127.0.0.1]",
    ],
)
def test_addresses_off_the_fast_path_pass_as_they_are(address):
    assert mail_address(address) == address


@pytest.mark.parametrize(
    "address",
    ["", "nobody", "a@", "@example.org", "a b@example.org", "a@b@c", "a@-x.org", "a\n@example.org", "x" * 400],
)
def test_what_is_no_address_is_refused_without_repeating_it(address):
    refusal = mail_address(address)
    assert isinstance(refusal, Refusal)
    assert (refusal.kind, refusal.members["field"]) == ("invalid-address", "address")
    assert not address or address not in refusal.detail


@pytest.mark.parametrize(
    ("given_as", "stored_as"),
    [
        ("+4930123456", "+4930123456"),
        ("+49 30 123456", "+4930123456"),
        ("+1 (212) 555-0123", "+12125550123"),
        ("+49030123456", "+4930123456"),
        ("+49 (0)30 123456", "+4930123456"),
        ("+4407911123456", "+447911123456"),
        ("+390612345678", "+390612345678"),
        ("+78001234567", "+78001234567"),
    ],
)
def test_phone_numbers_become_e164(given_as, stored_as):
    assert phone_number(given_as) == stored_as


@pytest.mark.parametrize("number", ["", "030 123456", "+", "+0123456789", "+490", "call me", "+" + "1" * 5000])
def test_what_is_no_phone_number_is_refused_without_repeating_it(number):
    refusal = phone_number(number)
    assert isinstance(refusal, Refusal)
    assert refusal.kind == "invalid-phone"
    assert len(number) < 5 or number not in refusal.detail


def test_a_person_is_found_by_the_address_or_else_by_the_phone():
    assert person("A@Example.org", phone="+4930123456")[:3] == ("recipient", "address", "a@example.org")
    assert person(None, phone="+49 30 123456")[:3] == ("recipient", "phone", "+4930123456")


@pytest.mark.parametrize(
    ("fields", "kind", "field"),
    [
        ({"shoe_size": "canary"}, "unknown-field", "fields"),
        ({"name": "canary" * 1000}, "invalid-field", "name"),
        ({"postal_address": "canary" * 1000}, "invalid-field", "postal_address"),
        ({"language": "canary language"}, "invalid-field", "language"),
        ({"time_zone": "canary"}, "invalid-field", "time_zone"),
        ({"phone": "canary"}, "invalid-phone", "phone"),
    ],
)
def test_a_field_without_its_form_is_refused_by_name(fields, kind, field):
    refusal = person("a@example.org", **fields)
    assert (refusal.kind, refusal.members["field"]) == (kind, field)
    assert "canary" not in refusal.detail


def test_an_address_is_no_field_beside_the_address():
    item = SealItem(account_id="a", message_id="m", address="a@example.org", fields={"address": "b@example.org"})
    assert read_person(item).kind == "unknown-field"


def test_a_person_without_address_and_phone_or_of_no_kind_is_refused():
    assert person(None, name="Anna").members == {"field": "address"}
    assert person("a@example.org", kind="pet").members == {"field": "kind"}


def test_fields_are_kept_as_they_were_given():
    found = person("a@example.org", name="Anna", language="de-AT", time_zone="Europe/Vienna", postal_address="Ring 1")
    assert found.fields == {
        "address": "a@example.org",
        "name": "Anna",
        "language": "de-AT",
        "time_zone": "Europe/Vienna",
        "postal_address": "Ring 1",
    }


def test_addresses_are_compared_in_lower_case_and_composed_unicode():
    assert normal_address("Anna.Muster@Example.ORG") == "anna.muster@example.org"
    assert normal_address("JO\u0308RG@example.org") == normal_address("j\u00f6rg@example.org")


@given(st.from_regex(r"\+[1-9][0-9]{7,14}", fullmatch=True))
def test_a_number_is_the_same_with_and_without_spaces(number):
    spaced = phone_number(f"{number[:4]} {number[4:]}")
    assert isinstance(spaced, Refusal) or phone_number(number) == spaced


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("Anna@b\u00fccher.de", "anna@xn--bcher-kva.de"),
        ("anna@B\u00dcCHER.de", "anna@xn--bcher-kva.de"),
        ("anna@XN--BCHER-KVA.de", "anna@xn--bcher-kva.de"),
        ("J\u00d6RG@example.ORG", "j\u00f6rg@example.org"),
        ("a@\u2028.example", "a@\u2028.example"),
    ],
)
def test_addresses_are_compared_with_their_domain_in_a_labels(written, compared):
    assert normal_address(written) == compared


def test_persons_of_before_stand_under_their_domain_in_u_labels():
    both = ["anna@xn--bcher-kva.de", "anna@b\u00fccher.de"]
    assert normal_addresses("Anna@B\u00fccher.de") == normal_addresses("anna@xn--bcher-kva.de") == both
    assert normal_addresses("anna@example.org") == ["anna@example.org"]
    assert normal_addresses("anna@xn--a.example") == ["anna@xn--a.example"]
