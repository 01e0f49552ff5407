"""What is refused before anybody is asked who sends it, by a real server on a real socket."""

from __future__ import annotations

import asyncio

import orjson
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from common.http import arrival
from common.http.arrival import HEAD_BYTES_MAX, Arrival


async def answer(scope, receive, send):
    """Say how large the body was; that of /slow later."""
    if scope["type"] == "http":
        body = await Request(scope, receive).body()
        await asyncio.sleep(0.3 if scope["path"] == "/slow" else 0)
        await PlainTextResponse(str(len(body)))(scope, receive, send)


@pytest.fixture
async def connect():
    config = uvicorn.Config(answer, port=0, http=Arrival, lifespan="off", log_config=None, timeout_keep_alive=5)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    writers = []

    async def connection():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        return reader, writer

    yield connection
    for writer in writers:
        writer.close()
    server.should_exit = True
    await serving


async def answered(reader):
    """The status and the body of the next answer."""
    head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).lower()
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    return int(head[9:12]), await reader.readexactly(length)


async def refused(reader, status):
    """The problem of an answer with that status, behind which the connection ends."""
    found, body = await answered(reader)
    assert found == status
    assert await asyncio.wait_for(reader.read(), 5) == b""
    return orjson.loads(body)


def post(body, *headers):
    lines = [b"POST / HTTP/1.1", b"Host: here", *headers, b"", body]
    return b"\r\n".join(lines)


def sized(body, *headers):
    return post(body, b"Content-Length: %d" % len(body), *headers)


async def test_requests_follow_one_another_on_a_connection_whole_in_pieces_and_in_one_go(connect):
    reader, writer = await connect()
    writer.write(sized(b"x" * 10))
    assert await answered(reader) == (200, b"10")
    for octet in sized(b"in pieces"):
        writer.write(bytes([octet]))
        await writer.drain()
    assert await answered(reader) == (200, b"9")
    writer.write(sized(b"first") + sized(b"") + sized(b"y" * 3_000_000))
    assert [await answered(reader) for _ in range(3)] == [(200, b"5"), (200, b"0"), (200, b"3000000")]


async def test_who_asks_whether_to_send_the_body_is_told_to(connect):
    reader, writer = await connect()
    writer.write(post(b"", b"Content-Length: 4", b"Expect: 100-continue"))
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"body")
    assert await answered(reader) == (200, b"4")


async def test_many_small_chunks_are_no_head(connect):
    reader, writer = await connect()
    writer.write(post(b"1\r\nx\r\n" * HEAD_BYTES_MAX + b"0\r\n\r\n", b"Transfer-Encoding: chunked"))
    assert await answered(reader) == (200, str(HEAD_BYTES_MAX).encode())


@pytest.mark.parametrize(
    "line", [b"X-Large: %b", b"X-%b: 1", b"X: 1\r\n" * 12_000 + b"Last: %b"], ids=["value", "name", "many"]
)
async def test_a_head_larger_than_the_limit_is_refused_with_it(connect, line):
    reader, writer = await connect()
    writer.write(sized(b"body", line % (b"a" * HEAD_BYTES_MAX)))
    problem = await refused(reader, 431)
    assert (problem["limit"], problem["type"]) == (HEAD_BYTES_MAX, "urn:waystation:problem:head-too-large")


async def test_a_long_address_is_refused_and_a_head_below_the_limit_is_not(connect):
    reader, writer = await connect()
    writer.write(sized(b"body", b"X-Large: " + b"a" * (HEAD_BYTES_MAX - 200)))
    assert await answered(reader) == (200, b"4")
    writer.write(b"GET /" + b"a" * HEAD_BYTES_MAX + b" HTTP/1.1\r\nHost: here\r\n\r\n")
    await refused(reader, 431)


async def test_a_refusal_is_no_answer_to_the_request_before(connect):
    reader, writer = await connect()
    writer.write(sized(b"").replace(b"/", b"/slow", 1) + sized(b"body", b"X-Large: " + b"a" * HEAD_BYTES_MAX))
    assert await asyncio.wait_for(reader.read(), 5) == b""


@pytest.mark.parametrize(
    "start", [b"GET / HTTP/1.1\r\nX: ", b"GET /", post(b"0\r\nX: ", b"Transfer-Encoding: chunked")]
)
async def test_a_head_or_a_trailer_that_never_ends_is_refused_before_it_fills_the_memory(connect, start):
    reader, writer = await connect()
    writer.write(start)
    taken = 0
    while not reader.at_eof() and taken < 64 * HEAD_BYTES_MAX:
        writer.write(b"a" * 16_384)
        taken += 16_384
        try:
            await writer.drain()
        except ConnectionError:
            break
        await asyncio.sleep(0)
    assert taken < 64 * HEAD_BYTES_MAX


@pytest.mark.parametrize("sent", [b"POST / HT", sized(b"body")[:-1], post(b"4\r\nbo", b"Transfer-Encoding: chunked")])
async def test_a_request_that_does_not_come_whole_is_answered_that_it_was_too_slow(connect, monkeypatch, sent):
    monkeypatch.setattr(arrival, "ARRIVAL_SECONDS_MAX", 0.2)
    reader, writer = await connect()
    writer.write(sent)
    problem = await refused(reader, 408)
    assert problem["type"] == "urn:waystation:problem:too-slow"


async def test_a_connection_on_which_nothing_comes_is_closed(connect, monkeypatch):
    monkeypatch.setattr(arrival, "ARRIVAL_SECONDS_MAX", 0.2)
    reader, _ = await connect()
    assert await asyncio.wait_for(reader.read(), 5) == b""


async def test_a_body_has_a_second_more_for_each_part_of_it_that_came(connect, monkeypatch):
    monkeypatch.setattr(arrival, "ARRIVAL_SECONDS_MAX", 0.2)
    monkeypatch.setattr(arrival, "BYTES_PER_SECOND_MIN", 1000)
    reader, writer = await connect()
    writer.write(sized(b"x" * 1000)[:-1])
    await asyncio.sleep(0.5)
    writer.write(b"x")
    assert await answered(reader) == (200, b"1000")


async def test_a_connection_that_is_kept_waits_for_its_next_request_as_long_as_the_server_keeps_it(
    connect, monkeypatch
):
    monkeypatch.setattr(arrival, "ARRIVAL_SECONDS_MAX", 0.2)
    reader, writer = await connect()
    writer.write(sized(b"one"))
    assert await answered(reader) == (200, b"3")
    await asyncio.sleep(0.5)
    writer.write(sized(b"three"))
    assert await answered(reader) == (200, b"5")
