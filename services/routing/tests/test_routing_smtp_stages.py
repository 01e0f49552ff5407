"""Every row of the outcome table, one scripted reply at a time."""

import asyncio
import random
import socket
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from routing.domain import AttemptResult
from routing.providers import smtp
from routing.providers.smtp import SmtpPool, SmtpSettings, parse_smtp_url

ACCEPTED, REFUSED, LATER = AttemptResult.ACCEPTED, AttemptResult.REFUSED, AttemptResult.LATER
UNREACHED, DOUBT = AttemptResult.UNREACHED, AttemptResult.DOUBT
CONTENT = b"Subject: x\r\n\r\nhello\r\n"
LARGE = CONTENT + b"line of large content\r\n" * 600_000

CLOSE = object()
SILENCE = object()


@dataclass(frozen=True)
class Delayed:
    seconds: float
    reply: bytes


DEFAULTS = {
    "greeting": b"220 fake\r\n",
    "EHLO": b"250-fake\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
    "MAIL": b"250 2.1.0 ok\r\n",
    "RCPT": b"250 2.1.5 ok\r\n",
    "DATA": b"354 go\r\n",
    "dot": b"250 2.0.0 taken\r\n",
    "RSET": b"250 ok\r\n",
    "QUIT": b"221 bye\r\n",
    "STARTTLS": b"220 go\r\n",
    "AUTH": b"235 in\r\n",
}
STEPWISE = {"EHLO": b"250-fake\r\n250 8BITMIME\r\n"}


