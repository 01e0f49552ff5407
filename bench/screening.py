"""How fast messages are judged, on one core: tier 0 with 1,000 patterns and 100 rules, models, peers, start-up.

    make bench-screening      writes bench/results/screening.json

CPU time of this process, best of three rounds: other work on the machine counts against it only where it takes the
processor's caches. Peers judge the test split of the texts written for the project, and of DATA where it is there.
"""

from __future__ import annotations

import json
import os
import platform
import random
import resource
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from moderation.features import FEATURES
from moderation.mail import MailParts, TextPart
from moderation.mail.read import links_in
from moderation.models import ModelBank
from moderation.models.weights import WEIGHTS
from moderation.policy.reading import parse_policy, read_policy
from moderation.screening import Case, Screener
from moderation.text.words import lexicon

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


HERE = Path(__file__).parent
SHIPPED = HERE.parent / "deploy" / "policies" / "road.yaml"
RESULT = HERE / "results" / "screening.json"
PAGE = HERE.parent / "docs" / "screening.md"
BEGIN, END = "<!-- make bench-screening: begin -->", "<!-- make bench-screening: end -->"
ASKED = {
    "tier0_1000_patterns_100_rules_1kb": "50,000", "tier0_shipped_policy_1kb": "",
    "tier0_shipped_policy_realistic_mix": "",
    "cascade_realistic_mix": "2,000", "cascade_letters_of_2kb": "", "cascade_campaign_of_2kb": "",
}  # fmt: skip
HELD_MAX = 1_000
PEERS = HERE.parent / ".venv-peers" / "bin" / "python"
TEXTS = HERE.parent / "services" / "moderation" / "tests" / "data"
MESSAGES, LETTERS, ROUNDS, SEED = 2_000, 200, 3, 7
PATTERNS, RULES, TEXT_CHARACTERS = 1_000, 100, 1_024


