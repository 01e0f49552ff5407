# ruff: noqa: RUF001  disguised letters are the subject
"""Policies of named features: unknowns, shadow, drafts, circles, thresholds per tool, replay."""

from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
import yaml

from moderation.domain import ENGINE, in_ten_thousandths, scores_in_ten_thousandths, screen
from moderation.examination import Case, Context, examine
from moderation.links import host_of
from moderation.mail import AttachmentPart, Correspondent, MailParts, TextPart
from moderation.mail.read import links_in
from moderation.models import ModelBank
from moderation.models.bank import Scores as ModelBankScores
from moderation.models.weights import WEIGHTS
from moderation.policy.errors import PolicyError
from moderation.policy.reading import parse_policy
from moderation.replaying import ReplayError, feature_differences, replay
from moderation.screening import Screener

POLICY = """\
id: small
version: 1
description: one rule
banks:
  lure: ['\\bverify\\b', '\\bparcel\\b']
definitions:
  suspicious: bank.lure and links.count
thresholds:
  phish: {default: 0.9, tools: {telephony: 0.5}}
rules:
  - id: test.rule
    clause: R5.2
    tools: [email, telephony]
    description: a rule
    action: hold
    severity: 1
    owner: tests
    when: suspicious
    matches: ["verify at https://a.example"]
    passes: [a sword]
"""


def policy(**changes):
    text = POLICY
    for old, new in changes.values():
        text = text.replace(old, new)
    return parse_policy(text.encode(), "re2")


def message(text):
    return MailParts("", (TextPart("text", text),), links_in(text))


LURE = message("Verify your parcel at https://a.example/x")


def test_banks_and_definitions_make_a_rule():
    decision = screen(LURE, policy())
    assert (decision.action, decision.rules) == ("hold", ("test.rule",))
    assert {found.part for found in decision.evidence} == {"text[0]"}
    assert decision.features["bank.lure"] == 2
    assert screen(message("Verify it"), policy()).action == "allow"


def test_a_rule_in_shadow_is_told_and_does_nothing():
    decision = screen(LURE, policy(status=("owner: tests", "owner: tests\n    status: shadow")))
    assert (decision.action, decision.rules, decision.shadow) == ("allow", (), ("test.rule",))


def test_a_draft_is_not_run():
    decision = screen(LURE, policy(status=("owner: tests", "owner: tests\n    status: draft")))
    assert (decision.action, decision.shadow) == ("allow", ())


def test_what_hangs_on_something_unknown_is_not_applied_and_counted():
    with_clamd = policy(when=("when: suspicious", "when: clamd.infected"))
    assert screen(LURE, with_clamd).unsure == ("test.rule",)
    assert screen(LURE, with_clamd).action == "allow"
    assert screen(LURE, with_clamd, context=Context(clamd_infected=True)).action == "hold"
    assert screen(LURE, with_clamd, context=Context(clamd_infected=False)).unsure == ()


class Scores:
    tiers = ("linear",)
    cut_short = False
    passages = MappingProxyType({})

    def __init__(self, phish):
        self.by_head = dict.fromkeys(
            ("hate", "toxic", "threat", "sexual", "gambling", "drugs", "weapons", "extremism", "spam"), 0.01
        ) | {"phish": phish}


class BegunTexts(NamedTuple):
    waiting: range


class Models:
    digest = "model@sha256:0"

    def __init__(self, phish):
        self.phish, self.asked, self.foreign = phish, [], []

    def begin(self, texts):
        self.asked += texts
        return BegunTexts(waiting=range(len(texts)))

    def score_foreign(self, texts):
        self.foreign += texts
        return [ModelBankScores({"spam": 0.8765}, ("spam",)) for _ in texts]

    def finish(self, begun, *, hurried=False):
        scores = [Scores(self.phish) for _ in begun.waiting]
        for each in scores:
            each.cut_short = hurried
        return scores


def test_a_threshold_is_per_tool_and_a_score_over_it_names_the_head():
    screener = Screener(policy(when=("when: suspicious", "when: over.phish")), Models(0.7))
    by_mail, by_sms = screener.screen([Case(LURE, "email"), Case(LURE, "telephony")])
    assert (by_mail.action, by_mail.heads, by_mail.tiers) == ("allow", (), ("tier0", "linear"))
    assert (by_sms.action, by_sms.heads) == ("hold", ("phish",))
    assert by_sms.scores[8] == 0.7


