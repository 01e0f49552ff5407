"""`waystation verify` of files: what it reads, what it says, how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.security.signing import PURPOSES
from waystation.proof import PublishedKeys, check, read_parts
from waystation.proof.auditor import app as auditor
from waystation.proof.documents import UncheckableError

CHECKOUT = Path(__file__).parents[3]
VECTORS = CHECKOUT / "docs" / "vectors"
EXAMPLES = sorted((CHECKOUT / "contracts").glob("*/examples/*.json"))
_JUDGED = ("intake.message.", "screening.verdict.reached.", "screening.verdict.revised.", "routing.receipt.")
SIGNED = [path for path in EXAMPLES if path.parts[-3].startswith(_JUDGED)]
PROVED = (VECTORS / "handed-over.json").read_text("utf-8")


def verify(*arguments, keys=VECTORS / "keys", stdin=None):
    return CliRunner().invoke(auditor, ["verify", *map(str, arguments), "--keys", str(keys)], input=stdin)


def as_json(*arguments, **options):
    answer = verify(*arguments, "--json", **options)
    return answer.exit_code, json.loads(answer.stdout)


def kcat_line(path, offset=0):
    example = json.loads(path.read_text("utf-8"))
    body = json.dumps(example["body"])
    return json.dumps({"topic": "t", "partition": 1, "offset": offset, "key": example["key"], "payload": body})


def test_a_proved_document_says_what_is_proved_and_what_is_not():
    answer = verify(VECTORS / "handed-over.json")
    assert answer.exit_code == 0
    assert "handed over by smtp.default, reply 250" in answer.stdout
    assert "that the provider has it: a receipt proves that routing said so" in answer.stdout
    assert "give the mail with --mail" in answer.stdout


def test_a_later_word_on_the_verdict_is_told_and_what_is_not_there_too(tmp_path):
    answer = verify(VECTORS / "revised.json")
    assert answer.exit_code == 0
    assert "revision 1    proved   later allow: no clause (by a person, case 5f2b7c9e-" in answer.stdout
    assert "revision 2    proved   later block: R5.2 (by a list, address:9c1185a5c5e9fc54)" in answer.stdout
    assert "that no later word came: revision 2 is the last one here" in answer.stdout
    document = json.loads((VECTORS / "revised.json").read_text("utf-8"))
    del document["parts"][3]
    (tmp_path / "without.json").write_text(json.dumps(document))
    assert "revisions 1 are not among these" in verify(tmp_path / "without.json").stdout
    assert "that the verdict still holds: no later word on it" in verify(VECTORS / "handed-over.json").stdout


def test_a_revision_alone_is_proved_and_names_what_is_missing():
    path = CHECKOUT / "contracts/screening.verdict.revised.v1/examples/blocked-by-a-list.json"
    status, answer = as_json("-", keys=CHECKOUT / "contracts" / "keys", stdin=kcat_line(path))
    (message,) = answer["messages"]
    assert status == 0
    assert message["statements"][0]["says"] == "later block: R5.2 (by a list, url:9c1185a5c5e9fc54)"
    assert "that the content was screened: no verdict is proved" in message["not_proved"]
    assert "what was said before: revisions 1 are not among these" in message["not_proved"]


def test_the_mail_itself_is_compared(tmp_path):
    assert as_json(VECTORS / "handed-over.json", "--mail", VECTORS / "mail.eml")[0] == 0
    (tmp_path / "other.eml").write_bytes((VECTORS / "mail.eml").read_bytes() + b"\n")
    status, answer = as_json(VECTORS / "handed-over.json", "--mail", tmp_path / "other.eml")
    assert status == 1
    assert [one["refused"] and one["refused"]["code"] for one in answer["messages"][0]["statements"]] == [
        "other-content",
        None,
        None,
    ]


def test_a_refusal_ends_with_1_and_its_reason(tmp_path):
    document = json.loads(PROVED)
    document["parts"][2]["statement"]["state"] = "refused"
    (tmp_path / "changed.json").write_text(json.dumps(document))
    answer = verify(tmp_path / "changed.json")
    assert answer.exit_code == 1
    assert "REFUSED  changed-statement: the statement is not the one that was signed" in answer.stdout
    assert "1 refused" in answer.stdout


@pytest.mark.parametrize("path", SIGNED, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_the_golden_examples_of_the_contracts_are_proved(path):
    assert as_json(path, keys=CHECKOUT / "contracts" / "keys")[0] == 0


def test_records_as_kcat_prints_them_are_read_line_by_line():
    dump = "\n".join(kcat_line(path, number) for number, path in enumerate(SIGNED))
    status, answer = as_json("-", keys=CHECKOUT / "contracts" / "keys", stdin=dump)
    found = [one for message in answer["messages"] for one in message["statements"]]
    assert status == 0
    assert {one["purpose"] for one in found} == set(PURPOSES)
    assert {"t 1:0"} <= {one["found_in"] for one in found}
    bodies = "\n".join(json.dumps(json.loads(path.read_text("utf-8"))["body"]) for path in SIGNED)
    assert as_json("-", keys=CHECKOUT / "contracts" / "keys", stdin=bodies)[0] == 0


@pytest.mark.parametrize("name", ["capsule", "envelope", "content"])
def test_sealed_content_of_another_message_is_refused(name):
    example = json.loads(
        (CHECKOUT / "contracts/intake.message.admitted.v1/examples/outbound-email.json").read_text("utf-8")
    )
    example["body"]["sealed"][name] = "AAAA"
    status, answer = as_json("-", keys=CHECKOUT / "contracts" / "keys", stdin=json.dumps(example))
    assert status == 1
    assert answer["messages"][0]["statements"][0]["refused"]["code"] == "other-content"


def test_a_verdict_tells_that_the_instruction_beside_it_was_changed_or_given_another_proof():
    path = CHECKOUT / "contracts/screening.verdict.reached.v1/examples/allow.json"
    keys = PublishedKeys.from_folder(CHECKOUT / "contracts" / "keys")

    def code(change):
        body = json.loads(path.read_text("utf-8"))["body"]
        change(body["message"]["instruction"])
        (message,) = check(read_parts(json.dumps(body)), keys)
        return [str(one.refused.code) for one in message.checked if one.refused]

    other = json.loads((path.parents[2] / "intake.message.admitted.v1/examples/inbound-form.json").read_text("utf-8"))
    proof = other["body"]["instruction"]["proof"]
    assert code(lambda found: found["statement"].update(purpose="another")) == ["changed-statement"]
    assert code(lambda found: found.update(proof=proof)) in (["other-batch"], ["broken-path"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no signed statement"),
        ("[]", "no signed statement"),
        ("{}", "no signed statement"),
        ("no json", "line 1 is not JSON"),
        ('{"a": 1, "a": 2}', "the same name twice"),
        ('{"receipt": {"statement": {"sequence": 1.5}, "proof": {}}}', "floating-point"),
        ('{"receipt": {"statement": {"sequence": NaN}, "proof": {}}}', "floating-point"),
        ('{"receipt": {"statement": {"sequence": 1}, "proof": {}}}', "proof.key: Field required"),
        ('{"format": "waystation/proof/v9", "parts": []}', "this command reads waystation/proof/v1"),
        ('{"format": "waystation/proof/v1", "parts": [{"purpose": "wish"}]}', "purpose must be one of"),
        (PROVED.replace('"leaf"', '"leaves"'), "leaf is missing"),
        ('{"payload": "no json", "topic": "t", "partition": 0, "offset": 7}', "t 0:7: the payload is not JSON"),
    ],
)
def test_what_holds_no_proof_is_not_checkable(text, said):
    with pytest.raises(UncheckableError, match=said) as error:
        read_parts(text)
    assert error.value.exit_status == 2


def test_without_keys_nothing_is_checkable(tmp_path):
    with pytest.raises(UncheckableError, match="no public keys"):
        PublishedKeys.from_folder(tmp_path)
    (tmp_path / "receipt").mkdir()
    (tmp_path / "receipt" / "a.pem").write_text("no key")
    with pytest.raises(UncheckableError, match="cannot be read"):
        PublishedKeys.from_folder(tmp_path)
