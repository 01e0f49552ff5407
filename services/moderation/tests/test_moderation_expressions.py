import json

import pytest
from datalogic_py import Engine
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.features import FEATURES, HEADS, INDEX
from moderation.policy.expressions import (
    ExpressionError,
    Vocabulary,
    json_logic,
    nullable,
    parse,
    python,
    unknown_and,
    unknown_not,
    unknown_or,
)

VOCABULARY = Vocabulary(
    {feature.name: (number, feature) for number, feature in enumerate(FEATURES)},
    dict.fromkeys(HEADS, 0.9),
    lambda name: parse("links.count > 2", VOCABULARY) if name == "many_links" else None,
)
NAMES = {number: feature.name for number, feature in enumerate(FEATURES)}
WORDS = {"unknown_and": unknown_and, "unknown_or": unknown_or, "unknown_not": unknown_not}


def evaluate(text, **known):
    values = [known.get(feature.name, None if feature.unknown else 0) for feature in FEATURES]
    return eval(python(parse(text, VOCABULARY)), {**WORDS, "f": values})


def test_a_number_alone_means_above_nought():
    assert evaluate("links.count", **{"links.count": 1}) is True
    assert evaluate("links.count") is False


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("clamd.infected", None),
        ("not clamd.infected", None),
        ("clamd.infected and links.count", False),
        ("clamd.infected or not links.count", True),
        ("clamd.infected and not links.count", None),
        ("clamd.infected or rspamd.score > 1", None),
        ("over.phish", None),
        ("language == 'en'", None),
        ("many_links or True", True),
    ],
)
def test_what_hangs_on_an_unknown_feature_is_unknown_unless_the_rest_decides(text, outcome):
    assert evaluate(text) is outcome


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("links.cuont > 1", 0, "did you mean 'links.count'"),
        ("links.count >", 13, "not an expression"),
        ("links.count + 1", 0, "is none of"),
        ("links.count > 1 and open('x')", 20, "is none of"),
        ("__import__('os')", 0, "is none of"),
        ("links.count > 'a'", 14, "is a number"),
        ("language > 'en'", 0, "texts have no order"),
        ("language", 0, "compare it"),
        ("language in 'en'", 12, "takes a list"),
        ("links.count > 1e999", 14, "finite"),
        ("links.count == True", 15, "a finite number"),
        ("1 < links.count", 0, "no name of a feature"),
        ("1 < links.count < 3", 0, "is none of"),
        ("(" * 30 + "links.count" + ")" * 30 + " and not" * 1, 0, "not an expression"),
        (" and ".join(["links.count"] * 150), 0, "use definitions"),
    ],
)
def test_what_is_not_taken_is_refused_with_its_place(text, column, said):
    with pytest.raises(ExpressionError, match=said) as caught:
        parse(text, VOCABULARY)
    if "not an expression" not in said:
        assert caught.value.column == column


LEAVES = st.sampled_from(
    [
        "links.count", "links.count >= 2", "text.capitals < 0.5", "clamd.infected", "rspamd.score > 1.5",
        "language == 'en'", "language != 'de'", "language in ('fr', 'es')", "over.spam", "score.phish < 0.2",
        "disguise.leet == 1", "True", "False", "many_links",
    ]
)  # fmt: skip
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map("not ({})".format),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda parts: "({} {} {})".format(*parts)),
    ),
    max_leaves=8,
)
MESSAGES = st.fixed_dictionaries(
    {
        "links.count": st.integers(0, 4),
        "text.capitals": st.sampled_from([0, 0.25, 0.5, 0.75]),
        "clamd.infected": st.sampled_from([None, 0, 1]),
        "rspamd.score": st.sampled_from([None, 1.0, 1.5, 2.0]),
        "language": st.sampled_from([None, "en", "de", "fr"]),
        "score.spam": st.sampled_from([None, 0.1, 0.9]),
        "score.phish": st.sampled_from([None, 0.1, 0.9]),
        "disguise.leet": st.integers(0, 2),
    }
)


@pytest.fixture(scope="module")
def json_logic_engine():
    return Engine()


@settings(max_examples=400, deadline=None)
@given(EXPRESSIONS, MESSAGES)
def test_the_compiled_rule_and_json_logic_agree(json_logic_engine, text, message):
    node = parse(text, VOCABULARY)
    values = [message.get(feature.name, None if feature.unknown else 0) for feature in FEATURES]
    ours = eval(python(node), {**WORDS, "f": values})
    document: dict = {}
    for name, value in message.items():
        *path, last = name.split(".")
        inner = document
        for step in path:
            inner = inner.setdefault(step, {})
        inner[last] = value
    data = json.dumps(document)
    surely = {
        outcome: json.loads(json_logic_engine.eval_str(json.dumps(json_logic(node, NAMES, outcome=outcome)), data))
        for outcome in (True, False)
    }
    theirs = True if surely[True] else False if surely[False] else None
    assert ours is theirs
    assert ours is not None or nullable(node)


def test_the_scores_are_the_last_features():
    assert INDEX["score.spam"] == len(FEATURES) - 1
