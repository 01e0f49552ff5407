"""Who knows one service knows five; and the rules that ruff, mypy and import-linter cannot see."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from common.kafka.topics import load_registry
from common.postgres.queries import parse_queries

CHECKOUT = Path(__file__).parents[2]
SERVICES = sorted(path.name for path in (CHECKOUT / "services").iterdir() if path.is_dir())
LIBRARIES = ("common", "waystation")
FILES = ("__init__", "__main__", "api", "app", "config", "domain", "errors", "openapi", "store")
OUTSIDE = {
    "asyncpg",
    "aiokafka",
    "faststream",
    "fastapi",
    "httpx",
    "logging",
    "os",
    "socket",
    "time",
    "pydantic_settings",
}
DRAWERS = {"utils", "util", "helpers", "helper", "manager", "managers", "core", "misc", "service", "models"}
README_PARTS = ("Purpose", "Consumes", "Produces", "API", "Tables", "Config", "Failure modes", "Run alone")
every_service = pytest.mark.parametrize("service", SERVICES)


def package(service):
    return CHECKOUT / "services" / service / "src" / service


@cache
def tree(path):
    return ast.parse(path.read_text("utf-8"))


def sources(*packages):
    """All modules of the packages named: services by their name, libraries by theirs."""
    for name in packages:
        folder = CHECKOUT / "libs" / name / "src" / name if name in LIBRARIES else package(name)
        yield from sorted(folder.rglob("*.py"))


def imported(path):
    """Full names of all modules that a file imports, wherever in the file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def places(paths, wrong):
    """Where a node is wrong, as `file:line`."""
    return [
        f"{path.relative_to(CHECKOUT)}:{node.lineno}" for path in paths for node in ast.walk(tree(path)) if wrong(node)
    ]


@every_service
def test_a_service_has_the_files_that_every_service_has(service):
    found = {path.stem for path in package(service).glob("*.py")}
    found |= {path.parent.name for path in package(service).glob("*/__init__.py")}  # a file that has become a folder
    assert set(FILES) - found == set()
    assert (package(service) / "queries.sql").is_file()
    assert (package(service) / "py.typed").is_file()
    assert (package(service) / "examples.yaml").is_file()


@every_service
def test_a_service_has_handlers_exactly_when_a_group_of_its_own_reads_a_topic(service):
    topics = load_registry(CHECKOUT / "deploy" / "topics.yaml").topics
    reads = any(reader.principal == service and reader.group_or_none for topic in topics for reader in topic.readers)
    assert (package(service) / "handlers.py").exists() == reads


@every_service
def test_a_service_has_migrations_and_tests(service):
    folder = package(service).parents[1]
    names = [path.name for path in sorted((folder / "migrations").iterdir())]
    assert names
    assert all(re.fullmatch(r"\d{4}_[a-z0-9_]+\.sql", name) for name in names)
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    assert list((folder / "tests").glob(f"test_{service}_*.py"))


@every_service
def test_a_readme_has_the_usual_parts(service):
    readme = package(service).parents[1] / "README.md"
    assert readme.is_file(), f"write {readme.relative_to(CHECKOUT)} with the parts {', '.join(README_PARTS)}"
    headings = re.findall(r"^## (.+)$", readme.read_text("utf-8"), re.MULTILINE)
    assert [part for part in README_PARTS if part not in headings] == []


@every_service
def test_every_named_query_has_a_description_and_a_user(service):
    text = "\n".join(path.read_text("utf-8") for path in sources(service))
    queries = parse_queries((package(service) / "queries.sql").read_text("utf-8"))
    assert queries
    assert [name for name, query in queries.items() if not query.startswith("-- ")] == []
    assert [name for name in queries if not re.search(rf"\b{name}\b", text)] == []


@every_service
def test_the_domain_knows_nothing_of_the_world_outside(service):
    roots = {name.partition(".")[0] for name in imported(package(service) / "domain.py")}
    assert roots & OUTSIDE == set()
    assert not places([package(service) / "domain.py"], lambda node: isinstance(node, ast.AsyncFunctionDef))


