import asyncio
import hashlib
import random
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import uvloop

from routing.domain import AttemptResult
from routing.providers.smtp import SmtpPool, SmtpSettings
from waystation.laboratory import Laboratory, LaboratorySettings

CONTENT = b"From: a@example.org\r\nTo: b@example.net\r\nSubject: order 17\r\n\r\nhello\r\n"


def settings_for(port, **options):
    return replace(
        SmtpSettings("127.0.0.1", port, connections=2, command_timeout_seconds=5, final_reply_timeout_seconds=5),
        **options,
    )


@asynccontextmanager
async def pool_to(port, **options):
    pool = SmtpPool(settings_for(port, **options))
    try:
        yield pool
    finally:
        await pool.close()


async def send(pool, rcpt_to="b@example.net", content=CONTENT, *, mail_from="a@example.org", deadline=None, **more):
    lease = None if deadline is None else lambda: deadline
    return await pool.send(mail_from=mail_from, rcpt_to=rcpt_to, content=content, deadline=lease, **more)


@pytest.fixture
async def laboratory():
    async with Laboratory() as running:
        yield running


@pytest.fixture
async def pool(laboratory):
    async with pool_to(laboratory.port) as running:
        yield running


async def test_an_accepted_mail_arrives_byte_for_byte(laboratory, pool):
    outcome = await send(pool)
    assert outcome.result is AttemptResult.ACCEPTED
    assert outcome.reason == "accepted at final dot: 250 2.0.0"
    assert "b@example.net" in outcome.reply.text
    [mail] = laboratory.mails
    assert (mail.mail_from, mail.rcpt_to, mail.content) == ("a@example.org", "b@example.net", CONTENT)


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize(
    ("fault", "result", "reason"),
    [
        ("refuse", AttemptResult.REFUSED, "refused at RCPT: 550 5.1.1"),
        ("refuse-content", AttemptResult.REFUSED, "refused at final dot: 554 5.7.1"),
        ("later", AttemptResult.LATER, "later at final dot: 451 4.3.0"),
        ("greylist", AttemptResult.LATER, "later at RCPT: 451 4.7.1"),
        ("421", AttemptResult.LATER, "later at RCPT: 421 4.3.2"),
        ("cut-data", AttemptResult.UNREACHED, "connection lost at DATA"),
        ("cut", AttemptResult.DOUBT, "connection lost at final dot"),
        ("cut-lost", AttemptResult.DOUBT, "connection lost at final dot"),
        ("cut-early", AttemptResult.DOUBT, "connection lost at final dot"),
        ("garbage", AttemptResult.DOUBT, "reply not understood at final dot"),
    ],
)
async def test_every_fault_has_its_one_outcome_and_the_pool_goes_on(fault, result, reason, pipelining):
    async with Laboratory(LaboratorySettings(pipelining=pipelining)) as laboratory, pool_to(laboratory.port) as pool:
        for number in range(3):
            outcome = await send(pool, f"{fault}.{number}@example.net")
            assert (outcome.result, outcome.reason) == (result, reason)
        assert (await send(pool)).result is AttemptResult.ACCEPTED


async def test_reasons_never_hold_what_the_provider_echoed(laboratory, pool):
    for fault in ("refuse", "refuse-content", "later", "greylist", "421", "cut", "garbage", "nobody"):
        outcome = await send(pool, f"{fault}.canary@example.net")
        assert "canary" not in outcome.reason
        assert "order 17" not in outcome.reason
    assert "canary" not in str(pool.health())


async def test_later_is_accepted_the_next_time(laboratory, pool):
    results = [(await send(pool, "later-2+x@example.net")).result for _ in range(3)]
    assert results == [AttemptResult.LATER, AttemptResult.LATER, AttemptResult.ACCEPTED]


