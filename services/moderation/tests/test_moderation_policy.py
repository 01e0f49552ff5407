from hashlib import sha256
from itertools import pairwise

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


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ("2020-13-45", "line 3, column 14: not a value of the kind timestamp: month must be in 1..12"),
        ("!!timestamp foo", "line 3, column 14: not a value of the kind timestamp"),
        ("9" * 5000, "line 3, column 14: not a value of the kind int"),
        ("!!python/object/apply:os.system [ls]", "line 3, column 14: not YAML: could not determine a constructor"),
        ("&a {b: *a}", "line 3, column 14: this holds itself by an alias"),
        ("[" * 2000 + "]" * 2000, "line 3, column 43: nested more than 30 deep"),
        ("a\x07b", "line 3, column 15: not YAML: control characters are not allowed"),
        ("x\na: &a [1, 1]\n" + "".join(f"{n}: &{n} [{'*' + p}, *{p}]\n" for p, n in pairwise("abcdefghijklmnopqrst")),
         "more than 200,000 values, aliases counted"),
    ],
)  # fmt: skip
def test_what_yaml_makes_no_value_of_is_told_with_its_place(description, said):
    assert said in complaint(GOOD.replace("one rule", description))


def chained(names, text):
    lines = "".join(f"  x{n}: {text.replace('PREVIOUS', f'x{n - 1}')}\n" for n in names if n)
    return GOOD.replace("rules:\n", f"definitions:\n  x0: links.count\n{lines}rules:\n")


@pytest.mark.parametrize(
    ("names", "text", "said"),
    [
        (range(23), "PREVIOUS and PREVIOUS", "line 15, column 3: definitions.x10: more than 2,000 parts with"),
        (range(601), "PREVIOUS and links.count", "line 55, column 3: definitions.x50: nested more than 50 deep with"),
        (range(600, 0, -1), "not " * 18 + "PREVIOUS", "more than 16 definitions in one another"),
    ],
)
def test_definitions_that_grow_beyond_what_can_be_compiled_are_refused(names, text, said):
    assert said in complaint(chained(names, text))


def test_definitions_of_definitions_are_compiled():
    deep = chained(range(49), "not PREVIOUS").replace("    match:\n", "    when: x48 or over.spam\n    match:\n")
    parse_policy(deep.encode(), "re2")


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