@every_service
def test_settings_are_read_where_the_service_is_built_and_nowhere_else(service):
    readers = {path.name for path in sources(service) if f"{service}.config" in set(imported(path))}
    assert readers <= {"app.py", "__main__.py", "backtest_intake.py"}, "each of these is a program's beginning"


def test_the_environment_is_read_by_settings_only():
    def reads(node):
        return isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "environb"}

    assert places(sources("common", *SERVICES), reads) == []


def test_services_and_the_library_print_nothing():
    def prints(node):
        return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"

    assert places(sources("common", *SERVICES), prints) == []


def test_aiokafka_and_faststream_are_used_by_the_library_only():
    users = [
        str(path.relative_to(CHECKOUT))
        for path in sources(*LIBRARIES, *SERVICES)
        for name in imported(path)
        if name.partition(".")[0] in {"aiokafka", "faststream"}
        and not str(path).startswith(str(CHECKOUT / "libs" / "common" / "src" / "common" / "kafka"))
    ]
    assert users == []


def test_nothing_is_a_drawer():
    names = [path for path in (CHECKOUT / "libs").rglob("src/**/*") if path.suffix in {"", ".py"}]
    names += [path for path in (CHECKOUT / "services").rglob("src/**/*") if path.suffix in {"", ".py"}]
    learnt = CHECKOUT / "services/moderation/src/moderation/models"
    assert [str(path) for path in names if path.stem in DRAWERS and path != learnt] == []


def test_our_own_code_is_never_mocked():
    tests = [path for folder in ("libs", "services", "tests") for path in (CHECKOUT / folder).rglob("test*/**/*.py")]
    assert [str(path) for path in tests if "unittest.mock" in set(imported(path))] == []
    assert places(tests, lambda node: isinstance(node, ast.ImportFrom) and node.module == "unittest") == []


def test_test_files_have_names_of_their_own():
    tests = [
        path for folder in ("libs", "services", "tests", "bench") for path in (CHECKOUT / folder).rglob("test_*.py")
    ]
    assert [name for name, count in Counter(path.name for path in tests).items() if count > 1] == []
    assert [str(path) for path in (CHECKOUT / "services").rglob("tests/__init__.py")] == []


IMPORT_ALL = """
import asyncio, gc, importlib, pkgutil, sys, threading, time

done = []
WORK = {"socket.__new__", "socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.posix_spawn"}


def hook(event, arguments):
    if watching and event in WORK:
        done.append(event)


sys.addaudithook(hook)
watching = False
watching = True
began = time.process_time()
package = importlib.import_module(sys.argv[1])
names = [m.name for m in pkgutil.walk_packages(package.__path__, sys.argv[1] + ".") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
seconds = time.process_time() - began
watching = False
loops = [o for o in gc.get_objects() if isinstance(o, asyncio.AbstractEventLoop)]
print(len(names), round(seconds, 2), sorted(set(done)), len(loops), threading.active_count())
assert not done and not loops and threading.active_count() == 1 and seconds < float(sys.argv[2])
"""
IMPORT_SECONDS_MAX = 2.0
"""CPU seconds, third-party packages included; about half a second on a quiet machine. The best of three runs counts."""


@pytest.mark.parametrize("name", [*LIBRARIES, *SERVICES])
def test_importing_does_no_work(name):
    """No socket, no process, no thread, no event loop: who imports a module has asked for nothing yet."""
    for _ in range(3):
        answer = subprocess.run(
            [sys.executable, "-c", IMPORT_ALL, name, str(IMPORT_SECONDS_MAX)],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        if answer.returncode == 0:
            return
    pytest.fail(answer.stdout + answer.stderr[-2000:])


TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".sql", ".json", ".ini", ".sh", ".txt", ".lock", ""}


def test_no_file_mentions_the_machine_it_was_written_on():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    files = [CHECKOUT / name for name in listed.stdout.splitlines() if Path(name).suffix in TEXT]
    trace = re.compile(r"/(?:work|root|home/[a-z]+)/(?:main|shared)\b|/tmp/[b]rief")
    assert [str(path) for path in files if path.is_file() and trace.search(path.read_text("utf-8", "replace"))] == []
