import asyncio
import hashlib
import itertools
import json
import os
import signal
import smtplib
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waystation.laboratory import (
    FAULT_NAMES,
    Fault,
    Laboratory,
    LaboratorySettings,
    RecordedMail,
    find_fault,
    read_record,
)
from waystation.laboratory.record import as_line
from waystation.laboratory.session import Session

CONTENT = b"From: a@example.org\r\nSubject: order 17\r\nMessage-ID: <17@example.org>\r\n\r\n.dot\r\nhello\r\n"
ENVELOPE = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<%b>\r\nDATA\r\n"


async def dialogue(port, *parts, wait=0.0):
    """All that a server says to these bytes until it closes; ends with QUIT."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in (b"EHLO test\r\n", *parts, b"QUIT\r\n"):
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(wait)
        return (await reader.read()).decode()
    except ConnectionError:
        return "reset"
    finally:
        writer.close()


async def deliver(port, rcpt_to, content=CONTENT):
    """The last reply before 221, or what came before the cut."""
    said = await dialogue(port, ENVELOPE % rcpt_to.encode(), content + b".\r\n")
    lines = [line for line in said.split("\r\n") if line and not line.startswith("221")]
    return lines[-1]


@pytest.fixture
async def laboratory(tmp_path):
    async with Laboratory(LaboratorySettings(record=tmp_path)) as running:
        yield running


async def test_an_accepted_mail_is_recorded_within_fifty_milliseconds(laboratory, tmp_path):
    stuffed = CONTENT.replace(b"\r\n.", b"\r\n..")
    answer = await deliver(laboratory.port, "b@example.net", stuffed)
    assert answer == '250 2.0.0 queued for <b@example.net> subject "order 17" as 00000001'
    await asyncio.sleep(0.05)
    [mail] = read_record(tmp_path)
    assert mail == laboratory.mails[0]
    assert (mail.mail_from, mail.rcpt_to, mail.content) == ("a@example.org", "b@example.net", CONTENT)
    assert (mail.sha256, mail.size_octets) == (hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
    assert (mail.message_id, mail.answer, mail.accepted) == ("<17@example.org>", answer, True)
    assert abs(mail.time - time.time()) < 5


@pytest.mark.parametrize(
    ("rcpt_to", "answer", "recorded"),
    [
        ("refuse@x.net", "503 5.5.1", None),
        ("refuse-content.1@x.net", "554 5.7.1", "554 5.7.1"),
        ("later+1@x.net", "451 4.3.0", "451 4.3.0"),
        ("421@x.net", "421 4.3.2", None),
        ("cut-data@x.net", "250 2.1.5", None),
        ("cut-early@x.net", "354 ", None),
        ("cut-lost@x.net", "354 ", None),
        ("cut@x.net", "354 ", "cut"),
        ("garbage@x.net", "garbage", "garbage"),
        ("refuser@x.net", "250 2.0.0", "250 2.0.0"),
    ],
)
async def test_each_fault_answers_and_records_as_the_table_says(laboratory, rcpt_to, answer, recorded):
    said = await dialogue(laboratory.port, ENVELOPE % rcpt_to.encode(), CONTENT + b".\r\n", wait=0.02)
    if said != "reset":
        replies = [line for line in said.split("\r\n") if line and not line.startswith(("221", "500"))]
        assert replies[-1].startswith(answer)
    assert [mail.answer[: len(recorded)] for mail in laboratory.mails] == ([recorded] if recorded else [])


async def test_replies_echo_address_and_subject_as_real_servers_do(laboratory):
    said = await dialogue(laboratory.port, ENVELOPE % b"refuse.canary@x.net", wait=0.02)
    assert "550 5.1.1 <refuse.canary@x.net>" in said
    assert '"order 17"' in await deliver(laboratory.port, "refuse-content@x.net")


async def test_later_counts_and_greylisting_waits(laboratory):
    answers = [(await deliver(laboratory.port, "later-2@x.net"))[:3] for _ in range(3)]
    assert answers == ["451", "451", "250"]
    assert "451 4.7.1" in await dialogue(laboratory.port, ENVELOPE % b"greylist-1@x.net", wait=0.02)
    await asyncio.sleep(1.0)
    assert (await deliver(laboratory.port, "greylist-1@x.net")).startswith("250")


async def test_slow_and_tarpit_answer_late_but_in_order(laboratory):
    for address in ("slow-1@x.net", "tarpit-1@x.net"):
        began = time.monotonic()
        assert (await deliver(laboratory.port, address)).startswith("250 2.0.0")
        assert 1.0 <= time.monotonic() - began < 3


async def test_faults_can_be_set_by_address_while_it_runs(laboratory):
    laboratory.faults["b@example.net"] = "refuse-content"
    assert (await deliver(laboratory.port, "b@example.net")).startswith("554")
    del laboratory.faults["b@example.net"]
    assert (await deliver(laboratory.port, "b@example.net")).startswith("250")


async def test_a_faults_file_is_read_again_when_it_changes(tmp_path):
    faults = tmp_path / "faults.json"
    async with Laboratory(LaboratorySettings(faults_file=faults)) as laboratory:
        assert (await deliver(laboratory.port, "b@example.net")).startswith("250")
        faults.write_text(json.dumps({"b@example.net": "refuse-content"}))
        await asyncio.sleep(0.25)
        assert (await deliver(laboratory.port, "b@example.net")).startswith("554")
        faults.write_text('{"b@example.net": "no such fault"}')
        await asyncio.sleep(0.25)
        assert (await deliver(laboratory.port, "b@example.net")).startswith("554")


async def test_each_recipient_of_a_mail_has_its_own_line(laboratory, tmp_path):
    two = b"MAIL FROM:<>\r\nRCPT TO:<b@x.net>\r\nRCPT TO:<c@x.net>\r\nDATA\r\n"
    await dialogue(laboratory.port, two, b".\r\n")
    assert [(mail.mail_from, mail.rcpt_to, mail.content) for mail in laboratory.mails] == [
        ("", "b@x.net", b""),
        ("", "c@x.net", b""),
    ]


async def test_what_is_out_of_order_is_told_so(laboratory):
    said = await dialogue(
        laboratory.port,
        b"RCPT TO:<b@x.net>\r\nDATA\r\nMAIL FROM:<a@x.net>\r\nMAIL FROM:<a@x.net>\r\nRCPT TO:<>\r\nRCPT b\r\nWHAT\r\nSTARTTLS\r\nNOOP\r\n",
    )
    replies = [line[:3] for line in said.split("\r\n")[1:] if line and line[3] == " "]
    assert replies == ["250", "503", "503", "250", "503", "501", "501", "500", "502", "250", "221"]


async def test_a_bare_line_feed_dot_does_not_end_content(laboratory):
    await deliver(laboratory.port, "b@x.net", b"a\n.\nMAIL FROM:<evil@x.net>\r\n")
    assert [mail.content for mail in laboratory.mails] == [b"a\n.\nMAIL FROM:<evil@x.net>\r\n"]


async def test_the_standard_library_client_is_served(laboratory):
    def talk():
        with smtplib.SMTP("127.0.0.1", laboratory.port) as client:
            assert client.ehlo()[0] == 250
            assert {"pipelining", "8bitmime", "smtputf8", "size", "enhancedstatuscodes"} <= set(client.esmtp_features)
            client.sendmail("a@example.org", ["b@example.net"], CONTENT)
            client.sendmail("a@example.org", ["b@example.net"], CONTENT)

    await asyncio.to_thread(talk)
    assert [mail.content for mail in laboratory.mails] == [CONTENT, CONTENT]


async def test_digest_only_keeps_no_content(tmp_path):
    async with Laboratory(LaboratorySettings(record=tmp_path, digest_only=True, keep=False)) as laboratory:
        await deliver(laboratory.port, "b@example.net", CONTENT)
        assert (laboratory.mails, laboratory.mails_seen) == ([], 1)
    [mail] = read_record(tmp_path / "mails.jsonl")
    assert (mail.content, mail.size_octets) == (None, len(CONTENT) - 1)


async def test_a_line_still_being_written_is_not_read(tmp_path):
    line = as_line(RecordedMail(1.5, "a@x", 'b"\\é@x', "00", 3, None, "cut", b"\x00\xff\n"))
    (tmp_path / "mails.jsonl").write_bytes(line + line[:20])
    assert read_record(tmp_path) == [RecordedMail(1.5, "a@x", 'b"\\é@x', "00", 3, None, "cut", b"\x00\xff\n")]
    assert read_record(tmp_path / "nothing") == []


def test_faults_are_found_in_the_local_part_only():
    assert find_fault("later-3.x@example.net") == Fault("later", 3)
    assert find_fault("cut-early+x@example.net") == Fault("cut-early", 0)
    assert find_fault("421@example.net") == Fault("421", 0)
    assert find_fault("cutter@example.net") is None
    assert find_fault("b@refuse") is None
    assert all(find_fault(f"{name}@x") is not None for name in FAULT_NAMES)


class SilentTransport:
    def __init__(self):
        self.said = b""

    def write(self, data):
        self.said += data

    def close(self):
        pass


_bodies = st.lists(st.sampled_from([b".", b"\r\n", b"x", b"\r\n.", b"\n", b"\r", b".."]), max_size=12).map(b"".join)


@given(_bodies, st.lists(st.integers(0, 10_000), max_size=12))
@settings(max_examples=150, deadline=None)
async def test_content_is_kept_the_same_however_the_bytes_are_cut(body, cuts):
    content = body + b"\r\n"
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    stuffed = b"." + stuffed if stuffed.startswith(b".") else stuffed
    data = b"EHLO x\r\n" + (ENVELOPE % b"b@x.net") + stuffed + b".\r\nNOOP\r\n"
    laboratory = Laboratory()
    session = Session(laboratory)
    transport = SilentTransport()
    session.connection_made(transport)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        session.data_received(data[start:end])
    assert [mail.content for mail in laboratory.mails] == [content]
    assert transport.said.endswith(b"250 2.0.0 ok\r\n")


async def test_the_process_writes_its_port_serves_and_leaves_nothing_unwritten(tmp_path):
    port_file = tmp_path / "run" / "port"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "waystation.laboratory",
        "--port",
        "0",
        "--record",
        str(tmp_path / "record"),
        "--port-file",
        str(port_file),
        env=os.environ,
    )
    try:
        for _ in range(200):
            if port_file.exists():
                break
            await asyncio.sleep(0.05)
        port = int(port_file.read_text())
        assert (await deliver(port, "b@example.net")).startswith("250")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert [mail.rcpt_to for mail in read_record(tmp_path / "record")] == ["b@example.net"]
