"""Scanners beside screening: what they say is believed, what they do not say in time is left out and named."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx
import pytest

from moderation.attachments import EICAR
from moderation.opinions import FAILURES_MAX, REST_SECONDS, Breaker, Clamd, OpinionError, Opinions, Rspamd

CLAMD, RSPAMD = shutil.which("clamd") or shutil.which("/usr/sbin/clamd"), shutil.which("rspamd")
START_SECONDS = 20.0


class Message(NamedTuple):
    """A message as scanners are given it."""

    content: bytes = b"Subject: x\r\n\r\nhello\r\n"
    files: tuple[bytes, ...] = ()
    is_mail: bool = True


class FakeClamd:
    """Speaks clamd's session protocol; `say` makes an answer of number and content, None hangs."""

    def __init__(self, say):
        self.say, self.connections = say, 0

    async def __call__(self, reader, writer):
        self.connections += 1
        try:
            await self._answer(reader, writer)
        finally:
            writer.close()

    async def _answer(self, reader, writer):
        assert await reader.readuntil(b"\x00") == b"zIDSESSION\x00"
        number = 0
        while (command := await reader.readuntil(b"\x00")) == b"zINSTREAM\x00":
            number, content = number + 1, b""
            while size := int.from_bytes(await reader.readexactly(4), "big"):
                content += await reader.readexactly(size)
            answer = self.say(number, content)
            if answer is None:
                await asyncio.sleep(60)
                return
            writer.write(answer)
            await writer.drain()
        assert command == b"zEND\x00"


@asynccontextmanager
async def clamd_that(say, tmp_path):
    fake, path = FakeClamd(say), tmp_path / "clamd.sock"
    server = await asyncio.start_unix_server(fake, path)
    try:
        yield fake, Clamd(path)
    finally:
        server.close()


def found_or_ok(number, content):
    told = b"Eicar-Signature FOUND" if EICAR in content else b"OK"
    return b"%d: stream: %b\x00" % (number, told)


async def test_a_batch_is_one_session_and_each_message_gets_its_own_answer(tmp_path):
    async with clamd_that(found_or_ok, tmp_path) as (fake, clamd):
        messages = [Message(files=(b"a" * 200_000, EICAR)), Message(), Message(files=(b"fine",))]
        told = await Opinions(clamd).of(messages)
    assert [one.clamd_infected for one in told] == [True, None, False]
    assert [one.degraded for one in told] == [(), (), ()]
    assert fake.connections == 1


async def test_a_file_that_is_too_large_for_clamd_is_degraded_unless_another_is_infected(tmp_path):
    def say(number, content):
        if len(content) > 1000:
            return b"%d: INSTREAM size limit exceeded. ERROR\x00" % number
        return found_or_ok(number, content)

    async with clamd_that(say, tmp_path) as (_, clamd):
        told = await Opinions(clamd).of([Message(files=(b"x" * 2000,)), Message(files=(b"x" * 2000, EICAR))])
    assert [(one.clamd_infected, one.degraded) for one in told] == [(None, ("clamd",)), (True, ())]


@pytest.mark.parametrize("later", [None, b"nonsense\x00"])
async def test_what_clamd_has_said_counts_when_the_rest_does_not_come(tmp_path, later):
    def say(number, content):
        return found_or_ok(number, content) if number < 4 else later

    files = ((EICAR,), (b"fine",), (EICAR, b"slow"), (b"slow",))
    async with clamd_that(say, tmp_path) as (_, clamd):
        told = await Opinions(clamd, seconds_max=0.5).of([Message(files=some) for some in files])
    expected = [(True, ()), (False, ()), (True, ()), (None, ("clamd",))]
    assert [(one.clamd_infected, one.degraded) for one in told] == expected


@pytest.mark.parametrize(
    "answer", [None, b"nonsense\x00", b"7: stream: OK\x00", b"1: stream: PERHAPS\x00", b"1: stream: OK" * 2000]
)
async def test_a_clamd_that_hangs_or_talks_nonsense_degrades_within_the_time(tmp_path, answer):
    async with clamd_that(lambda *_: answer, tmp_path) as (_, clamd):
        began = time.monotonic()
        (told,) = await Opinions(clamd, seconds_max=0.2).of([Message(files=(b"x",))])
        assert time.monotonic() - began < 2
    assert (told.clamd_infected, told.degraded) == (None, ("clamd",))


