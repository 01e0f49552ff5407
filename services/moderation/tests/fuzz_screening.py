"""`make fuzz-screening MINUTES=10`: hypothesis looks for messages that crash screening or take it long.

It mixes, cuts and repeats the hostile messages and steers towards what takes most processor time. Prints a summary;
ends with 1 when something raised or took more than the limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from hostile_messages import MAILS, filled
from hypothesis import HealthCheck, Phase, given, settings, target
from hypothesis import strategies as st

from moderation.examination import Case
from moderation.mail import read_mail
from moderation.models import ModelBank
from moderation.models.weights import WEIGHTS
from moderation.policy.reading import read_policy
from moderation.screening import Screener

POLICY = Path(__file__).parents[3] / "deploy" / "policies" / "road.yaml"
SECONDS_MAX = 0.25
SEEDS = sorted(MAILS.values(), key=len)
EXAMPLES_OF_A_ROUND = 400


@st.composite
def messages(draw):
    """A message: one of the seeds, cut, spliced with others, pieces of it repeated, some bytes changed."""
    content = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["cut", "splice", "repeat", "change", "insert"]))
        at = draw(st.integers(0, max(0, min(len(content), 4_000))))
        if kind == "cut":
            content = content[:at] + content[at + draw(st.integers(0, 4_000)) :]
        elif kind == "splice":
            other = draw(st.sampled_from(SEEDS))
            content = content[:at] + other[draw(st.integers(0, min(len(other), 400))) :][:1_000_000]
        elif kind == "repeat":
            piece = content[at : at + draw(st.integers(1, 300))]
            content = (
                content[:at] + filled(piece, draw(st.sampled_from([1_000, 100_000, 700_000]))) if piece else content
            )
        elif kind == "change":
            content = content[:at] + draw(st.binary(min_size=1, max_size=8)) + content[at + 1 :]
        else:
            content = (
                content[:at] + draw(st.text(min_size=1, max_size=20)).encode("utf-8", "surrogatepass") + content[at:]
            )
    return content


class Fuzzing:
    """One screener, and what came of all messages so far."""

    def __init__(self):
        self.policy = read_policy(POLICY)
        self.screener = Screener(self.policy, ModelBank.load(WEIGHTS))
        self.figures = {"messages": 0, "bytes": 0, "longest_ms": 0.0, "over_limit": 0, "raised": 0}
        self.worst = b""

    def judge(self, content):
        """Judge one message and note what it took."""
        taken = self._seconds(content)
        if taken > SECONDS_MAX:
            taken = min(self._seconds(content) for _ in range(2))
        self.figures["messages"] += 1
        self.figures["bytes"] += len(content)
        self.figures["over_limit"] += taken > SECONDS_MAX
        if 1000 * taken > self.figures["longest_ms"]:
            self.figures["longest_ms"], self.worst = round(1000 * taken, 1), content
        return taken

    def _seconds(self, content):
        began = time.process_time()
        (decision,) = self.screener.screen([Case(read_mail(content), "email")])
        taken = time.process_time() - began
        assert decision.action in {"allow", "hold", "block"}
        return taken


def main():
    """Run for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--worst", type=Path, help="where the slowest message is written")
    options = parser.parse_args()
    fuzzing, ends, rounds = Fuzzing(), time.monotonic() + 60 * options.minutes, 0
    while time.monotonic() < ends:
        rounds += 1

        @settings(
            max_examples=EXAMPLES_OF_A_ROUND, deadline=None, database=None, suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.target],
        )  # fmt: skip
        @given(content=messages())
        def one_round(content):
            if time.monotonic() < ends:
                target(fuzzing.judge(content))

        try:
            one_round()
        except Exception as error:  # noqa: BLE001  what raised is the finding
            fuzzing.figures["raised"] += 1
            sys.stderr.write(f"raised: {type(error).__name__}: {error}\n")
    if options.worst:
        options.worst.write_bytes(fuzzing.worst)
    sys.stdout.write(json.dumps({"minutes": options.minutes, "rounds": rounds, **fuzzing.figures}) + "\n")
    return int(fuzzing.figures["raised"] > 0 or fuzzing.figures["over_limit"] > 0)


if __name__ == "__main__":
    sys.exit(main())
