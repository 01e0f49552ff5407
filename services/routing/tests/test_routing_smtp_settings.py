import pytest

from routing.providers.smtp import Security, parse_smtp_url


def test_a_plain_url_takes_the_port_of_its_scheme():
    settings = parse_smtp_url("smtp://relay.example.org")
    assert (settings.host, settings.port, settings.security) == ("relay.example.org", 25, Security.PLAIN)
    assert settings.final_reply_timeout_seconds == 600
    assert parse_smtp_url("smtps://relay.example.org").port == 465
    assert parse_smtp_url("smtp+starttls://relay.example.org").port == 587


def test_credentials_are_percent_decoded_and_kept_out_of_the_repr():
    settings = parse_smtp_url("smtp+starttls://me%40here:p%3Ass@relay.example.org:2587")
    assert (settings.username, settings.password, settings.port) == ("me@here", "p:ss", 2587)
    assert "p:ss" not in repr(settings)


def test_options_set_the_other_fields():
    settings = parse_smtp_url("smtp://127.0.0.1:2525?connections=4&idle_seconds=1.5&helo_name=mail.example.org")
    assert (settings.connections, settings.idle_seconds, settings.helo_name) == (4, 1.5, "mail.example.org")


def test_an_ipv6_host_is_understood():
    assert parse_smtp_url("smtp://[::1]:2525").host == "::1"


@pytest.mark.parametrize(
    "url",
    [
        "http://relay.example.org",
        "smtp://",
        "smtp://relay.example.org/path",
        "smtps://user@relay.example.org",
        "smtp://user:hunter2@relay.example.org",
        "smtps://user:hunter2:x@relay.example.org:port",
        "smtp://127.0.0.1?connections=0",
        "smtp://127.0.0.1?connections=many",
        "smtp://127.0.0.1?verify=no",
        "smtp://127.0.0.1?helo_name=a%0d%0aMAIL",
    ],
)
def test_a_url_that_cannot_be_meant_is_rejected_without_repeating_it(url):
    with pytest.raises(ValueError, match="SMTP URL") as caught:
        parse_smtp_url(url)
    assert "hunter2" not in str(caught.value)


def test_a_password_in_clear_is_taken_on_loopback_only():
    assert parse_smtp_url("smtp://user:pass@127.0.0.1").username == "user"
    assert parse_smtp_url("smtp://user:pass@localhost").username == "user"
