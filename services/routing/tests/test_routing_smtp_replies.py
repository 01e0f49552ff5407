import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from routing.providers.smtp_replies import LINE_OCTETS_MAX, LINES_MAX, ReplyParser, as_reply, codes, enhanced_code

_lines = st.binary(max_size=60).map(lambda text: text.replace(b"\n", b" ").replace(b"\r", b" "))
_replies = st.tuples(st.integers(200, 599), st.lists(_lines, min_size=1, max_size=5))


def wire(code, lines):
    marks = [b"-"] * (len(lines) - 1) + [b" "]
    return b"".join(b"%d%b%b\r\n" % (code, mark, line) for mark, line in zip(marks, lines, strict=True))


def feed_in_pieces(data, cuts):
    parser, out = ReplyParser(), []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        out += parser.feed(data[start:end])
    return out, parser.broken


@given(st.lists(_replies, max_size=6), st.lists(st.integers(0, 10_000), max_size=20))
@settings(max_examples=150, deadline=None)
def test_replies_come_out_whole_however_the_bytes_are_cut(replies, cuts):
    data = b"".join(wire(code, lines) for code, lines in replies)
    out, broken = feed_in_pieces(data, cuts)
    assert not broken
    assert out == [(code, b"\n".join(lines)) for code, lines in replies]


@given(st.binary(max_size=300), st.lists(st.integers(0, 10_000), max_size=20))
@settings(max_examples=150, deadline=None)
def test_garbage_is_judged_the_same_however_it_is_cut(data, cuts):
    assert feed_in_pieces(data, cuts) == feed_in_pieces(data, [])


@given(st.lists(st.sampled_from([b"250", b"-", b" ok", b"\r\n", b"\n", b"4.2.0", b"999", b"\x00", b"2"]), max_size=40))
@settings(max_examples=150, deadline=None)
def test_near_replies_are_judged_the_same_byte_by_byte(pieces):
    data = b"".join(pieces)
    assert feed_in_pieces(data, range(len(data))) == feed_in_pieces(data, [])


def test_replies_before_garbage_still_count():
    parser = ReplyParser()
    assert parser.feed(b"250 ok\r\nHTTP/1.1 400\r\n250 no\r\n") == [(250, b"ok")]
    assert parser.broken
    assert parser.feed(b"250 ok\r\n") == []


def test_a_line_or_a_reply_without_end_is_cut_short():
    endless_line, endless_reply = ReplyParser(), ReplyParser()
    endless_line.feed(b"250 " + b"x" * LINE_OCTETS_MAX)
    endless_reply.feed(b"250-x\r\n" * (LINES_MAX + 1))
    assert endless_line.broken
    assert endless_reply.broken


def test_codes_that_change_within_a_reply_are_garbage():
    parser = ReplyParser()
    assert parser.feed(b"250-a\r\n251 b\r\n") == []
    assert parser.broken


def test_a_bare_code_and_a_bare_line_feed_are_understood():
    assert ReplyParser().feed(b"220\r\n250\n354 \r\n") == [(220, b""), (250, b""), (354, b"")]


def test_the_enhanced_code_must_fit_the_class_of_the_reply():
    assert enhanced_code((550, b"5.1.1 no such user")) == "5.1.1"
    assert enhanced_code((550, b"5.1.1\nmore")) == "5.1.1"
    assert enhanced_code((550, b"4.1.1 odd")) is None
    assert enhanced_code((550, b"5.1.1x odd")) is None
    assert enhanced_code((354, b"3.0.0 go")) is None
    assert codes((550, b"5.1.1 <a@example.org> unknown")) == "550 5.1.1"


def test_reply_text_of_any_octets_becomes_text():
    assert as_reply((250, "2.0.0 grüß".encode() + b"\xff")).text == "2.0.0 grüß\\xff"