class ScriptedServer:
    """One script a connection (the last one for all others): stage -> reply, CLOSE, SILENCE, Delayed, or a list of them."""

    def __init__(self, *scripts):
        self._scripts = [{stage: _queue(reply) for stage, reply in script.items()} for script in scripts] or [{}]
        self.commands = []
        self.contents = []
        self.connections = 0
        self._writers = []

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for writer in self._writers:
            writer.close()
        await asyncio.sleep(0)
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        self._writers.append(writer)
        try:
            await self._converse(script, reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _converse(self, script, reader, writer):
        alive = await _answer(script, "greeting", writer)
        while alive and (line := await reader.readline()):
            verb = line.split()[0].decode().upper()
            self.commands.append(line.decode().strip())
            alive = reply = await _answer(script, verb, writer)
            if verb == "DATA" and isinstance(reply, bytes) and reply.startswith(b"354"):
                content = b""
                while (part := await reader.readline()) != b".\r\n":
                    if not part:
                        return
                    content += part
                self.contents.append(content)
                alive = await _answer(script, "dot", writer)
            if verb == "QUIT":
                return


def _queue(reply):
    return list(reply) if isinstance(reply, list) else [reply]


async def _answer(script, stage, writer):
    """Say what the script has for a stage; False when it says to close."""
    queue = script.get(stage, [DEFAULTS[stage]])
    reply = queue.pop(0) if len(queue) > 1 else queue[0]
    if reply is CLOSE:
        return False
    if isinstance(reply, Delayed):
        await asyncio.sleep(reply.seconds)
        reply = reply.reply
    if reply is not SILENCE:
        writer.write(reply)
        await writer.drain()
    return reply


@asynccontextmanager
async def pool_to(port, **options):
    patience = {"connect_timeout_seconds": 2, "command_timeout_seconds": 2, "final_reply_timeout_seconds": 2} | options
    pool = SmtpPool(SmtpSettings("127.0.0.1", port, **patience))
    try:
        yield pool
    finally:
        await pool.close(0.2)


async def send(pool, content=CONTENT, deadline=None):
    lease = (lambda: deadline) if isinstance(deadline, float) else deadline
    return await pool.send(mail_from="a@example.org", rcpt_to="b@example.net", content=content, deadline=lease)


def renewed_lease():
    """A lease of 0.3 s that is renewed once, in time."""
    begun = time.monotonic()
    return lambda: begun + (0.3 if time.monotonic() < begun + 0.2 else 2.0)


async def outcome_of(*scripts, **options):
    async with ScriptedServer(*scripts) as server, pool_to(server.port, **options) as pool:
        outcome = await send(pool)
        return outcome, server


@pytest.mark.parametrize("extensions", [{}, STEPWISE], ids=["pipelined", "stepwise"])
@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA", "dot"])
@pytest.mark.parametrize(
    ("reply", "result"),
    [
        (b"450 4.2.0 no\r\n", LATER),
        (b"550 5.7.1 no\r\n", REFUSED),
        (b"421 4.3.2 bye\r\n", LATER),
        (b"554-5.0.0 a\r\n554 5.0.0 b\r\n", REFUSED),
    ],
)
async def test_a_negative_reply_decides_by_its_class_at_every_stage(extensions, stage, reply, result):
    outcome, server = await outcome_of({**extensions, stage: reply})
    named = "final dot" if stage == "dot" else stage
    assert outcome.result is result
    assert outcome.reason.startswith(f"{result} at {named}: {reply[:3].decode()}")
    assert outcome.reply.code == int(reply[:3])
    if stage == "MAIL" and not extensions:
        # 354 although MAIL was refused: nothing more was sent
        assert server.contents == []


@pytest.mark.parametrize("extensions", [{}, STEPWISE], ids=["pipelined", "stepwise"])
@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize(
    "reply", [CLOSE, SILENCE, b"garbage\r\n", b"199 no\r\n", b"334 odd\r\n", b"250-a\r\n251 b\r\n"]
)
async def test_nonsense_or_loss_before_the_dot_is_unreached(extensions, stage, reply):
    if stage == "DATA" and reply == b"334 odd\r\n":
        pytest.skip("any 3xx to DATA asks for content")
    outcome, server = await outcome_of({**extensions, stage: reply}, command_timeout_seconds=0.2)
    assert outcome.result is UNREACHED
    assert server.contents == []


@pytest.mark.parametrize("reply", [CLOSE, SILENCE, b"garbage\r\n", b"354 odd\r\n", b"250-unfinished\r\n"])
async def test_nonsense_or_loss_after_the_dot_is_in_doubt(reply):
    outcome, server = await outcome_of({"dot": reply}, final_reply_timeout_seconds=0.2)
    assert outcome.result is DOUBT
    assert server.contents == [CONTENT]
    assert server.connections == 1


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"greeting": b"554 no\r\n"}, "refused at greeting: 554"),
        ({"greeting": b"421 4.3.2 busy\r\n"}, "refused at greeting: 421 4.3.2"),
        ({"greeting": CLOSE}, "connection lost at greeting"),
        ({"greeting": b"HTTP/1.1 200\r\n"}, "reply not understood at greeting"),
        ({"greeting": SILENCE}, "connecting took too long"),
        ({"EHLO": b"502 what\r\n"}, "refused at EHLO: 502"),
        ({"EHLO": CLOSE}, "connection lost at EHLO"),
        ({"EHLO": b"250 fake\r\n250 too much\r\n"}, "unexpected reply while opening"),
    ],
)
async def test_what_fails_while_opening_is_unreached(script, reason):
    async with ScriptedServer(script) as server, pool_to(server.port, connect_timeout_seconds=0.3) as pool:
        outcome = await send(pool)
        assert (outcome.result, outcome.reason) == (UNREACHED, reason)
        health = pool.health()
        assert (health.connections_open, health.failures, health.last_error) == (0, 1, reason)


async def test_a_refused_connection_and_an_unknown_host_are_unreached():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with pool_to(unused.getsockname()[1]) as pool:
            outcome = await send(pool)
    assert (outcome.result, outcome.reason) == (UNREACHED, "connect failed: ECONNREFUSED")
    pool = SmtpPool(SmtpSettings("no-such-host.invalid", 25, connect_timeout_seconds=5))
    outcome = await send(pool)
    assert (outcome.result, outcome.reason) == (UNREACHED, "host name not resolved")
    await pool.close()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ({"EHLO": b"250-fake\r\n250 AUTH PLAIN\r\n", "AUTH": b"535 5.7.8 no\r\n"}, "refused at AUTH PLAIN: 535 5.7.8"),
        ({"EHLO": b"250-fake\r\n250 AUTH=LOGIN\r\n", "AUTH": b"454 4.7.0 no\r\n"}, "refused at AUTH LOGIN: 454 4.7.0"),
        ({"EHLO": b"250-fake\r\n250 AUTH GSSAPI\r\n"}, "AUTH PLAIN and LOGIN not offered"),
        ({}, "AUTH PLAIN and LOGIN not offered"),
    ],
)
async def test_refused_credentials_are_unreached(script, reason):
    outcome, _ = await outcome_of(script, username="user", password="pass")
    assert (outcome.result, outcome.reason) == (UNREACHED, reason)


