import pytest
from publicsuffixlist import PublicSuffixList

from moderation.links import host_kinds, host_of, is_raw_ip, shown_host
from moderation.lists import address_expressions
from moderation.mail import Link


@pytest.fixture(scope="module")
def suffixes():
    return PublicSuffixList()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Shop.Example.com:8443/a?b#c", "shop.example.com"),
        ("http://user:secret@example.com", "example.com"),
        ("http://example.com\\@evil.test/", "example.com"),
        ("www.example.com/x", "www.example.com"),
        ("HTTP://[2001:db8::1]:80/", "[2001:db8::1]"),
        ("mailto:ada@example.org", None),
        ("http:///x", "x"),
        ("http:/example.com/a", "example.com"),
        ("https:example.com", "example.com"),
        ("http:\\\\example.com\\a", "example.com"),
        ("//example.com/login", "example.com"),
        ("\\/example.com", "example.com"),
        ("/login", None),
        ("http:", None),
    ],
)
def test_the_host_is_what_a_browser_would_ask(url, host):
    assert host_of(url) == host


@pytest.mark.parametrize("url", ["https://a.example/x?y=1", "//a.example/x?y=1", "https:\\\\a.example\\x?y=1#z"])
def test_an_address_is_listed_however_its_slashes_are_written(url):
    assert list(address_expressions(url, "a.example")) == ["a.example/x?y=1", "a.example/"]


@pytest.mark.parametrize("host", ["203.0.113.7", "3405803783", "0xcb007107", "0313.0.0161.7", "[2001:db8::1]"])
def test_a_number_in_any_form_is_a_raw_address(host):
    assert is_raw_ip(host)


@pytest.mark.parametrize(
    "host", ["192.168.0.1", "10.1.2.3", "[::1]", "1und1.example", "360.example.com", "example.com", ""]
)
def test_names_and_ones_own_network_are_no_raw_addresses(host):
    assert not is_raw_ip(host)


@pytest.mark.parametrize(
    ("url", "shown", "kinds"),
    [
        ("https://shop.example.com/", None, []),
        ("https://www.example.com/", "shop.example.com", []),
        ("https://evil.test/", "www.example.com", ["displayed-differs"]),
        ("https://evil.test/", "our shop", []),
        ("https://evil.test/", "version 2.0", []),
        ("https://a.co.uk/", "b.co.uk", ["displayed-differs"]),
        ("https://xn--mller-kva.de/", "müller.de", ["punycode"]),
        ("https://xn--80ak6aa92e.com/", None, ["punycode", "lookalike"]),
        ("https://p\u0430ypal.com/", None, ["punycode", "lookalike"]),
        ("https://сбербанк.рф/", None, ["punycode"]),
        ("https://xn--\u00ff/", None, ["punycode"]),
        ("ftp://203.0.113.7/", None, []),
    ],
)
def test_kinds_of_hosts(url, shown, kinds, suffixes):
    assert list(host_kinds(Link(url, shown), suffixes)) == kinds


def test_only_an_address_counts_as_a_shown_host():
    assert shown_host("https://shop.example.com/a b") is None
    assert shown_host("ada@example.org") is None
    assert shown_host("(www.example.com)") == "www.example.com"