async def test_a_clamd_that_is_not_there_is_asked_three_times_and_then_left_alone_for_a_while(tmp_path):
    moment = [0.0]
    opinions = Opinions(Clamd(tmp_path / "nobody"), clock=lambda: moment[0])
    for _ in range(FAILURES_MAX + 2):
        (told,) = await opinions.of([Message(files=(b"x",))])
        assert told.degraded == ("clamd",)
    async with clamd_that(found_or_ok, tmp_path) as (fake, there):
        opinions.clamd = there
        assert (await opinions.of([Message(files=(b"x",))]))[0].degraded == ("clamd",)
        assert fake.connections == 0
        moment[0] = REST_SECONDS
        assert (await opinions.of([Message(files=(b"x",))]))[0].clamd_infected is False
        assert fake.connections == 1


def test_an_open_breaker_lets_one_try_and_opens_again():
    moment = [0.0]
    breaker = Breaker("it", lambda: moment[0])
    for _ in range(FAILURES_MAX):
        assert breaker.closed
        breaker.failed(OSError())
    assert not breaker.closed
    moment[0] = REST_SECONDS
    assert breaker.closed
    breaker.failed(OSError())
    assert not breaker.closed
    moment[0] = 2 * REST_SECONDS
    breaker.succeeded()
    breaker.failed(OSError())
    assert breaker.closed


async def test_messages_without_files_do_not_open_a_connection(tmp_path):
    async with clamd_that(found_or_ok, tmp_path) as (fake, clamd):
        await Opinions(clamd).of([Message()])
    assert fake.connections == 0


def rspamd_that(answer):
    return Rspamd("http://rspamd", transport=httpx.MockTransport(answer))


async def test_the_score_is_over_what_rspamd_requires_and_only_mails_are_sent_to_it():
    asked = []

    def answer(request):
        asked.append((request.url.path, request.content))
        return httpx.Response(200, json={"score": 22.5, "required_score": 15.0, "symbols": {}})

    opinions = Opinions(rspamd=rspamd_that(answer))
    told = await opinions.of([Message(b"one"), Message(b"sms", is_mail=False), Message(b"two")])
    assert [one.rspamd_score for one in told] == [1.5, None, 1.5]
    assert sorted(asked) == [("/checkv2", b"one"), ("/checkv2", b"two")]
    assert all(one.degraded == () for one in told)
    await opinions.rspamd.close()


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(500), httpx.Response(200, text="<html>"), httpx.Response(200, json={"score": "high"})],
)
async def test_an_rspamd_that_answers_nonsense_degrades(answer):
    opinions = Opinions(rspamd=rspamd_that(lambda _: answer))
    (told,) = await opinions.of([Message()])
    assert (told.rspamd_score, told.degraded) == (None, ("rspamd",))
    with pytest.raises(OpinionError):
        await opinions.rspamd.score(b"x")
    await opinions.rspamd.close()


async def test_an_rspamd_that_hangs_costs_the_time_that_it_may_take_and_then_nothing():
    async def hang(_):
        await asyncio.sleep(60)

    opinions = Opinions(rspamd=rspamd_that(hang), seconds_max=0.1)
    began = time.monotonic()
    for _ in range(FAILURES_MAX + 20):
        told = await opinions.of([Message()] * 30)
        assert all(one.degraded == ("rspamd",) for one in told)
    assert time.monotonic() - began < 0.1 * FAILURES_MAX + 1.0
    await opinions.rspamd.close()


async def test_without_scanners_nothing_is_known_and_nothing_is_degraded():
    (told,) = await Opinions().of([Message(files=(EICAR,))])
    assert (told.clamd_infected, told.rspamd_score, told.degraded) == (None, None, ())


# The real ones, where they are installed