async def test_a_server_without_starttls_gets_nothing_in_clear():
    async with ScriptedServer({}) as server:
        pool = SmtpPool(parse_smtp_url(f"smtp+starttls://user:pass@127.0.0.1:{server.port}"))
        outcome = await send(pool)
        await pool.close()
    assert (outcome.result, outcome.reason) == (UNREACHED, "STARTTLS not offered")
    assert [command.split()[0] for command in server.commands] == ["EHLO"]


async def test_text_injected_behind_the_starttls_reply_is_noticed():
    script = {"EHLO": b"250-fake\r\n250 STARTTLS\r\n", "STARTTLS": b"220 go\r\n250 injected\r\n"}
    async with ScriptedServer(script) as server:
        pool = SmtpPool(parse_smtp_url(f"smtp+starttls://127.0.0.1:{server.port}"))
        outcome = await send(pool)
        await pool.close()
    assert (outcome.result, outcome.reason) == (UNREACHED, "text injected before TLS")


async def test_a_refused_recipient_with_354_ends_the_connection_unsent():
    outcome, server = await outcome_of({"RCPT": b"550 5.1.1 no\r\n"})
    assert (outcome.result, outcome.reason) == (REFUSED, "refused at RCPT: 550 5.1.1")
    assert server.contents == []


async def test_a_refusal_already_heard_stands_when_the_connection_goes():
    for last in (CLOSE, b"421 4.7.0 too many errors\r\n", b"garbage\r\n"):
        outcome, _ = await outcome_of({"RCPT": b"550 5.1.1 no\r\n", "DATA": last})
        assert (outcome.result, outcome.reason) == (REFUSED, "refused at RCPT: 550 5.1.1")


async def test_after_a_refusal_the_kept_connection_is_reset_first():
    script = {"RCPT": [b"550 5.1.1 no\r\n", DEFAULTS["RCPT"]], "DATA": [b"503 no\r\n", DEFAULTS["DATA"]]}
    async with ScriptedServer(script) as server, pool_to(server.port) as pool:
        assert (await send(pool)).result is REFUSED
        assert (await send(pool)).result is ACCEPTED
        assert (await send(pool)).result is ACCEPTED
    assert server.connections == 1
    verbs = [command.split()[0] for command in server.commands]
    assert verbs == ["EHLO", "MAIL", "RCPT", "DATA", "RSET", "MAIL", "RCPT", "DATA", "MAIL", "RCPT", "DATA", "QUIT"]


@pytest.mark.parametrize("dead", [CLOSE, b"421 4.4.2 idle too long\r\n"])
@pytest.mark.parametrize("extensions", [{}, STEPWISE], ids=["pipelined", "stepwise"])
async def test_a_kept_connection_found_dead_is_replaced_once(dead, extensions):
    dying = {**extensions, "MAIL": [DEFAULTS["MAIL"], dead]}
    async with ScriptedServer(dying, {}) as server, pool_to(server.port) as pool:
        assert (await send(pool)).result is ACCEPTED
        assert (await send(pool)).result is ACCEPTED
        assert server.connections == 2
    assert len(server.contents) == 2


async def test_a_kept_connection_found_dead_is_not_replaced_twice():
    dying, dead = {"MAIL": [DEFAULTS["MAIL"], CLOSE]}, {"MAIL": CLOSE}
    async with ScriptedServer(dying, dead) as server, pool_to(server.port) as pool:
        assert (await send(pool)).result is ACCEPTED
        assert (await send(pool)).result is UNREACHED
        assert server.connections == 2


async def test_the_retry_on_a_fresh_connection_keeps_to_the_deadline():
    dying = {"MAIL": [DEFAULTS["MAIL"], Delayed(0.3, b"421 4.4.2 idle\r\n")]}
    async with ScriptedServer(dying, {}) as server, pool_to(server.port) as pool:
        assert (await send(pool)).result is ACCEPTED
        outcome = await send(pool, deadline=time.monotonic() + 0.2)
        assert (outcome.result, outcome.reason) == (UNREACHED, "lease deadline passed")
        assert server.connections == 1


async def test_a_connection_that_dies_after_its_first_answer_is_not_replaced():
    dying = {"RCPT": [DEFAULTS["RCPT"], CLOSE]}
    async with ScriptedServer(dying, {}) as server, pool_to(server.port) as pool:
        assert (await send(pool)).result is ACCEPTED
        assert (await send(pool)).result is UNREACHED
        assert server.connections == 1