def test_a_verdict_says_that_slower_models_were_not_waited_for():
    begun = Screener(policy(), Models(0.2)).begin([Case(LURE, "email")])
    begun.ask_models(hurried=True)
    (decision,) = begun.decisions()
    assert decision.degraded == ("models-busy",)


def test_models_are_asked_the_normal_text_and_only_the_one_of_spam_about_other_languages():
    models = Models(0.2)
    german = "bitte prüfen sie die rechnung und den vertrag, der mit der post kommt"
    decisions = Screener(policy(), models).screen(
        [Case(message("V3rify the Ｐarcel and your bill"), "email"), Case(message(german), "email")]
    )
    assert (models.asked, models.foreign) == (["verify the parcel and your bill"], [german])
    assert decisions[0].degraded == ()
    assert (decisions[1].degraded, decisions[1].tiers, decisions[1].language) == (
        ("models-language",),
        ("tier0", "spam"),
        "de",
    )
    assert decisions[1].scores == (0.0,) * 9 + (0.8765,)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("die rechnung und der vertrag", "de"),
        ("зайдите на наш сайт и вы не пожалеете, для вас это всё на этой неделе бесплатно", "ru"),
    ],
)
def test_of_short_texts_and_of_languages_that_no_model_learnt_tier_0_alone_speaks(text, language):
    models = Models(0.2)
    (decision,) = Screener(policy(), models).screen([Case(message(text), "email")])
    assert (models.asked, models.foreign) == ([], [])
    assert (decision.tiers, decision.degraded, decision.language) == (("tier0",), ("models-language",), language)


def test_a_short_text_whose_language_cannot_be_told_is_judged_for_spam_as_if_it_were_english(policy_of_the_road):
    screener = Screener(policy_of_the_road, ModelBank.load(WEIGHTS))
    offer, bye, code = screener.screen(
        [
            Case(message(text), "telephony")
            for text in ("FreeMsg>XMAS TONES!Reply REAL 150p", "adios!", "Ihr Code 445566")
        ]
    )
    assert (offer.action, offer.heads, offer.tiers) == ("hold", ("spam",), ("tier0", "spam"))
    assert (bye.action, code.action) == ("allow", "allow")


def test_a_message_that_is_a_code_and_nothing_else_is_allowed(policy_of_the_road):
    screener = Screener(policy_of_the_road, ModelBank.load(WEIGHTS))
    codes = yaml.safe_load((Path(__file__).parent / "data" / "not_english.yaml").read_text("utf-8"))["codes"]
    decisions = screener.screen([Case(message(code), "telephony") for code in codes])
    assert [code for code, decision in zip(codes, decisions, strict=True) if decision.action != "allow"] == []
    (offer,) = screener.screen([Case(message("Claim ur prize code 4455 now! Txt WIN to 80488 150p/msg"), "telephony")])
    assert "spam" in offer.heads


