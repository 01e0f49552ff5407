import random

import pytest

from routing.providers.smtp_mail import has_longer_line


@pytest.mark.parametrize("octets", [0, 1, 997, 998])
def test_a_line_of_the_limit_is_no_longer_line(octets):
    assert not has_longer_line(b"Subject: x\r\n\r\n" + b"a" * octets + b"\r\n", 998)


@pytest.mark.parametrize("before", [b"", b"short\r\n", b"a" * 998 + b"\r\n", b"\r\n" * 600])
@pytest.mark.parametrize("octets", [999, 1000, 5000])
def test_a_longer_line_is_found_wherever_it_stands(before, octets):
    assert has_longer_line(before + b"a" * octets + b"\r\n" + b"short\r\n", 998)


def test_looking_ahead_finds_what_splitting_into_lines_finds():
    chosen = random.Random(1)
    for _ in range(2000):
        lines = [b"a" * chosen.choice((0, 1, 3, 7, 8, 9, 10, 11, 20)) for _ in range(chosen.randrange(1, 12))]
        content = b"".join(line + b"\r\n" for line in lines)
        assert has_longer_line(content, 10) == (max(map(len, lines)) > 10)
