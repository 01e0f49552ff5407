from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from ingestion.errors import RulesFileError
from ingestion.rules import load_rules

FILE = Path(__file__).parents[3] / "deploy" / "rules" / "1.yaml"


def test_the_rules_in_force_are_read_with_the_digest_of_their_file():
    rules = load_rules(FILE)
    assert (rules.version, rules.text_digest) == ("1", sha256(FILE.read_bytes()).hexdigest())


def test_every_clause_that_a_refusal_cites_is_in_the_rules():
    text = FILE.read_text("utf-8")
    assert all(f"id: {clause}," in text for clause in ("R0", "R4.1", "R4.3", "R7"))


@pytest.mark.parametrize("text", ["", "version: [", "version: '1'", "version: '1'\ncolour: red"])
def test_a_file_that_is_no_text_of_rules_names_itself(tmp_path, text):
    file = tmp_path / "rules.yaml"
    file.write_text(text)
    with pytest.raises(RulesFileError, match=r"rules\.yaml"):
        load_rules(file)


def test_a_missing_file_says_which_setting_names_it(tmp_path):
    with pytest.raises(RulesFileError, match="INGESTION_RULES_FILE"):
        load_rules(tmp_path / "none.yaml")
