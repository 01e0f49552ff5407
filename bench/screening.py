"""How fast messages are judged: tier 0 with 1,000 patterns and 100 rules, models, the hop, start-up, peers.

    make bench-screening [DATA=FOLDER]      writes bench/results/screening.json and the table in docs/screening.md

Rates of screening are CPU time of this process on one core, best of three rounds: other work on the machine counts
against them only where it takes the processor's caches. The hop is measured as time passes, on all cores, with Kafka,
PostgreSQL and the vault beside it. Peers judge the test split of the texts written for the project, and of DATA where
it is there. WITHOUT=hop,rspamd leaves out what takes minutes.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import screening_rspamd
import yaml
from report import RESULTS, Measure, machine, publish
from screening_hop import measure_hop

from moderation.examination import Case
from moderation.features import FEATURES
from moderation.mail import MailParts, TextPart
from moderation.mail.read import links_in
from moderation.models import ModelBank
from moderation.models.weights import WEIGHTS
from moderation.policy.reading import parse_policy, read_policy
from moderation.screening import Screener
from moderation.text.words import lexicon

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


HERE = Path(__file__).parent
SHIPPED = HERE.parent / "deploy" / "policies" / "road.yaml"
RESULT = RESULTS / "screening.json"
PAGE = HERE.parent / "docs" / "screening.md"
BEGIN, END = "<!-- make bench-screening: begin -->", "<!-- make bench-screening: end -->"
HELD_MAX = 1_000
PEERS = HERE.parent / ".venv-peers" / "bin" / "python"
TEXTS = HERE.parent / "services" / "moderation" / "tests" / "data"
MESSAGES, LETTERS, ROUNDS, SEED = 2_000, 200, 3, 7
HOP_MESSAGES = 15_000
PATTERNS, RULES, TEXT_CHARACTERS = 1_000, 100, 1_024
RATE = "messages/s"
Told = dict[str, dict[str, float]]
"""By peer: shares of violations caught, of clean business text flagged, of right answers, and messages a second."""


def main() -> None:
    """Measure everything, publish it, and write the page."""
    random.seed(SEED)
    without = set(os.environ.get("WITHOUT", "").split(","))
    texts = mix()
    with tempfile.TemporaryDirectory(prefix="waystation-bench-") as folder:
        scratch = Path(folder)
        scratch.chmod(0o755)
        busy = Measure("load average of the machine before", os.getloadavg()[0], "", note="of a quiet one: below 0.5")
        measures, screener = rates(texts[:MESSAGES])
        measures += [busy, *start_up(), Measure("memory of one screening process", resident_mib(), "MiB")]
        told, compared = peers(screener, scratch if "rspamd" not in without else None)
        if "hop" not in without:
            measures += measure_hop(texts[:HOP_MESSAGES], scratch)
    publish("Screening", [*measures, *(one for name, of in told.items() for one in of_peer(name, of))], RESULT)
    write_page([*page(measures), "", *peers_page(told, compared)])


def rates(texts: Sequence[str]) -> tuple[list[Measure], Screener]:
    """Return the rates on one core, and the screener as it is shipped."""
    words = [word for word in sorted(lexicon()) if 4 <= len(word) <= 9]
    clean, business = written("clean_business.yaml"), business_texts()
    synthetic = parse_policy(yaml.safe_dump(synthetic_policy(words)).encode())
    kilobytes = [case(kilobyte(clean)) for _ in range(MESSAGES)]
    real = [case(text) for text in texts]
    shipped = read_policy(SHIPPED)
    screener = Screener(shipped, ModelBank.load(WEIGHTS))
    letters = [case(letter(business)) for _ in range(LETTERS)]
    same = letter(business)[:1900]
    campaign = [case(f"Good day, customer {number},\n\n{same}") for number in range(LETTERS)]
    own = f"{len(shipped.document.rules)} rules, {shipped.bank.size} patterns, {len(FEATURES)} features"
    engine = shipped.bank.backend
    measures = [
        *speed("tier 0, 1,000 patterns and 100 rules, 1 KB", Screener(synthetic), kilobytes, 50_000, engine),
        *speed("tier 0, shipped policy, 1 KB", Screener(shipped), kilobytes, None, own),
        *speed("tier 0, shipped policy, realistic mix", Screener(shipped), real, None, own),
        *speed("cascade, realistic mix", screener, real, 2_000, "95 % clean business text", shares=True),
        *speed("cascade, letters of 2 KB", screener, letters, None, "each its own"),
        *speed("cascade, campaign of 2 KB", screener, campaign, None, "one letter to many"),
        *single(screener, real),
    ]
    return measures, screener


def written(name: str) -> list[Any]:
    """Return texts of the tests."""
    found: list[Any] = yaml.safe_load((TEXTS / name).read_text("utf-8"))
    return found


def mix() -> list[str]:
    """Return messages of the realistic mix, as many as the hop takes."""
    clean, business = written("clean_business.yaml"), business_texts()
    bad = [one["text"] for one in written("violating.yaml")]
    return [mixed(business, clean, bad) for _ in range(HOP_MESSAGES)]


def page(measures: Sequence[Measure]) -> Iterator[str]:
    """Yield what was measured, but for the peers."""
    of = machine()
    yield (
        f"{of['cores']} cores of {of['cpu']}, {of['memory_mib']:,} MiB, Python {of['python']}. Rates of screening are "
        "of one core's CPU time, the hop is as time passes on all of them."
    )
    yield "\n| what | here | asked | |"
    yield "|---|---|---|---|"
    for one in measures:
        asked = "" if one.goal is None else f"{one.comparison} {one.goal:,.10g}{' (missed)' if one.missed else ''}"
        value = f"{one.value:,.0f}" if one.value >= 100 else f"{one.value:.3g}"
        yield f"| {one.name} | {value} {one.unit} | {asked} | {one.note} |"


def peers_page(told: Told, compared: str) -> Iterator[str]:
    """Yield the table of peers."""
    yield f"Beside others, {compared}"
    yield "\n| | texts | violations caught | clean business text flagged | accuracy | messages/s of CPU |"
    yield "|---|---|---|---|---|---|"
    for name, of in told.items():
        yield (
            f"| {name} | {of['texts']:,} | {of['violations_caught']:.1%} | {of['clean_business_flagged']:.2%} "
            f"| {of['accuracy']:.1%} | {of['messages_per_second']:,.0f} |"
        )


def write_page(lines: Sequence[str]) -> None:
    """Replace what stands between the markers of the page."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(before + "\n".join([BEGIN, *lines, END]) + rest.partition(END)[2], "utf-8")


