"""`waystation screen` and `waystation policy ...`, as far as they need no service: `python -m moderation.command`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from moderation.backtesting import Judges
from moderation.comparing import policy_changes
from moderation.examples import broken_examples
from moderation.explaining import explain
from moderation.features import FEATURES, HEADS
from moderation.mail import read_mail
from moderation.messages import case_of_file, case_of_line
from moderation.models import ModelBank, ModelFileError
from moderation.models.weights import WEIGHTS
from moderation.policy.errors import PolicyError
from moderation.policy.reading import read_policy
from moderation.replaying import ReplayError, content_differences, replay
from moderation.screening import Screener

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from moderation.domain import Decision
    from moderation.examination import Case
    from moderation.features import Feature

SHIPPED_POLICY = Path(__file__).parents[4] / "deploy" / "policies" / "road.yaml"
BATCH_MESSAGES = 256
_READ_BYTES = 1 << 20
_PROGRESS_SECONDS = 0.2

Input = tuple[Any, "Case", str | None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0, 1 for what is wrong with policy or input, 2 for wrong usage.

    It is 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (PolicyError, ModelFileError, ReplayError) as error:
        sys.stderr.write(f"error {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="waystation", description="Screening without services")
    commands = parser.add_subparsers(required=True)
    screen = commands.add_parser("screen", help="judge messages from standard input (JSON Lines) or mail files")
    screen.add_argument("--policy", type=Path, default=SHIPPED_POLICY, help="the policy file (%(default)s)")
    screen.add_argument("--eml", nargs="+", type=Path, metavar="FILE", help="mail files instead of standard input")
    screen.add_argument("--explain", action="store_true", help="for people: why, with the matching places")
    _add_models(screen)
    screen.set_defaults(run=_screen)
    _add_policy_commands(commands.add_parser("policy", help="policies as files").add_subparsers(required=True))
    again = commands.add_parser("replay", help="reach a verdict again from its own features")
    again.add_argument(
        "verdict", type=Path, nargs="?", help="a file with the verdict or its statement (default: input)"
    )
    again.add_argument("--policy", type=Path, nargs="+", default=[SHIPPED_POLICY], help="where its policy may be")
    again.add_argument("--eml", type=Path, help="the message as it was sent: its features are compared too")
    again.set_defaults(run=_replay)
    return parser


def _add_models(command: argparse.ArgumentParser) -> None:
    command.add_argument("--models", type=Path, default=WEIGHTS, help="the folder of weights (%(default)s)")
    command.add_argument("--no-models", action="store_true", help="tier 0 alone")


def _add_policy_commands(commands: Any) -> None:
    check = commands.add_parser("check", help="read a policy, run its examples, show what it is made of")
    check.add_argument("file", type=Path, nargs="?", default=SHIPPED_POLICY)
    check.set_defaults(run=_check)
    diff = commands.add_parser("diff", help="what differs between two policies")
    diff.add_argument("old", type=Path)
    diff.add_argument("new", type=Path)
    diff.set_defaults(run=lambda options: _tell(policy_changes(read_policy(options.old), read_policy(options.new))))
    backtest = commands.add_parser("backtest", help="two policies over messages (JSON Lines on standard input)")
    backtest.add_argument("new", type=Path, help="the policy to try")
    backtest.add_argument("--old", type=Path, default=SHIPPED_POLICY, help="the policy to compare with (%(default)s)")
    backtest.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    backtest.add_argument("--intake", action="store_true", help="messages of intake.messages, against their verdicts")
    backtest.add_argument("--messages", type=int, default=100_000, help="with --intake: at most so many (%(default)s)")
    backtest.add_argument("--hours", type=float, default=24.0, help="with --intake: of the last hours (%(default)s)")
    _add_models(backtest)
    backtest.set_defaults(run=_backtest)
    features = commands.add_parser("features", help="the names that expressions may use")
    features.set_defaults(run=lambda _: _tell(f"{f.name:<34} {f.kind:<7} {_unknown(f)} {f.meaning}" for f in FEATURES))
    why = commands.add_parser("explain", help="why messages on standard input are judged as they are")
    why.add_argument("--policy", type=Path, default=SHIPPED_POLICY)
    _add_models(why)
    why.set_defaults(run=_screen, explain=True, eml=None)


def _unknown(feature: Feature) -> str:
    return "may be unknown" if feature.unknown else "              "


def _tell(lines: Iterable[str]) -> int:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _check(options: argparse.Namespace) -> int:
    policy = read_policy(options.file)
    broken = list(broken_examples(policy))
    statuses = Counter(rule.status for rule in policy.document.rules)
    counted = ", ".join(f"{count} {status}" for status, count in statuses.items())
    _tell([policy.name, f"rules {counted}; patterns {policy.bank.size}; banks {len(policy.document.banks)}"])
    _tell(f"broken {line}" for line in broken)
    return 1 if broken else _tell(["all examples come out as written"])


def _backtest(options: argparse.Namespace) -> int:
    models = None if options.no_models else options.models
    if options.intake:
        from moderation.backtest_intake import backtest_intake  # noqa: PLC0415  needs the service's settings and Kafka

        return _tell(backtest_intake(options.new, models, options.workers, options.messages, options.hours).lines())
    judges = Judges(options.new, options.old, models, options.workers)
    return _tell(judges.of_lines(_lines_of(sys.stdin.fileno())).lines())


def _replay(options: argparse.Namespace) -> int:
    statement = _statement(options.verdict)
    policies = {policy.name: policy for policy in map(read_policy, options.policy)}
    if statement["policy"] not in policies:
        raise ReplayError(f"the verdict rests on {statement['policy']}; give its file with --policy")
    policy = policies[statement["policy"]]
    differences = list(replay(statement, policy).differences)
    if options.eml is not None:
        parts = read_mail(_content_of(options.eml))
        models = ModelBank.load(WEIGHTS) if statement["model"] else None
        differences += content_differences(statement, parts, policy, models)
    _tell(differences or [f"the same decision: {statement['action']} {', '.join(statement['clauses'])}".rstrip()])
    return 1 if differences else 0


class _Statement(BaseModel):
    """A verdict's statement, as far as it is needed to reach the decision again."""

    model_config = ConfigDict(extra="ignore", strict=True)

    action: str
    clauses: list[str]
    degraded: list[str]
    engine: str
    features: dict[str, int | str]
    heads: list[str]
    model: str | None
    policy: str
    rules: list[str]
    scores: dict[str, int]
    tool: Literal["email", "telephony", "widget", "form"]