async def test_a_slow_final_reply_is_waited_for_and_a_too_slow_one_is_in_doubt(laboratory):
    async with pool_to(laboratory.port, final_reply_timeout_seconds=0.3, command_timeout_seconds=0.2) as pool:
        outcome = await send(pool, "slow-2@example.net")
    assert (outcome.result, outcome.reason) == (AttemptResult.DOUBT, "no reply in time at final dot")
    async with pool_to(laboratory.port, command_timeout_seconds=0.2) as pool:
        assert (await send(pool, "slow-1@example.net")).result is AttemptResult.ACCEPTED


async def test_a_tarpit_before_the_dot_is_unreached(laboratory):
    async with pool_to(laboratory.port, command_timeout_seconds=0.2) as pool:
        outcome = await send(pool, "tarpit-2@example.net")
    assert (outcome.result, outcome.reason) == (AttemptResult.UNREACHED, "no reply in time at RCPT")
    assert laboratory.mails == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no end",
        b"a\r\n\r\nbare\nlf\r\n",
        b"a\r\n\r\nbare\rcr\r\n",
        b"a\r\n.\n\r\n",
        b"a\r\n" + b"x" * 999 + b"\r\n",
    ],
)
async def test_content_that_smtp_would_change_is_refused_unsent(laboratory, pool, content):
    outcome = await send(pool, content=content)
    assert outcome.result is AttemptResult.REFUSED
    assert outcome.reason.startswith("content: ")
    assert laboratory.connections_seen == 0


@pytest.mark.parametrize(
    "address",
    [
        "",
        "nobody",
        "a b@example.net",
        "a@example.net>\r\nRCPT TO:<c@example.net",
        "<a@example.net>",
        "a@x\udc80",
        "x" * 300 + "@a.b",
    ],
)
async def test_an_address_that_could_carry_commands_is_refused_unsent(laboratory, pool, address):
    outcome = await send(pool, address)
    assert (outcome.result, laboratory.connections_seen) == (AttemptResult.REFUSED, 0)
    assert address not in outcome.reason or not address


async def test_quoted_local_parts_and_the_null_sender_are_carried(laboratory, pool):
    assert (await send(pool, '"a b"@example.net', mail_from="")).result is AttemptResult.ACCEPTED
    assert (laboratory.mails[0].mail_from, laboratory.mails[0].rcpt_to) == ("", '"a b"@example.net')


@pytest.mark.parametrize(
    ("offered", "rcpt_to", "content", "why"),
    [
        ({"eight_bit": False}, "b@example.net", CONTENT + "grüß\r\n".encode(), "8BITMIME"),
        ({"utf8": False}, "grüß@example.net", CONTENT, "SMTPUTF8"),
        ({"utf8": False}, "b@example.net", "Subject: grüß\r\n\r\nx\r\n".encode(), "SMTPUTF8"),
        ({"size_octets_max": 20}, "b@example.net", CONTENT, "SIZE"),
    ],
)
async def test_what_this_server_cannot_take_is_refused_and_opens_no_transaction(offered, rcpt_to, content, why):
    async with Laboratory(LaboratorySettings(**offered)) as laboratory, pool_to(laboratory.port) as pool:
        outcome = await send(pool, rcpt_to, content)
        assert outcome.result is AttemptResult.REFUSED
        assert why in outcome.reason
        assert pool.health().connections_idle == 1


async def test_eight_bit_and_utf8_pass_where_they_are_offered(laboratory, pool):
    content = "Subject: grüß\r\n\r\nöä\r\n".encode()
    assert (await send(pool, "grüß@example.net", content)).result is AttemptResult.ACCEPTED
    assert (laboratory.mails[0].rcpt_to, laboratory.mails[0].content) == ("grüß@example.net", content)


@pytest.mark.parametrize("body", [b".\r\n", b"..\r\n", b"x\r\n.\r\n", b"\r\n.\r\n.\r\n..x\r\n", b".x\r\n", b"\r\n"])
async def test_lines_that_open_with_dots_arrive_as_they_were(laboratory, pool, body):
    assert (await send(pool, content=body)).result is AttemptResult.ACCEPTED
    assert (await send(pool, content=CONTENT + body)).result is AttemptResult.ACCEPTED
    assert [mail.content for mail in laboratory.mails] == [body, CONTENT + body]