def until(ready):
    ends = time.monotonic() + START_SECONDS
    while not ready():
        assert time.monotonic() < ends, "the daemon did not start"
        time.sleep(0.1)


def connects(family, address):
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


@pytest.fixture
def real_clamd(tmp_path):
    """A clamd with a database of one signature, EICAR's, under the user that runs the tests."""
    if CLAMD is None:
        pytest.skip("there is no clamd (Debian: apt install clamav-daemon)")
    database = tmp_path / "database"
    database.mkdir()
    (database / "local.ndb").write_text(f"Test.Eicar:0:0:{EICAR.hex()}\n")
    path = tmp_path / "real.sock"
    (tmp_path / "clamd.conf").write_text(
        f"LocalSocket {path}\nDatabaseDirectory {database}\nForeground yes\nStreamMaxLength 1M\n"
        f"TemporaryDirectory {tmp_path}\nLogFile {tmp_path / 'clamd.log'}\n"
    )
    process = subprocess.Popen([CLAMD, "--config-file", tmp_path / "clamd.conf"], stdout=subprocess.DEVNULL)
    try:
        until(lambda: path.exists() and connects(socket.AF_UNIX, str(path)))
        yield Clamd(path)
    finally:
        process.terminate()
        process.wait(20)


async def test_a_real_clamd_names_eicar_and_lets_others_pass(real_clamd):
    files = (EICAR, b"a letter" * 20_000, b"x" * 999_999)
    await real_clamd.ask(files, answers := {})
    assert answers == {1: True, 2: False, 3: False}
    told = await Opinions(real_clamd, seconds_max=20).of([Message(files=(one,)) for one in files])
    assert [one.clamd_infected for one in told] == [True, False, False]


async def test_a_real_clamd_that_is_given_too_much_degrades_that_batch_and_no_other(real_clamd):
    opinions = Opinions(real_clamd, seconds_max=20)
    (told,) = await opinions.of([Message(files=(b"x" * 5_000_000,))])
    assert (told.clamd_infected, told.degraded) == (None, ("clamd",))
    assert (await opinions.of([Message(files=(EICAR,))]))[0].clamd_infected is True


@pytest.fixture
def real_rspamd(tmp_path):
    """An rspamd with its normal worker alone and one rule of our own, under the user that runs the tests."""
    if RSPAMD is None:
        pytest.skip("there is no rspamd (Debian: apt install rspamd)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "endings").write_text("com\nexample\n")  # its own list takes a minute to compile
    (tmp_path / "rspamd.conf").write_text(
        f'options {{ url_tld = "{tmp_path}/endings"; pidfile = "{tmp_path}/pid"; filters = "regexp"; dns {{ nameserver = ["127.0.0.1:53:1"]; '
        f'timeout = 0.1s; retransmits = 0; }} rrd = "/dev/null"; history_file = "{tmp_path}/history"; hs_cache_dir = "{tmp_path}"; }}\n'
        f'logging {{ type = "file"; filename = "{tmp_path}/log"; level = "info"; }}\n'
        f'worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; }}\n'
        'metric { name = "default"; actions { reject = 15; add_header = 6; } symbol "OUR_LURE" { weight = 18.0; } }\n'
        'regexp { OUR_LURE { re = "/verify your wallet/i{mime}"; score = 18.0; } }\n'
    )
    command = [RSPAMD, "-f", "-c", tmp_path / "rspamd.conf", "-i"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: process.poll() is not None or connects(socket.AF_INET, ("127.0.0.1", port)))
        if process.poll() is not None:
            pytest.skip(f"this rspamd does not start with a configuration of its own: {process.returncode}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


async def test_a_real_rspamd_scores_a_lure_higher_than_a_letter(real_rspamd):
    rspamd = Rspamd(real_rspamd)
    head = b"From: a@b.example\r\nTo: c@d.example\r\nSubject: x\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\n\r\n"
    try:
        lure, letter = [await rspamd.score(head + text) for text in (b"Verify your wallet now\r\n", b"Good day\r\n")]
    finally:
        await rspamd.close()
    assert lure > letter
    assert lure >= 1
