import base64
import ssl
from contextlib import asynccontextmanager

import pytest
import trustme

from routing.domain import AttemptResult
from routing.providers.smtp import SmtpPool, parse_smtp_url
from waystation.laboratory import Laboratory, LaboratorySettings

CONTENT = b"Subject: x\r\n\r\nhello\r\n"
USERS = {"routing": "s3cret ü"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    certificate_authority = trustme.CA()
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    certificate_authority.cert_pem.write_to_path(path)
    return certificate_authority, path


def server_context(authority, name="127.0.0.1"):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority[0].issue_cert(name).configure_cert(context)
    return context


@asynccontextmanager
async def pool_to(url):
    pool = SmtpPool(parse_smtp_url(url))
    try:
        yield pool
    finally:
        await pool.close()


async def send(pool, content=CONTENT):
    return await pool.send(mail_from="a@example.org", rcpt_to="b@example.net", content=content, deadline=None)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("scheme", ["smtps", "smtp+starttls", "smtp"])
async def test_mail_passes_after_authentication_over_each_kind_of_connection(authority, scheme, mechanism):
    offered = LaboratorySettings(
        tls=None if scheme == "smtp" else server_context(authority),
        starttls=scheme == "smtp+starttls",
        users=USERS,
        auth_mechanisms=(mechanism,),
    )
    async with Laboratory(offered) as laboratory:
        url = f"{scheme}://routing:s3cret%20%C3%BC@127.0.0.1:{laboratory.port}?ca_file={authority[1]}"
        async with pool_to(url) as pool:
            large = CONTENT + b"line\r\n" * 100_000
            outcomes = [await send(pool), await send(pool, large), await send(pool)]
        assert [outcome.result for outcome in outcomes] == [AttemptResult.ACCEPTED] * 3
        assert [mail.content for mail in laboratory.mails] == [CONTENT, large, CONTENT]
        assert laboratory.connections_seen == 1


@pytest.mark.parametrize("scheme", ["smtps", "smtp+starttls"])
async def test_a_cut_after_the_dot_is_in_doubt_over_tls_too(authority, scheme):
    offered = LaboratorySettings(tls=server_context(authority), starttls=scheme == "smtp+starttls")
    async with (
        Laboratory(offered) as laboratory,
        pool_to(f"{scheme}://127.0.0.1:{laboratory.port}?ca_file={authority[1]}") as pool,
    ):
        laboratory.faults["b@example.net"] = "cut"
        assert (await send(pool)).result is AttemptResult.DOUBT
        laboratory.faults["b@example.net"] = "cut-data"
        assert (await send(pool)).result is AttemptResult.UNREACHED


@pytest.mark.parametrize("scheme", ["smtps", "smtp+starttls"])
async def test_a_certificate_nobody_vouches_for_or_of_another_host_reaches_no_mail(authority, scheme):
    for issuer, name in (((trustme.CA(), None), "127.0.0.1"), (authority, "other.example.org")):
        offered = LaboratorySettings(tls=server_context(issuer, name), starttls=scheme == "smtp+starttls", users=USERS)
        async with Laboratory(offered) as laboratory:
            async with pool_to(f"{scheme}://routing:x@127.0.0.1:{laboratory.port}?ca_file={authority[1]}") as pool:
                outcome = await send(pool)
            assert (outcome.result, outcome.reason) == (AttemptResult.UNREACHED, "TLS failure: certificate not trusted")
            assert laboratory.mails == []


async def test_tls_towards_a_server_that_speaks_none_is_unreached():
    async with Laboratory() as laboratory, pool_to(f"smtps://127.0.0.1:{laboratory.port}") as pool:
        outcome = await send(pool)
    assert outcome.result is AttemptResult.UNREACHED
    assert outcome.reason.startswith("TLS failure")


async def test_a_wrong_password_is_unreached_and_shown_nowhere(authority):
    offered = LaboratorySettings(tls=server_context(authority), users=USERS)
    async with (
        Laboratory(offered) as laboratory,
        pool_to(f"smtps://routing:hunter2@127.0.0.1:{laboratory.port}?ca_file={authority[1]}") as pool,
    ):
        outcome = await send(pool)
        assert (outcome.result, outcome.reason) == (AttemptResult.UNREACHED, "refused at AUTH PLAIN: 535 5.7.8")
        assert "hunter2" not in f"{outcome} {pool.health()}"
        assert base64.b64encode(b"\0routing\0hunter2").decode() not in f"{outcome} {pool.health()}"


def test_a_ca_file_that_is_missing_is_noticed_when_the_pool_is_built():
    with pytest.raises(OSError):
        SmtpPool(parse_smtp_url("smtps://127.0.0.1?ca_file=/no/such/ca.pem"))