async def test_twenty_megabytes_arrive_byte_for_byte(laboratory, pool):
    content = CONTENT + b".leading dot and then some seventy octets of text to fill the line, xxxx\r\n" * 280_000
    assert len(content) > 20_000_000
    outcome = await send(pool, content=content)
    assert outcome.result is AttemptResult.ACCEPTED
    assert laboratory.mails[0].sha256 == hashlib.sha256(content).hexdigest()


async def test_large_content_cut_in_the_middle_is_unreached(laboratory, pool):
    outcome = await send(
        pool, "cut-early@example.net", CONTENT + b"x" * 70 * 1 + b"\r\n" + (b"y" * 70 + b"\r\n") * 300_000
    )
    assert (outcome.result, outcome.reason) == (AttemptResult.UNREACHED, "connection lost at content")
    assert laboratory.mails == []


async def test_past_the_deadline_not_a_byte_is_written(laboratory, pool):
    await send(pool)
    outcome = await send(pool, deadline=time.monotonic() - 0.001)
    assert (outcome.result, outcome.reason) == (AttemptResult.UNREACHED, "lease deadline passed")
    assert len(laboratory.mails) == 1
    assert pool.health().connections_idle == 1


async def test_a_deadline_that_passes_while_waiting_for_a_connection_frees_the_sender(laboratory):
    async with pool_to(laboratory.port, connections=1) as pool:
        first = asyncio.ensure_future(send(pool, "slow-1@example.net"))
        await asyncio.sleep(0.05)
        second = await send(pool, deadline=time.monotonic() + 0.1)
        assert (second.result, second.reason) == (AttemptResult.UNREACHED, "lease deadline passed")
        assert not first.done()
        assert (await first).result is AttemptResult.ACCEPTED


async def test_the_final_dot_is_announced_before_it_is_written_and_not_where_it_is_not(laboratory, pool):
    announced = []
    await send(pool, at_final_dot=lambda: announced.append(len(laboratory.mails)))
    assert announced == [0]
    await send(pool, "refuse@example.net", at_final_dot=lambda: announced.append("refused"))
    await send(pool, "cut-data@example.net", at_final_dot=lambda: announced.append("cut"))
    assert announced == [0]


async def test_an_announcement_that_fails_stops_the_mail_and_is_raised(laboratory, pool):
    def fail():
        raise RuntimeError("journal full")

    with pytest.raises(RuntimeError, match="journal full"):
        await send(pool, at_final_dot=fail)
    assert (await send(pool)).result is AttemptResult.ACCEPTED
    assert len(laboratory.mails) == 1


async def test_many_mails_share_few_connections(laboratory):
    async with pool_to(laboratory.port, connections=4) as pool:
        outcomes = await asyncio.gather(*(send(pool, f"user{number}@example.net") for number in range(200)))
        assert {outcome.result for outcome in outcomes} == {AttemptResult.ACCEPTED}
        assert laboratory.connections_seen == 4
        assert (pool.health().connections_open, pool.health().connections_idle) == (4, 4)
    assert len({mail.rcpt_to for mail in laboratory.mails}) == 200


async def test_a_connection_is_retired_after_its_messages(laboratory):
    async with pool_to(laboratory.port, connections=1, messages_per_connection_max=3) as pool:
        outcomes = await asyncio.gather(*(send(pool) for _ in range(7)))
    assert {outcome.result for outcome in outcomes} == {AttemptResult.ACCEPTED}
    assert laboratory.connections_seen == 3


async def test_idle_connections_are_given_up(laboratory):
    async with pool_to(laboratory.port, idle_seconds=0.1) as pool:
        await send(pool)
        assert pool.health().connections_idle == 1
        await asyncio.sleep(0.4)
        assert (pool.health().connections_idle, pool.health().connections_open) == (0, 0)
        assert (await send(pool)).result is AttemptResult.ACCEPTED