def of_peer(name: str, of: dict[str, float]) -> list[Measure]:
    """Return what was told of a peer, or of ours, as measures."""
    note = f"of {of['texts']:,} texts"
    return [
        Measure(f"{name}: accuracy", 100 * of["accuracy"], "%", note=note),
        Measure(f"{name}: violations caught", 100 * of["violations_caught"], "%", note=note),
        Measure(f"{name}: clean business text flagged", 100 * of["clean_business_flagged"], "%", note=note),
        Measure(f"{name}: rate", of["messages_per_second"], RATE, note="of its CPU time"),
    ]


def synthetic_policy(words: Sequence[str]) -> dict[str, Any]:
    """Return 100 rules of ten patterns each: phrases, alternatives, endings and gaps as policies have them."""
    forms = ("\\b{} {}\\b", "\\b{}(s|ed|ing)? (the |your )?{}\\b", "\\b({}|{}) now\\b", "\\b{}\\b.{{0,40}}\\b{}\\b")
    rules = []
    for number in range(RULES):
        patterns = [random.choice(forms).format(*random.sample(words, 2)) for _ in range(PATTERNS // RULES)]
        rules.append(
            {
                "id": f"bench.rule-{number}", "clause": "R3.d", "tools": ["email"], "description": "bench",
                "action": "hold", "severity": 1, "owner": "bench", "matches": ["x"], "passes": ["x"],
                "match": {"patterns": {"any": patterns}}, "when": "text.characters > 10 and not disguise.spaced > 900",
            }
        )  # fmt: skip
    return {"id": "bench", "version": 1, "description": "bench", "rules": rules}


def kilobyte(texts: Sequence[str]) -> str:
    """Return ordinary business sentences, a quarter of them with a link, cut at 1,024 characters."""
    text = " ".join(random.sample(list(texts), 14)).encode("ascii", "ignore").decode()
    if random.random() > 0.25:
        text = text.replace("https://", "").replace("http://", "")
    return (text + " " * TEXT_CHARACTERS)[:TEXT_CHARACTERS]


def case(text: str) -> Case:
    return Case(MailParts("", (TextPart("text", text),), links_in(text)), "email")


def mixed(business: Sequence[str], alike: Sequence[str], bad: Sequence[str]) -> str:
    """Return a message of the realistic mix: 90 % business text, 5 % that resembles what is forbidden, 5 % that is."""
    draw = random.random()
    return random.choice(bad if draw < 0.05 else alike if draw < 0.1 else business)


def letter(texts: Sequence[str]) -> str:
    """Return business text of 2 KB in lines, with a number of its own."""
    lines = [f"Reference {random.randrange(10**9)}"]
    while sum(map(len, lines)) < 2 * TEXT_CHARACTERS:
        lines.append(random.choice(texts))
    return "\n".join(lines)[: 2 * TEXT_CHARACTERS]


@cache
def written_rows() -> list[Any]:
    """Return the texts written for the project that no model was trained on."""
    sys.path.insert(0, str(HERE.parent / "services" / "moderation"))
    from training.synthesis import synthetic_rows  # noqa: PLC0415  training is no package of the workspace

    return [row for row in synthetic_rows() if row.split == "test"]


def business_texts() -> list[str]:
    """Return what businesses send: codes, orders, appointments, office."""
    rows = written_rows()
    from training.corpus import is_clean  # noqa: PLC0415  written_rows made it importable

    return [row.text for row in rows if is_clean(row)]


def speed(
    name: str, screener: Screener, cases: Sequence[Case], goal: float | None, note: str, *, shares: bool = False
) -> list[Measure]:
    """Return how many messages a second one core judges, and what became of them."""
    best = float("inf")
    for _ in range(ROUNDS):
        before = time.process_time()
        decisions = [
            decision for start in range(0, len(cases), 256) for decision in screener.screen(cases[start : start + 256])
        ]
        best = min(best, time.process_time() - before)
    measures = [Measure(name, len(cases) / best, RATE, goal, ">=", f"{best / len(cases) * 1e6:.0f} us each; {note}")]
    if shares:
        stopped = sum(decision.action != "allow" for decision in decisions)
        deep = sum("encoder" in decision.tiers for decision in decisions)
        measures += [
            Measure(f"{name}: held or blocked", 100 * stopped / len(cases), "%"),
            Measure(f"{name}: to tier 2", 100 * deep / len(cases), "%"),
        ]
    return measures


def single(screener: Screener, cases: Sequence[Case]) -> list[Measure]:
    """Return what a message takes that is judged alone, in CPU time and as time passes."""
    spent, passed = [], []
    for one in cases:
        began, before = time.perf_counter_ns(), time.process_time_ns()
        screener.screen([one])
        spent.append((time.process_time_ns() - before) / 1e6)
        passed.append((time.perf_counter_ns() - began) / 1e6)
    spent.sort()
    passed.sort()
    at = len(spent) * 95 // 100
    return [
        Measure("one message alone, p50", spent[len(spent) // 2], "ms", note="CPU time"),
        Measure("one message alone, p95", spent[at], "ms", 10, "<=", "CPU time"),
        Measure("one message alone, longest", spent[-1], "ms", note="CPU time"),
        Measure("one message alone, p95 as time passes", passed[at], "ms"),
    ]


def peers(screener: Screener, scratch: Path | None) -> tuple[Told, str]:
    """Return what screening and each peer say of violations and of clean business text, and of which texts."""
    texts, bad = held_texts()
    before = time.process_time()
    decisions = [
        decision
        for start in range(0, len(texts), 256)
        for decision in screener.screen([case(text) for text in texts[start : start + 256]])
    ]
    spent = time.process_time() - before
    found = {"waystation": {"flags": [bool(one.heads) for one in decisions], "cpu_seconds": spent, "step": 1}}
    answer = subprocess.run(
        [PEERS, HERE / "screening_peers.py"], input=json.dumps(texts), stdout=subprocess.PIPE, text=True, check=True
    )
    found |= json.loads(answer.stdout)
    if scratch is not None and screening_rspamd.installed():
        found["rspamd"] = screening_rspamd.judged(texts, scratch)
    compared = (
        f"on {len(texts):,} texts that no model of ours was trained on, {sum(bad):,} of them violations (of all kinds: "
        "peers look for profanity or for spam). rspamd is as Debian installs it, without network, Redis and anything "
        "learnt, and its rules read headers that these texts do not have; the slower ones judge every so many texts."
    )
    return {name: told(one, bad) for name, one in found.items()}, compared


def held_texts() -> tuple[list[str], list[bool]]:
    """Return texts that no model was trained on, and whether each breaks a rule: known violations, known business."""
    rows = written_rows()
    from training.corpus import is_clean, read_rows  # noqa: PLC0415  written_rows made it importable

    data = Path(os.environ.get("DATA", "."))
    if (data / "dev.jsonl.gz").exists():
        rows = [*rows, *read_rows(data)]
    held = [row for row in rows if row.split == "test" and (row.positive or is_clean(row))]
    some = random.Random(SEED).sample(held, min(len(held), HELD_MAX))
    return [row.text for row in some], [bool(row.positive) for row in some]


def told(found: dict[str, Any], bad: Sequence[bool]) -> dict[str, float]:
    flags, truth = found["flags"], bad[:: found["step"]]
    caught = [flag for flag, true in zip(flags, truth, strict=True) if true]
    alarms = [flag for flag, true in zip(flags, truth, strict=True) if not true]
    return {
        "texts": len(flags),
        "violations_caught": round(sum(caught) / len(caught), 4),
        "clean_business_flagged": round(sum(alarms) / len(alarms), 4),
        "accuracy": round((sum(caught) + len(alarms) - sum(alarms)) / len(flags), 4),
        "messages_per_second": round(len(flags) / found["cpu_seconds"]),
    }


def start_up() -> list[Measure]:
    """Return what `waystation screen` takes for one message, the second time: patterns are compiled once per policy."""
    command = [sys.executable, "-m", "moderation.command", "screen"]
    for _ in range(2):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(command, input=b'{"text":"hello"}\n', stdout=subprocess.DEVNULL, check=True)
        passed, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [
        Measure("start of waystation screen with its first message", spent, "s", 3, "<=", "CPU time"),
        Measure("start of waystation screen as time passes", passed, "s"),
    ]


def resident_mib() -> float:
    """Return the most memory that this process had: both policies, the models and the texts."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
