"""Content is opened by machines for screening, and by people only inside a case that they hold: every path, walked."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).parents[2]
CLIENT = "libs/common/src/common/http/vault.py"
FILES = sorted(
    path
    for folder in ("services", "libs", "examples")
    for path in (CHECKOUT / folder).rglob("*.py")
    if "tests" not in path.relative_to(CHECKOUT).parts and "/services/vault/" not in str(path)
)


class Place(NamedTuple):
    """Where something is called: file, innermost function, and the call."""

    path: str
    function: str
    call: ast.Call


def calls():
    """Every call in the code outside the vault."""
    for path in FILES:
        yield from _calls(ast.parse(path.read_text("utf-8")), str(path.relative_to(CHECKOUT)), "")


def _calls(node, path, function):
    for child in ast.iter_child_nodes(node):
        inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(child, ast.Call):
            yield Place(path, inside, child)
        yield from _calls(child, path, inside)


CALLS = list(calls())


def callee(call):
    """The last name of what is called: `open` of `vault.open(...)`."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def callers(name, under="services/moderation/src"):
    return {
        (place.path.removeprefix("services/moderation/src/moderation/"), place.function)
        for place in CALLS
        if callee(place.call) == name and place.path.startswith(under)
    }


def test_the_vault_is_asked_to_open_by_the_machine_for_screening_and_in_one_place_for_a_person_in_a_case():
    asked = {}
    for place in CALLS:
        if callee(place.call) == "OpenCall":
            asked[place.path, place.function] = {word.arg: ast.unparse(word.value) for word in place.call.keywords}
    review = asked.pop(("services/moderation/src/moderation/review/showing.py", "open_content"))
    assert (review["purpose"], review["case_id"]) == ("'review'", "str(row['case_id'])")
    assert ("services/moderation/src/moderation/handlers.py", "_ask") in asked
    for (path, _), given in asked.items():
        assert path.startswith("services/moderation/src/")
        assert (given["purpose"], "case_id" in given) == ("'screening'", False), path


def test_nobody_goes_around_the_client():
    told = [str(path.relative_to(CHECKOUT)) for path in FILES if "/v1/open" in path.read_text("utf-8")]
    assert [path for path in told if path not in {CLIENT, "libs/common/src/common/contracts/vault.py"}] == []


def test_a_person_sees_content_on_one_route_only_and_that_route_asks_for_his_claim_first():
    assert callers("open_content") == {("review/api.py", "open_case")}
    (route,) = (
        node
        for node in ast.walk(
            ast.parse((CHECKOUT / "services/moderation/src/moderation/review/api.py").read_text("utf-8"))
        )
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "open_case"
    )
    lines = {
        name: min(node.lineno for node in ast.walk(route) if isinstance(node, ast.Call) and callee(node) == name)
        for name in ("_reviewer", "open_content")
    }
    (claim,) = (node for node in ast.walk(route) if isinstance(node, ast.If))
    assert "claimed_by" in ast.unparse(claim.test)
    assert "claim_until" in ast.unparse(claim.test)
    assert isinstance(claim.body[0], ast.Raise)
    assert lines["_reviewer"] < claim.lineno < lines["open_content"]


def test_content_is_unsealed_only_where_the_vault_was_asked_for_its_key():
    """Keys are not passed on: who has one has asked for it, and is on the list above."""
    asking = {place.path for place in CALLS if callee(place.call) == "OpenCall"}
    unsealing = {place.path for place in CALLS if callee(place.call) == "unseal" and "/routing/" not in place.path}
    assert unsealing == asking
