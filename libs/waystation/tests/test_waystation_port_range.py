"""Ports are chosen from a range that the environment may narrow."""

from __future__ import annotations

import pytest

from waystation.errors import CommandError
from waystation.stack import ports


def test_ports_come_from_the_range_that_is_given(monkeypatch):
    monkeypatch.setenv(ports.RANGE_VARIABLE, "23000-23039")
    chosen = ports.choose(["kafka", "postgres", "vault"], taken=[23000])
    assert len(set(chosen.values())) == 3
    assert set(chosen.values()) <= set(range(23001, 23040))


def test_without_one_they_come_from_below_the_ports_of_outgoing_connections(monkeypatch):
    monkeypatch.delenv(ports.RANGE_VARIABLE, raising=False)
    assert ports.choose(["kafka"])["kafka"] in ports.CHOICE


def test_a_range_that_is_full_is_named(monkeypatch):
    monkeypatch.setenv(ports.RANGE_VARIABLE, "23000-23000")
    with pytest.raises(CommandError, match="no free port between 23000 and 23000"):
        ports.choose(["kafka"], taken=[23000])


@pytest.mark.parametrize("given", ["23000", "23000-", "-23000", "23009-23000", "0-10", "60000-70000", "a-b", "1-2-3"])
def test_what_is_no_range_is_refused_by_name(monkeypatch, given):
    monkeypatch.setenv(ports.RANGE_VARIABLE, given)
    with pytest.raises(CommandError, match="WAYSTATION_PORT_RANGE="):
        ports.choose(["kafka"])
