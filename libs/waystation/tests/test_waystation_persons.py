"""How a command names persons to the vault."""

from __future__ import annotations

import pytest

from waystation.commands.persons import Kind, person
from waystation.errors import CommandError


def test_an_address_names_everybody_known_by_it_unless_a_kind_is_given():
    assert person("a", None, "jo@example.org", None) == {"account_id": "a", "address": "jo@example.org"}
    assert person("a", None, None, "+4930555321", Kind.USER)["kind"] == "user"


@pytest.mark.parametrize("given", [(None, None, None), ("t", "jo@example.org", None), ("t", None, None, Kind.USER)])
def test_a_person_is_named_once(given):
    with pytest.raises(CommandError):
        person("a", *given)