async def test_a_provider_restart_between_mails_is_not_noticed_by_the_sender(laboratory, pool):
    await asyncio.gather(*(send(pool) for _ in range(20)))
    laboratory.cut_sessions()
    outcomes = await asyncio.gather(*(send(pool) for _ in range(20)))
    assert {outcome.result for outcome in outcomes} == {AttemptResult.ACCEPTED}
    assert len(laboratory.mails) == 40


@pytest.mark.parametrize("pipelining", [True, False])
async def test_outcomes_tell_the_truth_while_connections_are_cut_at_random(pipelining):
    chance = random.Random(7)
    async with (
        Laboratory(LaboratorySettings(pipelining=pipelining)) as laboratory,
        pool_to(laboratory.port, connections=8) as pool,
    ):

        async def cut_again_and_again():
            while True:
                await asyncio.sleep(chance.uniform(0.0005, 0.01))
                for session in list(laboratory.sessions):
                    if chance.random() < 0.3:
                        session.abort() if chance.random() < 0.5 else session.cut()

        cutter = asyncio.ensure_future(cut_again_and_again())
        outcomes = await asyncio.gather(*(send(pool, f"user{number}@example.net") for number in range(1500)))
        cutter.cancel()
        await asyncio.sleep(0.05)
        taken = Counter(mail.rcpt_to for mail in laboratory.mails)
    assert max(taken.values()) == 1
    results = Counter(outcome.result for outcome in outcomes)
    assert set(results) <= {AttemptResult.ACCEPTED, AttemptResult.UNREACHED, AttemptResult.DOUBT}
    assert results[AttemptResult.ACCEPTED] > 0
    for number, outcome in enumerate(outcomes):
        if outcome.result is not AttemptResult.DOUBT:
            assert taken[f"user{number}@example.net"] == (outcome.result is AttemptResult.ACCEPTED)


async def test_a_cancelled_send_costs_its_connection_and_no_more(laboratory):
    async with pool_to(laboratory.port, connections=1) as pool:
        task = asyncio.ensure_future(send(pool, "slow-2@example.net"))
        waiting = asyncio.ensure_future(send(pool))
        dropped = asyncio.ensure_future(send(pool))
        await asyncio.sleep(0.1)
        task.cancel()
        dropped.cancel()
        assert (await waiting).result is AttemptResult.ACCEPTED
        await asyncio.gather(task, dropped, return_exceptions=True)
        assert pool.health().connections_idle == 1


async def test_a_closed_pool_reaches_nobody_and_says_so(laboratory):
    pool = SmtpPool(settings_for(laboratory.port, connections=1))
    running = asyncio.ensure_future(send(pool, "slow-1@example.net"))
    waiting = asyncio.ensure_future(send(pool))
    await asyncio.sleep(0.05)
    await pool.close()
    assert (await running).result is AttemptResult.ACCEPTED
    assert (await waiting).reason == "pool closed"
    assert (await send(pool)).reason == "pool closed"


async def test_a_pool_closed_without_patience_leaves_the_mail_in_doubt(laboratory):
    pool = SmtpPool(settings_for(laboratory.port))
    running = asyncio.ensure_future(send(pool, "slow-2@example.net"))
    await asyncio.sleep(0.1)
    await pool.close(grace_seconds=0.05)
    assert (await running).result is AttemptResult.DOUBT


def test_the_same_holds_on_uvloop_at_a_cost_that_is_measured(record_property):
    async def run():
        async with Laboratory() as laboratory, pool_to(laboratory.port, connections=16) as pool:
            began = time.process_time()
            outcomes = await asyncio.gather(*(send(pool, f"user{number}@example.net") for number in range(1000)))
            spent = time.process_time() - began
            for fault in ("refuse", "cut", "cut-data", "421", "later", "garbage"):
                outcomes.append(await send(pool, f"{fault}@example.net"))
            return [outcome.result for outcome in outcomes], spent * 1000

    results, per_mail_us = uvloop.run(run())
    assert results[:1000] == [AttemptResult.ACCEPTED] * 1000
    assert results[1000:] == ["refused", "doubt", "unreached", "later", "later", "doubt"]
    record_property("client and laboratory together, us of CPU a mail", round(per_mail_us))
    assert per_mail_us < 2000