def test_a_verdict_in_another_language_is_reached_again_from_its_own_features(policy_of_the_road):
    german = message("Jetzt anmelden und mit der neuen Methode von zu Hause aus reich werden, ohne Risiko und Arbeit!")
    (decision,) = Screener(policy_of_the_road, Models(0.2)).screen([Case(german, "email")])
    assert (decision.action, decision.heads) == ("hold", ("spam",))
    assert replay(statement(decision, policy_of_the_road), policy_of_the_road).differences == ()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("when: suspicious", "when: suspicous", "line 18, column 5: rules.0.when: unknown feature 'suspicous'"),
        ("when: suspicious", "when: links.count >", r"rules.0.when.*not an expression"),
        ("bank.lure and links.count", "suspicious", "line 7, column 3: definitions.suspicious: definitions in a circle"),
        ("'\\bparcel\\b'", "'(parcel'", "line 5, column 24: banks.lure.1: missing"),
        ("    when: suspicious\n", "", "give match, or when"),
        ("phish: {default: 0.9", "fish: {default: 0.9", "line 9, column 3: thresholds.fish"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_its_place(old, new, said):
    with pytest.raises(PolicyError, match=said):
        policy(change=(old, new))


def statement(decision, used, tool="email"):
    return {
        "policy": used.name, "engine": ENGINE, "tool": tool, "degraded": list(decision.degraded),
        "features": in_ten_thousandths(decision.features), "action": decision.action,
        "clauses": list(decision.clauses), "rules": list(decision.rules), "heads": list(decision.heads),
        "scores": scores_in_ten_thousandths(decision.scores),
    }  # fmt: skip


def test_a_verdict_is_reached_again_from_its_own_features(policy_of_the_road, violating_texts, clean_texts):
    models = Screener(policy_of_the_road, Models(0.4321))
    for text in [*clean_texts, *(item["text"] for item in violating_texts)]:
        for screener in (models, Screener(policy_of_the_road)):
            (decision,) = screener.screen([Case(message(text), "email")])
            signed = statement(decision, policy_of_the_road)
            assert replay(signed, policy_of_the_road).differences == ()
            again = examine(message(text), policy_of_the_road).values
            assert len(again) == len(policy_of_the_road.compiled.names)
            assert list(feature_differences(signed["features"], decision.features)) == []


def test_a_passage_that_models_find_worse_than_the_text_is_evidence(policy_of_the_road):
    harm = "All muslims are vermin and somebody should chase them out of the street."
    quiet = "The meeting about the new office was moved to Tuesday and the minutes follow by mail to all of you."
    text = "\n".join([quiet] * 8 + [harm] + [quiet] * 8)
    (decision,) = Screener(policy_of_the_road, ModelBank.load(WEIGHTS)).screen([Case(message(text), "email")])
    (found,) = [item for item in decision.evidence if item.rule == "score.hate"]
    assert (found.part, text[found.start : found.end]) == ("text[0]", harm)
    assert found.digest == sha256(harm.encode()).hexdigest()
    assert replay(statement(decision, policy_of_the_road), policy_of_the_road).differences == ()


def test_a_changed_verdict_does_not_replay(policy_of_the_road):
    decision = screen(message("Order fake passports today"), policy_of_the_road)
    signed = statement(decision, policy_of_the_road) | {"action": "allow"}
    assert replay(signed, policy_of_the_road).differences == ("action: signed allow, now block",)
    with pytest.raises(ReplayError, match="rests on other"):
        replay(signed | {"policy": "other"}, policy_of_the_road)


@pytest.fixture(scope="module")
def policy_of_the_road(policy):
    return policy


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("https://paypa1.com/x", {"brand-misspelt"}),
        ("https://paypal-login.example.com/", {"brand"}),
        ("https://www.paypal.com/signin", {"credential-path"}),
        ("https://paypal.de/", set()),
        ("https://amazonn.example.com", {"brand-misspelt", "brand"}),
        ("https://bit.ly/abc", {"shortener"}),
        ("https://my-shop.web.app/x", {"free-host"}),
        ("https://steam.example.top", {"brand", "suspicious-ending"}),
        ("https://stream.example.com", set()),
        ("now at secure-verify-4411.com/login", {"bare", "young-shape", "credential-path"}),
        ("https://user@evil.example/", {"user-info"}),
        ("https://a.example/r?url=https://b.example", {"redirect"}),
    ],
)
def test_sites_are_told_apart(policy, text, kinds):
    (link,) = links_in(text)
    assert policy.sites.kinds(link, host_of(link.url)) == kinds


def test_a_sender_who_poses_as_a_brand_is_seen(policy):
    poser = MailParts("", (TextPart("text", "hi"),), senders=(Correspondent("a@x.example", "PayPal Support"),))
    honest = MailParts("", (TextPart("text", "hi"),), senders=(Correspondent("a@paypal.com", "PayPal Support"),))
    assert screen(poser, policy).features["mail.name_is_other_brand"] == 1
    assert "mail.name_is_other_brand" not in screen(honest, policy).features


def test_a_shown_name_that_nests_without_end_is_screened_like_any_other(policy):
    nested = Correspondent("a@x.example", ":" * 3_000 + "@PayPal Support")
    assert screen(MailParts("", (TextPart("text", "hi"),), senders=(nested,)), policy).features


def test_a_signature_in_an_attachment_is_found(policy):
    page = b'<form action="https://collect.example/p"><input type="password"></form>'
    parts = MailParts("", (), (), (AttachmentPart("form.bin", "application/octet-stream", page),))
    assert "malware.signature" in screen(parts, policy).rules
