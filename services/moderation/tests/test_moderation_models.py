"""The learnt models: their features, their files and what they answer."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.models import HEADS, ModelBank, ModelFileError, spam
from moderation.models.bank import PASSAGES_MAX, with_spam
from moderation.models.features import Hasher
from moderation.models.linear import LINE_CHARACTERS_MAX, TEXT_CHARACTERS_MAX, LinearModel, lines_of
from moderation.models.manifest import SpamFigures
from moderation.models.weights import WEIGHTS
from moderation.models.wordpiece import WordPiece, plain_letters
from moderation.text import normalise

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "pay", "##ment", "the", "!", "woman", "re", "##pay"]
TEXTS = [
    "",
    "a",
    "!!! ...",
    "Your invoice 4711 is attached. Kind regards, Anna",
    "all of them are vermin and should be shot",
    "Your account is locked, verify your password at http://secure-login.top/a",
    "👩‍🦽 🤮 go home",
    "x" * 20_000,
]

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def bank() -> ModelBank:
    return ModelBank.load(WEIGHTS)


def lines(scores):
    return np.array([[one.by_head[head] for head in HEADS] for one in scores])


def read(texts):
    return [normalise(text).text for text in texts]


def test_every_text_gets_all_ten_heads_between_nought_and_one(bank):
    found = bank.score(read(TEXTS))
    assert len(found) == len(TEXTS)
    for one in found:
        assert tuple(one.by_head) == HEADS
        assert all(0 <= score <= 1 for score in one.by_head.values())
        assert one.tiers[0] == "linear"


def test_no_texts_have_no_scores(bank):
    assert bank.score([]) == []


def test_scores_do_not_depend_on_the_batch_or_its_order(bank):
    texts = read(TEXTS)
    together = lines(bank.score(texts))
    alone = np.concatenate([lines(bank.score([text])) for text in texts])
    backwards = lines(bank.score(texts[::-1]))[::-1]
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together - backwards).max() < 1e-5


def test_a_second_load_answers_the_same(bank):
    again = ModelBank.load(WEIGHTS)
    assert again.digest == bank.digest
    assert np.array_equal(lines(again.score(read(TEXTS))), lines(bank.score(read(TEXTS))))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=300), min_size=1, max_size=5))
def test_any_text_is_scored(bank, texts):
    found = lines(bank.score([text.lower() for text in texts]))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", ["linear.npz", "spam.npz", "encoder.onnx", "vocabulary.txt", "manifest.json"])
def test_a_file_that_is_missing_is_named(tmp_path, name):
    folder = shutil.copytree(WEIGHTS, tmp_path / "weights")
    (folder / name).unlink()
    with pytest.raises(ModelFileError, match=name):
        ModelBank.load(folder)


def test_every_file_with_another_digest_is_refused(tmp_path):
    folder = shutil.copytree(WEIGHTS, tmp_path / "weights")
    names = json.loads((folder / "manifest.json").read_text())["files"]
    assert names
    for name in names:
        file = folder / name
        genuine = file.read_bytes()
        file.write_bytes(genuine[:-1] + bytes([genuine[-1] ^ 1]))
        with pytest.raises(ModelFileError, match=f"{name}: SHA-256 is"):
            ModelBank.load(folder)
        file.write_bytes(genuine)


def test_a_manifest_with_other_heads_is_refused(tmp_path):
    folder = shutil.copytree(WEIGHTS, tmp_path / "weights")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["heads"] = list(reversed(manifest["heads"]))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelFileError, match="heads"):
        ModelBank.load(folder)


def test_the_digest_is_that_of_the_manifest(bank):
    assert bank.digest == hashlib.sha256((WEIGHTS / "manifest.json").read_bytes()).hexdigest()


def test_all_weights_together_stay_under_25_megabytes():
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 25e6


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("i hate all immigrants, they are vermin and should be shot", "hate"),
        ("you stupid asshole, shut the fuck up", "toxic"),
        ("your account has been suspended, verify your password at http://secure-login.top/a within 24 hours", "phish"),
        ("casino royal: 200 free spins and a 500 bonus, bet now and win the jackpot http://spin.top", "gambling"),
        ("winner!! you have won a 2000 prize, txt claim to 87121 now, cost 150p/msg", "spam"),
        ("selling cocaine and mdma, best quality, stealth shipping, dm me on telegram", "drugs"),
    ],
)
def test_plain_cases_are_caught_and_business_is_not(bank, policy, text, head):
    limit = policy.document.threshold(head, "widget")
    bad, good = bank.score([text, "your appointment with dr weber is on tuesday at 10:30. reply yes to confirm"])
    assert bad.by_head[head] >= limit > good.by_head[head]


def test_what_has_lines_or_is_long_is_a_letter_and_each_of_its_features_counts_once():
    reader, seen = spam.Reader(), []
    for text in ("call me", "re: offer\ncall me", "call " * 100):
        words, runs = next(reader.read([text]))
        assert len(words) == len(set(words.tolist()))
        assert len(runs) == len(set(runs.tolist()))
        seen.append(int(spam.columns_of([text])[0]))
    assert seen == [spam.SHORT, spam.LETTERS, spam.LETTERS]


def test_the_model_of_spam_is_asked_where_the_first_tier_is_not_sure_and_reads_each_text_alone():
    rng = np.random.default_rng(5)
    table = rng.integers(-127, 128, ((1 << spam.WORD_BITS) + (1 << spam.CHARACTER_BITS), 3)).astype(np.int8)
    figures = SpamFigures(gate=(-4, -4), own=(1, 1, 1), linear=(0.2, 0.2, 0.2), offset=(0, 0, 0))
    model = spam.SpamModel(table, np.ones(3, np.float32), np.zeros(3, np.float32), figures)
    texts = read(TEXTS)
    columns = np.full((len(texts), len(HEADS)), -5, np.float32)
    with_spam(model, columns, texts)
    assert (columns == -5).all()
    columns[:, -1] = -4
    with_spam(model, columns, texts)
    alone = [model.logits([text], np.array([-4], np.float32))[0] for text in texts]
    assert np.array_equal(columns[:, -1], alone)
    assert (columns[:, :-1] == -5).all()


def test_the_model_of_spam_is_asked_for_letters_and_for_short_texts_from_gates_of_their_own():
    table = np.zeros(((1 << spam.WORD_BITS) + (1 << spam.CHARACTER_BITS), 3), np.int8)
    figures = SpamFigures(gate=(2, -3), own=(1, 1, 1), linear=(0, 0, 0), offset=(0, 0, 0))
    model = spam.SpamModel(table, np.ones(3, np.float32), np.zeros(3, np.float32), figures)
    columns = np.full((3, len(HEADS)), 1, np.float32)
    columns[2, -1] = 2
    with_spam(model, columns, ["call me", "re: offer\ncall me", "re: offer\ncall me"])
    assert columns[:, -1].tolist() == [0, 1, 0]


def test_the_model_of_spam_knows_that_another_language_is_no_offer(bank, policy):
    written = yaml.safe_load((DATA / "not_english.yaml").read_text("utf-8"))
    limit = policy.document.threshold("spam", "email")
    said = bank.score_foreign([*written["honest"], *written["spam"]])
    assert {one.tiers for one in said} == {("spam",)}
    scores = [one.by_head["spam"] for one in said]
    assert max(scores[: len(written["honest"])]) < limit - 0.2
    assert min(scores[len(written["honest"]) :]) >= limit
    assert [bank.score_foreign([text])[0].by_head["spam"] for text in written["honest"]] == scores[
        : -len(written["spam"])
    ]


def test_the_second_tier_reads_what_the_first_is_not_sure_of_and_no_business(bank):
    bad, good = bank.score(
        ["all of them are vermin and should be shot", "your invoice is attached. kind regards, anna"]
    )
    assert bad.tiers == ("linear", "encoder")
    assert good.tiers == ("linear",)


def test_what_waits_for_the_second_tier_is_finished_later_and_elsewhere(bank):
    texts = read(TEXTS)
    begun = bank.begin(texts)
    assert begun.waiting
    assert set(begun.waiting) < set(range(len(texts)))
    with ThreadPoolExecutor(1) as threads:
        elsewhere = threads.submit(bank.finish, begun).result()
    assert np.array_equal(lines(elsewhere), lines(bank.score(texts)))


def own(rows, spans, place):
    begin, end = spans[place]
    return rows[begin:end].tolist()


def test_features_of_a_line_are_the_same_beside_other_lines():
    hasher = Hasher()
    alone = hasher.read(["pay the fee now"])
    beside = hasher.read(["something else", "pay the fee now", "", "mère"])
    assert own(beside.words, beside.word_spans, 1) == own(alone.words, alone.word_spans, 0)
    assert own(beside.runs, beside.run_spans, 1) == own(alone.runs, alone.run_spans, 0)


def test_a_line_has_its_words_and_the_pairs_between_them():
    read = Hasher().read(["pay the fee", "", "now"])
    assert [end - begin for begin, end in read.word_spans] == [5, 0, 1]


def plain_model(table):
    return LinearModel(table, np.ones(11, np.float32), np.zeros(11, np.float32))


@pytest.fixture(scope="module")
def table():
    return np.random.default_rng(3).integers(-127, 128, (1 << 17, 11)).astype(np.int8)


def test_a_line_that_came_before_adds_exactly_what_it_did(table):
    model = plain_model(table)
    campaign = [f"good day,\n\nyour order {number} is on its way.\nkind regards" for number in range(40)]
    fresh = [plain_model(table).logits([text])[0] for text in campaign]
    for _ in range(3):
        assert np.array_equal(model.logits(campaign), fresh)


def test_lines_are_forgotten_before_they_are_too_many(table):
    model = plain_model(table)
    many = ["\n".join(f"{letter}{number}" for number in range(400)) for letter in "abcdefghijklmnopqrstuvwxyz"]
    fresh = plain_model(table).logits(many)
    for _ in range(4):
        assert np.array_equal(np.concatenate([model.logits([text]) for text in many]), fresh)


def test_the_heaviest_feature_over_and_over_stays_a_whole_number():
    model = plain_model(np.full((1 << 17, 11), 127, np.int8))
    found = model.logits(["a" * 10_000, "x", "👩" * 3_000])
    assert np.isfinite(found).all()
    assert (found > 0).all()


def test_of_a_long_text_beginning_and_end_are_read():
    long = "first " * TEXT_CHARACTERS_MAX
    assert lines_of(f"{long} last words")[0].startswith("first first")
    assert lines_of(f"{long} last words")[-1].endswith("last words")
    assert lines_of("one\n\ntwo") == ["one", "", "two"]


def test_words_are_cut_into_the_longest_pieces():
    reader = WordPiece(PIECES)
    assert reader.read("The payment!", 16) == [2, 6, 4, 5, 7, 3]
    assert reader.read("repay", 16) == [2, 9, 10, 3]
    assert reader.read("payx", 16) == [2, 1, 3]


def test_of_too_many_pieces_three_quarters_come_from_the_beginning():
    found = WordPiece(PIECES).read("pay " * 50 + "the " * 50, 18)
    assert len(found) == 18
    assert found[1:13] == [4] * 12
    assert found[13:17] == [6] * 4


QUIET = "the meeting about the new office was moved to tuesday and the minutes follow by mail to all of you."
HARM = "all muslims are vermin and somebody should shoot them in the street."


@pytest.mark.parametrize("between", ["\n", " "])
def test_what_harms_is_found_among_much_that_does_not(bank, between):
    begun = bank.begin([between.join([QUIET] * 8 + [HARM] + [QUIET] * 8), between.join([QUIET] * 17), HARM])
    assert set(begun.whole) == {2}
    assert set(begun.passages) == {0}
    hidden, quiet, alone = bank.finish(begun)
    assert (hidden.tiers, quiet.tiers) == (("linear", "encoder"), ("linear",))
    assert 0.4 < hidden.by_head["hate"] < alone.by_head["hate"]
    assert quiet.by_head["hate"] < 0.1


def test_a_passage_is_read_once_and_says_the_same_again(bank):
    text = "\n".join([QUIET] * 8 + [f"{HARM} again and again."])
    first = bank.begin([text])
    said = bank.finish(first)
    second = bank.begin([text])
    assert (set(first.waiting), set(second.waiting)) == ({0}, set())
    assert bank.finish(second) == bank.finish(second, hurried=True) == said
    assert not said[0].cut_short


def test_without_time_a_passage_that_was_not_read_is_left_out_and_the_verdict_says_so(bank):
    begun = bank.begin(["\n".join([QUIET] * 8 + [f"{HARM} in the morning."])])
    (hurried,) = bank.finish(begun, hurried=True)
    assert (hurried.cut_short, hurried.tiers) == (True, ("linear",))


def test_a_passage_that_comes_again_in_a_text_takes_no_place_of_another(bank):
    begun = bank.begin(["\n".join([HARM] * 2 * PASSAGES_MAX + [QUIET] * 20 + [f"{HARM} {QUIET}"[:120]])])
    assert len(begun.passages[0]) == 2


@given(st.text(alphabet="ab.,; ", max_size=900))
def test_a_long_line_is_read_in_pieces_and_nothing_of_it_is_left_out(line):
    pieces = lines_of(line)
    assert " ".join(" ".join(pieces).split()) == " ".join(line.split())
    assert all(len(piece) <= LINE_CHARACTERS_MAX or " " not in piece.strip() for piece in pieces)


def test_emoji_are_read_by_their_names():
    assert plain_letters("CAFÉ 👩🏽") == "cafe  woman "
    assert WordPiece(PIECES).read("👩🏽", 8) == [2, 8, 3]


def test_the_runtime_of_the_encoder_keeps_no_device_id_and_no_events(tmp_path):
    """ONNX Runtime would note each session in a database in the user's cache folder, and send it to its maker."""
    load = "from moderation.models import ModelBank; from moderation.models.weights import WEIGHTS; ModelBank.load(WEIGHTS)"
    asked = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    subprocess.run([sys.executable, "-c", load], env=asked | {"HOME": str(tmp_path)}, check=True, timeout=50)
    assert list(tmp_path.rglob("*")) == []