async def test_a_deadline_that_passes_before_354_keeps_the_content_back():
    async with ScriptedServer({"DATA": Delayed(0.3, b"354 go\r\n")}) as server, pool_to(server.port) as pool:
        outcome = await send(pool, deadline=time.monotonic() + 0.15)
        assert (outcome.result, outcome.reason) == (UNREACHED, "lease deadline passed")
        await asyncio.sleep(0.05)
        assert server.contents == []


@pytest.mark.parametrize("stage", ["greeting", "EHLO", "RCPT", "DATA"])
async def test_a_slow_server_has_its_time_while_the_lease_is_renewed(stage):
    async with ScriptedServer({stage: Delayed(0.5, DEFAULTS[stage])}) as server, pool_to(server.port) as pool:
        assert (await send(pool, deadline=renewed_lease())).result is ACCEPTED
        assert len(server.contents) == 1


async def test_who_waits_for_a_connection_waits_on_while_the_lease_is_renewed():
    script = {"EHLO": STEPWISE["EHLO"], "dot": [Delayed(0.5, DEFAULTS["dot"]), DEFAULTS["dot"]]}
    async with ScriptedServer(script) as server, pool_to(server.port, connections=1) as pool:
        outcomes = await asyncio.gather(*sent_at_once(pool, *numbered(2), deadlines=[None, renewed_lease()]))
    assert [outcome.result for outcome in outcomes] == [ACCEPTED] * 2


async def test_a_connection_is_not_waited_for_after_the_lease():
    async with ScriptedServer({"greeting": SILENCE}) as server, pool_to(server.port) as pool:
        started = time.monotonic()
        outcome = await send(pool, deadline=started + 0.2)
        assert (outcome.result, outcome.reason) == (UNREACHED, "connecting took too long")
        assert time.monotonic() - started < 1


async def test_a_server_that_says_no_in_the_middle_of_large_content_is_believed():
    class Impatient(ScriptedServer):
        async def _converse(self, script, reader, writer):
            writer.write(DEFAULTS["greeting"])
            await reader.readline()
            writer.write(DEFAULTS["EHLO"])
            for _ in range(3):
                await reader.readline()
            writer.write(DEFAULTS["MAIL"] + DEFAULTS["RCPT"] + DEFAULTS["DATA"])
            await reader.readline()
            writer.write(b"552 5.3.4 too much\r\n")
            await writer.drain()
            await asyncio.sleep(0.3)

    async with Impatient() as server, pool_to(server.port) as pool:
        outcome = await send(pool, LARGE)
    assert (outcome.result, outcome.reason) == (REFUSED, "refused at content: 552 5.3.4")


@pytest.mark.parametrize("stage", ["greeting", "EHLO", "MAIL"])
async def test_a_pool_closed_while_a_send_waits_lets_it_go_unreached(stage):
    async with ScriptedServer({**STEPWISE, stage: SILENCE}) as server, pool_to(server.port) as pool:
        sending = asyncio.ensure_future(send(pool))
        await asyncio.sleep(0.05)
        await pool.close(0.05)
        outcome = await sending
    assert outcome.result is UNREACHED
    assert outcome.reason == f"cut off at {stage}"


async def test_a_pool_closed_before_the_connection_stands_lets_it_go_unreached():
    async with ScriptedServer({}) as server, pool_to(server.port) as pool:
        sending = asyncio.ensure_future(send(pool))
        await asyncio.sleep(0)
        await pool.close(0)
        assert (await sending).result is UNREACHED
        await asyncio.sleep(0.05)
    assert server.contents == []


async def test_an_unasked_reply_on_an_idle_connection_ends_it():
    async with ScriptedServer({"dot": b"250 2.0.0 ok\r\n250 2.0.0 again\r\n"}) as server, pool_to(server.port) as pool:
        assert (await send(pool)).result is ACCEPTED
        await asyncio.sleep(0.05)
        assert pool.health().connections_open == 0
        assert (await send(pool)).result is ACCEPTED
    assert server.connections == 2


