from __future__ import annotations

from datetime import date

import pytest

from vault.errors import ProcessorsFileError
from vault.processors import read_processors

GOOD = """
processors:
  - {name: smtp.default, tool: email, fields: [address], approved: true, country: DE, purpose: hand-over}
"""


def written(tmp_path, text):
    path = tmp_path / "processors.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_register_is_read(tmp_path):
    (processor,) = read_processors(written(tmp_path, GOOD))
    assert processor.name == "smtp.default"
    assert processor.fields == {"address"}
    assert processor.approved


def test_a_country_outside_of_the_eea_needs_the_tool_of_the_transfer(tmp_path):
    abroad = GOOD.replace("country: DE", "country: US")
    with pytest.raises(ProcessorsFileError, match=r"smtp.default: transfer must name the tool for US"):
        read_processors(written(tmp_path, abroad))
    (named,) = read_processors(written(tmp_path, abroad.replace("purpose", "transfer: clauses of 2021, purpose")))
    assert named.transfer == "clauses of 2021"
    (unapproved,) = read_processors(written(tmp_path, abroad.replace("approved: true", "approved: false")))
    assert not unapproved.approved


def test_a_register_has_the_dates_of_the_notice_period(tmp_path):
    dated = GOOD.replace("purpose", "announced_on: 2026-11-01, approved_from: 2026-12-01, purpose")
    (processor,) = read_processors(written(tmp_path, dated))
    assert (processor.announced_on, processor.approved_from) == (date(2026, 11, 1), date(2026, 12, 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("approved: true", 'approved: "yes"'), "processors.0.approved"),
        (("country: DE", "country: Germany"), "processors.0.country"),
        (("[address]", "[address, shoe_size]"), "processors.0.fields.1"),
        (("[address]", "[]"), "processors.0.fields"),
        (("tool: email, ", ""), "processors.0.tool"),
        (("tool: email", "tool: email, extra: 1"), "processors.0.extra"),
        (("processors:", "processor:"), "processors"),
        (("processors:", "processors: ["), "cannot be read"),
    ],
)
def test_an_entry_that_does_not_fit_is_named(tmp_path, change, said):
    with pytest.raises(ProcessorsFileError, match=said):
        read_processors(written(tmp_path, GOOD.replace(*change)))


def test_a_processor_listed_twice_is_refused(tmp_path):
    with pytest.raises(ProcessorsFileError, match="twice"):
        read_processors(written(tmp_path, GOOD + GOOD.partition("processors:\n")[2]))


def test_a_missing_register_is_an_error(tmp_path):
    with pytest.raises(ProcessorsFileError, match="FileNotFoundError"):
        read_processors(tmp_path / "none.yaml")