def _statement(path: Path | None) -> dict[str, Any]:
    """Return the statement of the verdict in a file, or on standard input; raise ReplayError when it holds none."""
    source = path or "standard input"
    try:
        document = orjson.loads(_content_of(path) if path else sys.stdin.buffer.read())
    except orjson.JSONDecodeError as error:
        raise ReplayError(f"{source}: not JSON: {error}") from None
    for inner in ("verdict", "statement"):
        if isinstance(document, dict):
            document = document.get(inner, document)
    try:
        return _Statement.model_validate(document).model_dump()
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False, include_context=False)[0]
        field = ".".join(map(str, wrong["loc"])) or "the document"
        raise ReplayError(f"{source}: not a verdict: {field}: {wrong['msg']}") from None


def _content_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReplayError(f"{path}: cannot be read: {error.strerror}") from None


def _screen(options: argparse.Namespace) -> int:
    screener = Screener(read_policy(options.policy), None if options.no_models else ModelBank.load(options.models))
    inputs = _of_files(options.eml) if options.eml else _of_lines(sys.stdin.fileno())
    progress = _Progress()
    for batch in inputs:
        decisions = screener.screen([case for _, case, _ in batch])
        for (identity, case, problem), decision in zip(batch, decisions, strict=True):
            if options.explain:
                sys.stdout.write(explain(identity, case, decision, screener.policy, problem))
            else:
                sys.stdout.buffer.write(orjson.dumps(output(identity, decision, screener, problem)) + b"\n")
        sys.stdout.flush()
        progress.add(len(batch))
    progress.done()
    return 0


def output(identity: Any, decision: Decision, screener: Screener, problem: str | None) -> dict[str, Any]:
    """Return the line that is written for a message."""
    return {
        "id": identity,
        "action": decision.action,
        "clauses": decision.clauses,
        "heads": decision.heads,
        "scores": dict(zip(HEADS, decision.scores, strict=True)),
        "evidence": [
            {"rule": e.rule, "part": e.part, "start": e.start, "end": e.end, "digest": e.digest}
            for e in decision.evidence
        ],
        "rules": decision.rules,
        "tiers": decision.tiers,
        "language": decision.language,
        "policy": screener.policy.name,
        "model": screener.model,
        "degraded": [*decision.degraded, *([] if screener.model else ["models"])],
        **({"problem": problem} if problem else {}),
    }


def _of_files(paths: Iterable[Path]) -> Iterator[list[Input]]:
    files = list(paths)
    for start in range(0, len(files), BATCH_MESSAGES):
        yield [case_of_file(path) for path in files[start : start + BATCH_MESSAGES]]


def _lines_of(descriptor: int) -> Iterator[list[bytes]]:
    """Yield lines as they stand in the pipe, so that a line that is typed is answered at once."""
    rest = b""
    while block := os.read(descriptor, _READ_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        yield lines
    yield [rest]


def _of_lines(descriptor: int) -> Iterator[list[Input]]:
    first = 1
    for lines in _lines_of(descriptor):
        yield from _batches(lines, first)
        first += len(lines)


def _batches(lines: Sequence[bytes], first: int) -> Iterator[list[Input]]:
    written = [(number, line) for number, line in enumerate(lines, first) if line.strip()]
    for start in range(0, len(written), BATCH_MESSAGES):
        yield [_input(number, line) for number, line in written[start : start + BATCH_MESSAGES]]


def _input(number: int, line: bytes) -> Input:
    identity, case, problem = case_of_line(line)
    return identity, case, problem and f"line {number}: {problem}"


class _Progress:
    """A count and a rate on the terminal, when results go elsewhere."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty() and not sys.stdout.isatty()
        self._started = time.monotonic()
        self._told = 0.0
        self._count = 0

    def add(self, messages: int) -> None:
        self._count += messages
        if self._shown and time.monotonic() - self._told > _PROGRESS_SECONDS:
            self._told = time.monotonic()
            self._write("")

    def done(self) -> None:
        if self._shown:
            self._write("\n")

    def _write(self, end: str) -> None:
        seconds = max(1e-6, time.monotonic() - self._started)
        sys.stderr.write(f"\r{self._count:,} messages  {self._count / seconds:,.0f}/s{end}")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