async def test_replies_that_come_byte_by_byte_are_read_whole():
    class Dripping(ScriptedServer):
        async def _serve(self, reader, writer):
            whole = writer.write

            def drip(data):
                for octet in data:
                    whole(bytes([octet]))

            writer.write = drip
            writer.transport.set_write_buffer_limits(0)
            await super()._serve(reader, writer)

    async with Dripping({}) as server, pool_to(server.port) as pool:
        assert (await send(pool)).result is ACCEPTED


# -- the next mail's envelope behind the final dot ------------------------------------------------------------------


class Observing(ScriptedServer):
    """Answers a final dot only after it has looked at what came with it: the verbs that stand in the same packet."""

    def __init__(self, *scripts):
        super().__init__(*scripts)
        self.behind_dots = []

    async def _converse(self, script, reader, writer):
        readline = reader.readline

        async def looking():
            line = await readline()
            if line == b".\r\n":
                waiting = bytes(reader._buffer)
                self.behind_dots.append([part.split()[0].decode().upper() for part in waiting.splitlines()])
            return line

        reader.readline = looking
        await super()._converse(script, reader, writer)


def sent_at_once(pool, *contents, deadlines=()):
    """Send while one connection is there for all; the first has it."""
    return [
        asyncio.ensure_future(send(pool, content, deadline))
        for content, deadline in zip(contents, deadlines or [None] * len(contents), strict=True)
    ]


def numbered(count):
    return [CONTENT + b"%d\r\n" % number for number in range(count)]


async def test_the_envelope_of_a_mail_that_waits_comes_with_the_final_dot_before_it():
    async with Observing({}) as server, pool_to(server.port, connections=1) as pool:
        outcomes = await asyncio.gather(*sent_at_once(pool, *numbered(3)))
        assert [outcome.result for outcome in outcomes] == [ACCEPTED] * 3
        assert pool.health().connections_idle == 1
    assert server.behind_dots == [["MAIL", "RCPT", "DATA"], ["MAIL", "RCPT", "DATA"], []]
    assert server.contents == numbered(3)


async def test_a_server_that_does_not_take_commands_in_groups_gets_none():
    async with Observing(STEPWISE) as server, pool_to(server.port, connections=1) as pool:
        outcomes = await asyncio.gather(*sent_at_once(pool, *numbered(3)))
        assert [outcome.result for outcome in outcomes] == [ACCEPTED] * 3
    assert server.behind_dots == [[], [], []]


@pytest.mark.parametrize(
    ("last", "result"),
    [(CLOSE, DOUBT), (b"421 4.3.2 bye\r\n", LATER), (b"garbage\r\n", DOUBT), (b"354 odd\r\n", DOUBT)],
)
async def test_a_mail_begun_behind_one_whose_connection_ends_goes_over_another_once(last, result):
    async with ScriptedServer({"dot": last}, {}) as server, pool_to(server.port, connections=1) as pool:
        first, second = await asyncio.gather(*sent_at_once(pool, *numbered(2)))
        assert (first.result, second.result) == (result, ACCEPTED)
        assert (pool.health().connections_open, pool.health().connections_idle) == (1, 1)
    assert (server.connections, server.contents) == (2, numbered(2))


async def test_no_two_mails_of_a_connection_are_beyond_their_final_dots_at_once():
    class Quick(ScriptedServer):
        """Says of the next mail all that it can in one packet with its answer to the final dot."""

        async def _converse(self, script, reader, writer):
            writer.write(DEFAULTS["greeting"])
            await reader.readline()
            writer.write(DEFAULTS["EHLO"])
            envelope = DEFAULTS["MAIL"] + DEFAULTS["RCPT"] + DEFAULTS["DATA"]
            await reader.readuntil(b"DATA\r\n")
            writer.write(envelope)
            for left in reversed(range(3)):
                await reader.readuntil(b"\r\n.\r\n")
                if left:
                    await reader.readuntil(b"DATA\r\n")
                writer.write(DEFAULTS["dot"] + (envelope if left else b""))
            await reader.read()

    beyond, most = set(), 0

    async def send_one(number):
        nonlocal most

        def note():
            nonlocal most
            beyond.add(number)
            most = max(most, len(beyond))

        outcome = await pool.send(
            mail_from="a@example.org", rcpt_to="b@example.net", content=CONTENT, deadline=None, at_final_dot=note
        )
        beyond.remove(number)
        return outcome.result

    async with Quick() as server, pool_to(server.port, connections=1) as pool:
        assert await asyncio.gather(*map(send_one, range(3))) == [ACCEPTED] * 3
    assert most == 1


