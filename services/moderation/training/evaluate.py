"""Measure what is shipped on the development split: `python -m training.evaluate --data FOLDER --out FILE.md`.

The policy, signals and models together, through the `Screener` that the service runs; the tables replace what stands
between two marks of the page.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moderation.examination import Case
from moderation.mail import MailParts, TextPart
from moderation.mail.read import links_in
from moderation.models import HEADS, ModelBank
from moderation.policy.reading import read_policy
from moderation.screening import Screener
from training.augment import disguise
from training.corpus import CLEAN_SOURCES, Row, is_clean, read_rows, rows_by_hand
from training.synthesis import apart_rows, foreign_rows, synthetic_rows, texting_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from moderation.domain import Decision

    Flags = NDArray[np.bool_]
    Numbers = NDArray[np.float64]

TOOL_OF_CHANNEL = {"email": "email", "sms": "telephony", "telephony": "telephony", "voice": "telephony", "form": "form"}
HATE_FUNCTIONS = {
    "hate_statement", "hate_slur", "hate_threat", "hate_pronoun", "hate_rant", "counter", "negated", "neutral_identity",
    "reclaimed", "other_target", "object", "profanity", "hate_plain", "benign_plain", "counter_2", "target_2",
    "fn_derogate", "fn_slur", "fn_threat", "fn_reference", "fn_negated_hate", "fn_question_opinion", "fn_profane_hate",
    "fn_identity_neutral", "fn_negated_good", "fn_counter", "fn_other_targets", "fn_slur_other_sense",
}  # fmt: skip
MAIL, TEXT_MESSAGES = {"enron_spam", "spamassassin"}, {"uci_sms", "mendeley_sms"}
DISGUISES = ("invisible", "lookalike", "leet", "spaced", "swapped")
DISGUISED_MAX, HIDDEN_MAX, BATCH = 600, 300, 200
HONEST_AROUND = 8
BEGIN, END = "<!-- make eval: begin -->", "<!-- make eval: end -->"


class Judged(NamedTuple):
    """Rows and what screening says of them: [rows, heads] labels (1, 0, -1 unknown), scores, heads over threshold."""

    rows: Sequence[Row]
    labels: NDArray[np.int64]
    scores: Numbers
    over: Flags
    decisions: Sequence[Decision]

    def where(self, chosen: Iterable[bool]) -> Judged:
        """Return a part."""
        places = [place for place, wanted in enumerate(chosen) if wanted]
        some = [self.rows[place] for place in places], [self.decisions[place] for place in places]
        return Judged(some[0], self.labels[places], self.scores[places], self.over[places], some[1])

    @property
    def stopped(self) -> Flags:
        """What is held or blocked."""
        return np.array([decision.action != "allow" for decision in self.decisions])

    @property
    def right(self) -> Flags:
        """What every known head is right on."""
        flags: Flags = ((self.labels < 0) | (self.over == (self.labels == 1))).all(1)
        return flags


def main() -> None:
    """Judge the held rows once and write tables."""
    parser = argparse.ArgumentParser()
    for name in ("data", "weights", "policy", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    screener = Screener(read_policy(given.policy), ModelBank.load(given.weights))
    rows = [row for row in [*read_rows(given.data), *synthetic_rows(), *texting_rows()] if row.split != "train"]
    began = time.process_time()
    held = judged(screener, rows)
    spent = (time.process_time() - began) / len(rows)
    test = held.where(row.split == "test" for row in rows)
    deep = np.mean(["encoder" in decision.tiers for decision in held.decisions])
    lines = [
        BEGIN,
        f"Policy `{screener.policy.name[:23]}`, models `{str(screener.model)[:16]}`. {len(rows)} texts that no model",
        f"was trained on: {len(test.rows)} of the test split, the others chose the calibration. Thresholds and choices",
        "between models looked at both, so all figures flatter.",
        f"{spent * 1e6:.0f} us of CPU a text, {deep:.0%} reached tier 2 (half are abuse).",
        "",
        *_measures(screener, held, test),
        *_by_head(test),
        *_clean(held),
        *_foreign(screener),
        *_written_by_hand(screener),
        *_words_of_others(screener),
        *_sections(test),
        END,
    ]
    before, _, rest = given.out.read_text(encoding="utf-8").partition(BEGIN)
    given.out.write_text(before + "\n".join(lines) + rest.partition(END)[2], encoding="utf-8")
    print("\n".join(lines))


def judged(screener: Screener, rows: Sequence[Row]) -> Judged:
    """Screen rows as messages of the tool that their channel stands for."""
    decisions = list(_screened(screener, rows))
    labels = np.array([[row.label(head) for head in HEADS] for row in rows])
    over = np.array([[head in decision.heads for head in HEADS] for decision in decisions])
    return Judged(rows, labels, np.array([decision.scores for decision in decisions]), over, decisions)


def _screened(screener: Screener, rows: Sequence[Row], texts: Sequence[str] | None = None) -> Iterator[Decision]:
    written = texts or [row.text for row in rows]
    for begin in range(0, len(rows), BATCH):
        some = zip(rows[begin : begin + BATCH], written[begin : begin + BATCH], strict=True)
        yield from screener.screen([_case(row, text) for row, text in some])


def _case(row: Row, text: str) -> Case:
    return Case(MailParts("", (TextPart("text", text),), links_in(text)), TOOL_OF_CHANNEL.get(row.channel, "widget"))


def _measures(screener: Screener, held: Judged, test: Judged) -> Iterator[str]:
    yield _header("measure, asked (on private data), here, texts")
    hate, phish, spam = (HEADS.index(head) for head in ("hate", "phish", "spam"))
    functions = test.where(row.source == "hatemojibuild" or row.origin in HATE_FUNCTIONS for row in test.rows)
    functions = functions.where(functions.labels[:, hate] >= 0)
    right = functions.over[:, hate] == (functions.labels[:, hate] == 1)
    hateful = functions.labels[:, hate] == 1
    yield (
        f"| hate by functions, accuracy (hateful / not) | 82 % (- / 62 %) "
        f"| {right.mean():.1%} ({right[hateful].mean():.1%} / {right[~hateful].mean():.1%}) | {len(right)} |"
    )
    real = test.where(row.source != "synthetic" for row in test.rows)
    for head, asked in (("sexual", ".92"), ("hate", ".65"), ("threat", ".42"), ("toxic", ".40")):
        place = HEADS.index(head)
        average, known = average_precision(real.labels[:, place], real.scores[:, place])
        yield f"| average precision of {head} | {asked} | {average:.3f} | {known} |"
    short = held.where(row.source in TEXT_MESSAGES and row.label("spam") >= 0 for row in held.rows)
    true = short.labels[:, spam] == 1
    both = 2 * (short.over[:, spam] & true).sum() / (short.over[:, spam].sum() + true.sum())
    yield f"| F1 of spam in text messages | .96 | {both:.3f} | {len(true)} |"
    for name, place, share, asked, source in (
        ("spam mail caught at 0.2 % false", spam, 0.002, "92 %", MAIL),
        ("phishing caught at 1 % false", phish, 0.01, "80 %", None),
    ):
        some = held.where(row.source in source if source else row.channel in {"email", "sms"} for row in held.rows)
        known = some.where(some.labels[:, place] >= 0)
        recall = _recall_at(known.labels[:, place], known.scores[:, place], share)
        yield f"| {name} | {asked} | {recall:.1%} | {len(known.rows)} |"
    yield from _disguised(screener, test)
    yield from _hidden(screener, test)
    yield ""


def _recall_at(labels: NDArray[np.int64], scores: Numbers, false_share: float) -> float:
    """Return how many positives are above all but this share of the negatives."""
    limit = np.sort(scores[labels == 0])[::-1][int((labels == 0).sum() * false_share)]
    return float((scores[labels == 1] > limit).mean())


def average_precision(labels: NDArray[np.int64], scores: Numbers) -> tuple[float, int]:
    """Return the mean of precision over the positives, best score first (ties as one), and how many are known."""
    known = labels >= 0
    true, found = labels[known] == 1, scores[known]
    order = np.argsort(-found, kind="stable")
    ends = np.searchsorted(-found[order], -found[order], side="right")
    caught = np.cumsum(true[order])[ends - 1]
    return float((caught / ends)[true[order]].mean()), int(known.sum())


def _disguised(screener: Screener, test: Judged) -> Iterator[str]:
    caught = ((test.labels == 1) & test.over).any(1)
    some = test.where(flag and len(row.text) < 400 for flag, row in zip(caught, test.rows, strict=True))
    some = some.where(place < DISGUISED_MAX for place in range(len(some.rows)))
    before = (some.labels == 1) & some.over
    asked = dict(zip(DISGUISES, ("100 %", "100 %", "95 %", "95 %", "80 %"), strict=True))
    for kind in DISGUISES:
        random = Random(3)
        texts = [disguise(row.text, kind, random) for row in some.rows]
        again = [[head in decision.heads for head in HEADS] for decision in _screened(screener, some.rows, texts)]
        kept = (before & np.array(again)).any(1).mean()
        yield f"| caught although disguised: {kind} | {asked[kind]} | {kept:.1%} | {len(texts)} |"


def _hidden(screener: Screener, test: Judged) -> Iterator[str]:
    random = Random(3)
    honest = [row.text for row in test.rows if row.source in {"clinc150", "banking77"} and is_clean(row)]

    def among(rows: Sequence[Row]) -> Iterator[str]:
        for row in rows:
            around = random.sample(honest, HONEST_AROUND)
            yield ". ".join([*around[: HONEST_AROUND // 2], row.text, *around[HONEST_AROUND // 2 :]])

    for head in ("hate", "threat", "sexual"):
        place = HEADS.index(head)
        caught = (test.labels[:, place] == 1) & test.over[:, place]
        some = test.where(flag and len(row.text) < 200 for flag, row in zip(caught, test.rows, strict=True))
        some = some.where(number < HIDDEN_MAX for number in range(len(some.rows)))
        again = np.mean([head in one.heads for one in _screened(screener, some.rows, list(among(some.rows)))])
        yield f"| caught although among {HONEST_AROUND} honest sentences: {head} | | {again:.1%} | {len(some.rows)} |"
    clean = test.where(row.text in honest for row in test.rows)
    stopped = [one.action != "allow" for one in _screened(screener, clean.rows, list(among(clean.rows)))]
    yield f"| {HONEST_AROUND + 1} honest sentences, stopped | | {np.mean(stopped):.2%} | {len(stopped)} |"


def _by_head(test: Judged) -> Iterator[str]:
    yield _header(
        "head, known, true, AP, AP without synthetic, caught, missed, false alarms, passed, precision, recall"
    )
    real = np.array([row.source != "synthetic" for row in test.rows])
    for place, head in enumerate(HEADS):
        labels, over, scores = test.labels[:, place], test.over[:, place], test.scores[:, place]
        true, false = labels == 1, labels == 0
        cells = [int((kind & flag).sum()) for kind in (true, false) for flag in (over, ~over)]
        of_real = average_precision(labels[real], scores[real])[0] if (labels[real] == 1).sum() >= 3 else float("nan")
        yield (
            f"| {head} | {int((labels >= 0).sum())} | {int(true.sum())} | {average_precision(labels, scores)[0]:.3f} "
            f"| {of_real:.3f} | {' | '.join(map(str, cells))} | {cells[0] / max(cells[0] + cells[2], 1):.3f} "
            f"| {cells[0] / max(int(true.sum()), 1):.3f} |".replace("nan", "-")
        )
    yield ""


def _clean(held: Judged) -> Iterator[str]:
    yield _header("clean business text, texts, to tier 2, held or blocked: not for spam, held or blocked: spam alone")
    clean = held.where(map(is_clean, held.rows))
    for source in [*sorted(CLEAN_SOURCES), "synthetic", "all"]:
        some = clean.where(source in {row.source, "all"} for row in clean.rows)
        if not some.rows:
            continue
        stopped = some.stopped
        spam_alone = stopped & np.array([set(decision.heads) <= {"spam"} for decision in some.decisions])
        deep = np.mean(["encoder" in decision.tiers for decision in some.decisions])
        shares = f"{(stopped & ~spam_alone).mean():.2%} | {spam_alone.mean():.2%}"
        yield f"| {source} | {len(stopped)} | {deep:.1%} | {shares} |"
    yield ""


def _foreign(screener: Screener) -> Iterator[str]:
    yield _header("texts written in other languages, honest, of them stopped, spam, of it named so")
    held = judged(screener, [row for row in foreign_rows() if row.split != "train"])
    spam = HEADS.index("spam")
    languages = np.array([row.origin.partition("_")[2] for row in held.rows])
    stopped = held.stopped
    for language in [*sorted(set(languages)), "all"]:
        honest, bad = (
            ((languages == language) | (language == "all")) & (held.labels[:, spam] == kind) for kind in (0, 1)
        )
        caught = f"{held.over[bad, spam].mean():.1%}" if bad.any() else "-"
        yield f"| {language} | {honest.sum()} | {stopped[honest].mean():.1%} | {bad.sum()} | {caught} |"
    yield ""


def _written_by_hand(screener: Screener) -> Iterator[str]:
    yield _header("messages written one by one, honest, of them stopped, breaches, of them stopped, named as meant")
    held = judged(screener, rows_by_hand())
    stopped = held.stopped
    honest, meant = (held.labels == 0).all(1), (held.over & (held.labels == 1)).any(1)
    for tool in [*dict.fromkeys(row.channel for row in held.rows), "all"]:
        some = np.array([tool in {row.channel, "all"} for row in held.rows])
        breaches = some & ~honest
        counts = (some & honest, some & honest & stopped, breaches, breaches & stopped, breaches & meant)
        yield f"| {tool} | {' | '.join(str(int(chosen.sum())) for chosen in counts)} |"
    yield ""


def _words_of_others(screener: Screener) -> Iterator[str]:
    yield _header("learnt by no model, texts, stopped, of them blocked, right on every known head")
    held = judged(screener, apart_rows())
    for section in dict.fromkeys(row.origin for row in held.rows):
        some = held.where(row.origin == section for row in held.rows)
        blocked = np.array([decision.action == "block" for decision in some.decisions])
        shares = (some.stopped, blocked, some.right)
        yield f"| {section} | {len(blocked)} | {' | '.join(f'{share.mean():.1%}' for share in shares)} |"
    yield ""


def _sections(test: Judged) -> Iterator[str]:
    yield _header("texts written for the project, texts, right on every known head")
    for section in dict.fromkeys(row.origin for row in test.rows if row.source == "synthetic"):
        some = test.where(row.origin == section and row.source == "synthetic" for row in test.rows)
        yield f"| {section} | {len(some.rows)} | {some.right.mean():.1%} |"


def _header(names: str) -> str:
    cells = names.split(", ")
    return f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}"


if __name__ == "__main__":
    main()
