from __future__ import annotations

from pathlib import Path

import pytest

from waystation.errors import CommandError
from waystation.screening import home_in


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], (None, [])),
        (["--sample", "5", "--home", "/a b"], (Path("/a b"), ["--sample", "5"])),
        (["--home=/a", "my.yaml", "--intake"], (Path("/a"), ["my.yaml", "--intake"])),
    ],
)
def test_the_folder_of_the_stack_is_taken_out_of_what_is_passed_on(arguments, found):
    assert home_in(arguments) == found


@pytest.mark.parametrize("arguments", [["--home"], ["--home="]])
def test_a_folder_that_is_not_named_is_told(arguments):
    with pytest.raises(CommandError, match="--home names no folder"):
        home_in(arguments)