@pytest.mark.parametrize(("reply", "result"), [(b"452 4.3.1 full\r\n", LATER), (b"554 5.7.1 spam\r\n", REFUSED)])
async def test_a_mail_refused_at_its_final_dot_does_not_hinder_the_one_behind(reply, result):
    script = {"dot": [reply, DEFAULTS["dot"]]}
    async with ScriptedServer(script) as server, pool_to(server.port, connections=1) as pool:
        first, second = await asyncio.gather(*sent_at_once(pool, *numbered(2)))
    assert (first.result, second.result, server.connections) == (result, ACCEPTED, 1)


async def test_a_mail_refused_at_its_envelope_leaves_those_around_it_accepted():
    script = {
        "RCPT": [DEFAULTS["RCPT"], b"550 5.1.1 no\r\n", DEFAULTS["RCPT"]],
        "DATA": [DEFAULTS["DATA"], b"503 no\r\n", DEFAULTS["DATA"]],
    }
    async with ScriptedServer(script) as server, pool_to(server.port, connections=1) as pool:
        outcomes = await asyncio.gather(*sent_at_once(pool, *numbered(3)))
    assert [outcome.result for outcome in outcomes] == [ACCEPTED, REFUSED, ACCEPTED]
    assert (server.connections, server.contents) == (1, [numbered(3)[0], numbered(3)[2]])


SEQUENCE = b"503 bad sequence of commands\r\n"
OFFENCES = {
    "503 to each command, as Haraka answers": {
        "MAIL": [DEFAULTS["MAIL"], SEQUENCE, DEFAULTS["MAIL"]],
        "RCPT": [DEFAULTS["RCPT"], SEQUENCE, DEFAULTS["RCPT"]],
        "DATA": [DEFAULTS["DATA"], SEQUENCE, DEFAULTS["DATA"]],
    },
    "503 to DATA, as Postfix answers": {"DATA": [DEFAULTS["DATA"], SEQUENCE, DEFAULTS["DATA"]]},
    "any refusal of MAIL, content taken": {
        "MAIL": [DEFAULTS["MAIL"], b"554 5.5.0 synchronisation\r\n", DEFAULTS["MAIL"]]
    },
}


@pytest.mark.parametrize("script", OFFENCES.values(), ids=OFFENCES.keys())
async def test_a_mail_refused_for_where_it_stands_is_carried_again_and_none_stands_there_for_a_while(script):
    async with Observing(script, {}) as server, pool_to(server.port, connections=1) as pool:
        outcomes = await asyncio.gather(*sent_at_once(pool, *numbered(6)))
        assert [outcome.result for outcome in outcomes] == [ACCEPTED] * 6
        assert pool.health().connections_open == pool.health().connections_idle == 1
    assert server.behind_dots == [["MAIL", "RCPT", "DATA"], [], [], [], [], []]
    assert sorted(server.contents) == numbered(6)


async def test_a_mail_that_finds_no_answer_where_it_stands_is_carried_again_over_another_connection():
    silent = {
        "MAIL": [DEFAULTS["MAIL"], SILENCE],
        "RCPT": [DEFAULTS["RCPT"], SILENCE],
        "DATA": [DEFAULTS["DATA"], SILENCE],
    }
    async with (
        Observing(silent, {}) as server,
        pool_to(server.port, connections=1, command_timeout_seconds=0.2) as pool,
    ):
        outcomes = await asyncio.gather(*sent_at_once(pool, *numbered(4)))
        assert [outcome.result for outcome in outcomes] == [ACCEPTED] * 4
    assert server.behind_dots == [["MAIL", "RCPT", "DATA"], [], [], []]
    assert sorted(server.contents) == numbered(4)


async def test_a_sender_refused_behind_another_mail_is_refused_alone_too(monkeypatch):
    monkeypatch.setattr(smtp, "ALONE_SECONDS", 0.0)
    no = b"550 5.1.0 not yours\r\n"
    script = {"MAIL": [DEFAULTS["MAIL"], no, DEFAULTS["MAIL"], no, DEFAULTS["MAIL"]]}
    async with Observing(script) as server, pool_to(server.port, connections=1) as pool:
        sends = sent_at_once(pool, *numbered(3))
        outcomes = await asyncio.gather(*sends)
        assert [outcome.result for outcome in outcomes] == [ACCEPTED, REFUSED, ACCEPTED]
        assert outcomes[1].reason == "refused at MAIL: 550 5.1.0"
        more = await asyncio.gather(*sent_at_once(pool, *numbered(2)))
        assert [outcome.result for outcome in more] == [ACCEPTED] * 2
    assert server.behind_dots[-2:] == [["MAIL", "RCPT", "DATA"], []], "after a while mails stand there again"