def main() -> None:
    random.seed(SEED)
    words = [word for word in sorted(lexicon()) if 4 <= len(word) <= 9]
    clean, bad = (
        yaml.safe_load((TEXTS / name).read_text("utf-8")) for name in ("clean_business.yaml", "violating.yaml")
    )
    synthetic = parse_policy(yaml.safe_dump(synthetic_policy(words)).encode())
    kilobytes = [case(kilobyte(clean)) for _ in range(MESSAGES)]
    business = business_texts()
    mix = [case(mixed(business, clean, [one["text"] for one in bad])) for _ in range(MESSAGES)]
    shipped = read_policy(SHIPPED)
    screener = Screener(shipped, ModelBank.load(WEIGHTS))
    letters = [case(letter(business)) for _ in range(LETTERS)]
    same = letter(business)[:1900]
    campaign = [case(f"Good day, customer {number},\n\n{same}") for number in range(LETTERS)]
    result = {
        "machine": {"python": platform.python_version(), "processor": processor(), "engine": shipped.bank.backend},
        "tier0_1000_patterns_100_rules_1kb": speed(Screener(synthetic), kilobytes),
        "tier0_shipped_policy_1kb": speed(Screener(shipped), kilobytes),
        "tier0_shipped_policy_realistic_mix": speed(Screener(shipped), mix),
        "cascade_realistic_mix": speed(screener, mix),
        "cascade_letters_of_2kb": speed(screener, letters),
        "cascade_campaign_of_2kb": speed(screener, campaign),
        "cascade_single_message_ms": single(screener, mix),
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "start_up": start_up(),
        "peers": peers(screener),
        "policy": {"rules": len(shipped.document.rules), "patterns": shipped.bank.size, "features": len(FEATURES)},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    PAGE.write_text(before + "\n".join([BEGIN, *page(result), END]) + rest.partition(END)[2], "utf-8")


def page(result: dict[str, Any]) -> Iterator[str]:
    """Yield the tables of docs/screening.md."""
    machine, start = result["machine"], result["start_up"]
    yield f"One core of {machine['processor']}, Python {machine['python']}, {machine['engine']}; CPU time."
    yield "\n| what is judged | asked, messages/s | messages/s | microseconds | stopped | to tier 2 |"
    yield "|---|---|---|---|---|---|"
    for name, asked in ASKED.items():
        of = result[name]
        yield (
            f"| {name.replace('_', ' ')} | {asked} | {of['messages_per_second']:,} | {of['microseconds']} "
            f"| {of['stopped_share']:.1%} | {of['tier2_share']:.1%} |"
        )
    alone = result["cascade_single_message_ms"]
    yield (
        f"\nOne message alone: half under {alone['p50']} ms, 95 % under {alone['p95']} ms (asked: 10), all "
        f"under {alone['max']} ms. Memory of the process {result['memory_mb']} MB; start of `waystation screen` with "
        f"its first message {start['cpu_seconds']} s of CPU (asked: 3)."
    )
    told = result["peers"]
    yield f"\nBeside others, on {told['texts']} texts not trained on, {told['violations']} of them violations:"
    yield "\n| | violations caught | clean business text flagged | accuracy | messages/s |"
    yield "|---|---|---|---|---|"
    for name in ("waystation", "alt-profanity-check", "better-profanity"):
        if name in told:
            of = told[name]
            yield (
                f"| {name} | {of['violations_caught']:.1%} | {of['clean_business_flagged']:.2%} | {of['accuracy']:.1%} "
                f"| {of['messages_per_second']:,} |"
            )
    yield "\nSpamAssassin and rspamd judge whole mails with their headers, which these texts are not: not measured."


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


def speed(screener: Screener, cases: Sequence[Case]) -> dict[str, float]:
    best = float("inf")
    for _ in range(ROUNDS):
        before = time.process_time()
        decisions = [
            decision for start in range(0, len(cases), 256) for decision in screener.screen(cases[start : start + 256])
        ]
        best = min(best, time.process_time() - before)
    stopped = sum(decision.action != "allow" for decision in decisions)
    deep = sum("encoder" in decision.tiers for decision in decisions)
    return {
        "messages_per_second": round(len(cases) / best), "microseconds": round(best / len(cases) * 1e6, 1),
        "stopped_share": round(stopped / len(cases), 4), "tier2_share": round(deep / len(cases), 4),
    }  # fmt: skip


def single(screener: Screener, cases: Sequence[Case]) -> dict[str, float]:
    times = []
    for one in cases:
        before = time.process_time_ns()
        screener.screen([one])
        times.append((time.process_time_ns() - before) / 1e6)
    times.sort()
    return {
        "p50": round(times[len(times) // 2], 3),
        "p95": round(times[len(times) * 95 // 100], 3),
        "max": round(times[-1], 3),
    }


def peers(screener: Screener) -> dict[str, Any]:
    """Return, for screening and for each peer, what it says of violations and of clean business text."""
    texts, bad = held_texts()
    before = time.process_time()
    decisions = [
        decision
        for start in range(0, len(texts), 256)
        for decision in screener.screen([case(text) for text in texts[start : start + 256]])
    ]
    spent = time.process_time() - before
    own = {"flags": [bool(decision.heads) for decision in decisions], "cpu_seconds": spent, "step": 1}
    result = {"texts": len(texts), "violations": sum(bad), "waystation": told(own, bad)}
    if not PEERS.exists():
        return {**result, "not_measured": "make bench-screening installs the peers in .venv-peers"}
    answer = subprocess.run(
        [PEERS, HERE / "screening_peers.py"], input=json.dumps(texts), stdout=subprocess.PIPE, text=True, check=True
    )
    return {**result, **{name: told(found, bad) for name, found in json.loads(answer.stdout).items()}}


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


def start_up() -> dict[str, float]:
    """CPU seconds of `waystation screen` for one message, the second time (patterns are compiled once per policy)."""
    command = [sys.executable, "-m", "moderation.command", "screen"]
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, input=b'{"text":"hello"}\n', stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)}


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
