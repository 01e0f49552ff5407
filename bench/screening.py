"""How fast messages are judged, on one core: tier 0 with 1,000 patterns and 100 rules, the shipped policy, start-up.

    make bench-screening      writes bench/results/screening.json

CPU time of this process, best of five rounds: other work on the machine does not count against it.
"""

from __future__ import annotations

import json
import platform
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from moderation.features import FEATURES
from moderation.mail import MailParts, TextPart
from moderation.mail.read import links_in
from moderation.policy.reading import parse_policy, read_policy
from moderation.screening import Case, Screener
from moderation.text.words import lexicon

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moderation.policy.reading import Policy

HERE = Path(__file__).parent
SHIPPED = HERE.parent / "deploy" / "policies" / "road.yaml"
RESULT = HERE / "results" / "screening.json"
TEXTS = HERE.parent / "services" / "moderation" / "tests" / "data"
MESSAGES, ROUNDS, SEED = 2_000, 5, 7
PATTERNS, RULES, TEXT_CHARACTERS = 1_000, 100, 1_024


def main() -> None:
    random.seed(SEED)
    words = [word for word in sorted(lexicon()) if 4 <= len(word) <= 9]
    clean, bad = (
        yaml.safe_load((TEXTS / name).read_text("utf-8")) for name in ("clean_business.yaml", "violating.yaml")
    )
    synthetic = parse_policy(yaml.safe_dump(synthetic_policy(words)).encode())
    kilobytes = [case(kilobyte(clean)) for _ in range(MESSAGES)]
    mix = [
        case(random.choice(clean) if random.random() < 0.95 else random.choice(bad)["text"]) for _ in range(MESSAGES)
    ]
    shipped = read_policy(SHIPPED)
    result = {
        "machine": {"python": platform.python_version(), "processor": processor(), "engine": shipped.bank.backend},
        "tier0_1000_patterns_100_rules_1kb": speed(synthetic, kilobytes),
        "shipped_policy_1kb": speed(shipped, kilobytes),
        "shipped_policy_realistic_mix": speed(shipped, mix),
        "single_message_ms": single(shipped, mix),
        "start_up": start_up(),
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "policy": {"rules": len(shipped.document.rules), "patterns": shipped.bank.size, "features": len(FEATURES)},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


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


def speed(policy: Policy, cases: Sequence[Case]) -> dict[str, float]:
    screener, best = Screener(policy), float("inf")
    for _ in range(ROUNDS):
        before = time.process_time()
        decisions = [
            decision for start in range(0, len(cases), 256) for decision in screener.screen(cases[start : start + 256])
        ]
        best = min(best, time.process_time() - before)
    stopped = sum(decision.action != "allow" for decision in decisions)
    return {
        "messages_per_second": round(len(cases) / best), "microseconds": round(best / len(cases) * 1e6, 1),
        "stopped_share": round(stopped / len(cases), 4),
    }  # fmt: skip


def single(policy: Policy, cases: Sequence[Case]) -> dict[str, float]:
    screener = Screener(policy)
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