async def test_one_reply_too_many_is_never_taken_for_an_acceptance():
    script = {"dot": [b"250 2.0.0 ok\r\n250 2.0.0 again\r\n", DEFAULTS["dot"]]}
    async with ScriptedServer(script, {}) as server, pool_to(server.port, connections=1) as pool:
        first, second = await asyncio.gather(*sent_at_once(pool, *numbered(2)))
    assert (first.result, second.result) == (ACCEPTED, UNREACHED)
    assert server.contents == numbered(1)


async def test_a_lease_that_ends_behind_another_mail_keeps_the_content_back():
    script = {"dot": [Delayed(0.3, DEFAULTS["dot"]), DEFAULTS["dot"]]}
    async with ScriptedServer(script) as server, pool_to(server.port, connections=1) as pool:
        sends = sent_at_once(pool, *numbered(2), deadlines=[None, time.monotonic() + 0.15])
        first, second = await asyncio.gather(*sends)
    assert (first.result, second.result, second.reason) == (ACCEPTED, UNREACHED, "lease deadline passed")
    assert server.contents == numbered(1)


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_a_sender_that_leaves_takes_only_its_own_mail_along(cancelled):
    script = {"dot": [Delayed(0.2, DEFAULTS["dot"]), DEFAULTS["dot"]]}
    async with ScriptedServer(script, {}) as server, pool_to(server.port, connections=1) as pool:
        sends = sent_at_once(pool, *numbered(3))
        while not server.contents:
            await asyncio.sleep(0.01)
        sends[cancelled].cancel()
        outcomes = await asyncio.gather(*sends, return_exceptions=True)
        assert isinstance(outcomes.pop(cancelled), asyncio.CancelledError)
        assert [outcome.result for outcome in outcomes] == [ACCEPTED, ACCEPTED]
        assert (pool.health().connections_open, pool.health().connections_idle) == (1, 1)
    assert server.contents.count(numbered(3)[1]) == 1 - cancelled


async def test_a_mail_that_the_connection_cannot_carry_is_not_begun_on_it():
    script = {"EHLO": b"250-fake\r\n250 PIPELINING\r\n"}
    contents = [CONTENT, CONTENT + "ä\r\n".encode(), CONTENT]
    async with Observing(script) as server, pool_to(server.port, connections=1) as pool:
        outcomes = await asyncio.gather(*sent_at_once(pool, *contents))
    assert [outcome.result for outcome in outcomes] == [ACCEPTED, REFUSED, ACCEPTED]
    assert server.contents == [CONTENT, CONTENT]


@pytest.mark.parametrize("seed", range(5))
async def test_senders_that_leave_at_random_leave_no_connection_behind(seed):
    chance = random.Random(seed)
    at_the_end = {"dot": [Delayed(chance.choice([0, 0, 0.002]), DEFAULTS["dot"]) for _ in range(900)]}
    async with ScriptedServer(at_the_end) as server, pool_to(server.port, connections=3) as pool:

        async def leave(task):
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)
            await asyncio.sleep(chance.choice([0, chance.uniform(0, 0.1)]))
            task.cancel()

        sends = [asyncio.ensure_future(send(pool, CONTENT + b"%d\r\n" % number)) for number in range(600)]
        leaving = [asyncio.ensure_future(leave(task)) for task in chance.sample(sends, 200)]
        outcomes = await asyncio.gather(*sends, return_exceptions=True)
        await asyncio.gather(*leaving)
        accepted = [number for number, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException)]
        assert all(outcomes[number].result is ACCEPTED for number in accepted)
        again = await asyncio.gather(*(send(pool) for _ in range(20)))
        assert {outcome.result for outcome in again} == {ACCEPTED}
        assert pool.health().connections_open == pool.health().connections_idle <= 3
    assert max(server.contents.count(CONTENT + b"%d\r\n" % number) for number in range(600)) == 1
    assert all(CONTENT + b"%d\r\n" % number in server.contents for number in accepted)
