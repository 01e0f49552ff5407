from hashlib import sha256

import pytest

from moderation.examples import require_examples
from moderation.policy.errors import PolicyError
from moderation.policy.reading import parse_policy, read_policy

GOOD = """\
id: small
version: 1
description: one rule
rules:
  - id: test.word
    clause: R3.d
    tools: [email]
    description: a word
    action: hold
    severity: 1
    owner: tests
    match:
      patterns:
        any: ['\\bword\\b']
    matches: [a word]
    passes: [a sword]
"""


def complaint(text):
    with pytest.raises(PolicyError) as caught:
        parse_policy(text.encode(), "re2")
    return str(caught.value)


def test_a_policy_is_named_by_the_digest_of_its_file():
    name = f"small@sha256:{sha256(GOOD.encode()).hexdigest()}"
    assert parse_policy(GOOD.encode(), "re2").name == name
    assert parse_policy(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode(), "re2").name == name
    assert parse_policy(GOOD.replace("version: 1", "version: 2").encode(), "re2").name != name


def test_a_policy_that_keeps_its_examples_is_taken():
    require_examples(parse_policy(GOOD.encode(), "re2"))


def test_a_policy_that_breaks_its_examples_is_refused():
    policy = parse_policy(GOOD.replace("a sword", "this word").encode(), "re2")
    with pytest.raises(PolicyError, match=r"test\.word: passes\[0\] matches"):
        require_examples(policy)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("action: hold", "action: delete", "line 9, column 5: rules.0.action"),
        ("clause: R3.d", "clause: R4.1", "line 6, column 5: rules.0.clause"),
        ("severity: 1", "severity: 9", "line 10, column 5: rules.0.severity"),
        ("owner: tests", "owner: tests\n    colour: red", "line 12, column 5: rules.0.colour"),
        ("any: ['\\bword\\b']", "any: ['(word']", "line 14, column 15: rules.0.match.patterns.any.0: missing )"),
        ("any: ['\\bword\\b']", "any: ['w*o*']", "matches the empty text"),
        ("any: ['\\bword\\b']", "any: []", "line 14, column 9: rules.0.match.patterns.any"),
        ("    owner: tests\n", "", "line 5, column 5: rules.0.owner: Field required"),
        ("version: 1", "version: 1\nversion: 2", "line 3, column 1: 'version' is given twice"),
        ("rules:\n", "rules:\n\t- x\n", "line 5, column 1: not YAML"),
    ],
)
def test_an_error_names_line_and_column(old, new, said):
    assert said in complaint(GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("links.count and lnks.count", "line 12, column 27: rules.0.when: unknown feature 'lnks.count'"),
        ("'links.count and lnks.count'", "line 12, column 28: rules.0.when: unknown feature 'lnks.count'"),
        ("lnks.count", "line 12, column 5: rules.0.when: unknown feature 'lnks.count'"),
        (">\n      links.count\n      and lnks.count", "line 12, column 5: rules.0.when (character 17): unknown"),
    ],
)
def test_an_error_in_an_expression_names_its_very_place(when, said):
    assert said in complaint(GOOD.replace("    match:\n", f"    when: {when}\n    match:\n"))


def test_a_mistake_in_the_only_rule_is_told_once():
    assert complaint(GOOD.replace("    owner: tests\n", "")) == "line 5, column 5: rules.0.owner: Field required"


def test_a_rule_looks_for_exactly_one_kind_of_thing():
    assert "exactly one of" in complaint(
        GOOD.replace("      patterns:", "      attachments: {any: [eicar]}\n      patterns:")
    )


def test_two_rules_of_one_name_are_refused():
    rule = GOOD[GOOD.index("  - id") :]
    assert "rule defined twice: test.word" in complaint(GOOD + rule)


def test_what_is_no_policy_at_all_is_refused():
    assert "Input should be" in complaint("")
    assert "Input should be" in complaint("- 1")
    with pytest.raises(PolicyError, match="not UTF-8"):
        parse_policy(b"\xff\xfe")


def test_a_missing_file_says_what_to_set(tmp_path):
    with pytest.raises(PolicyError, match="MODERATION_POLICY_FILE"):
        read_policy(tmp_path / "none.yaml")
