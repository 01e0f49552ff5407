"""How the command calls services, and what a person reads when that fails."""

from __future__ import annotations

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from common.security.tokens import TokenVerifier
from waystation.errors import CommandError
from waystation.operator import ServiceClient


class OneStack:
    """A stack whose services are all at one address."""

    def __init__(self, folder, key):
        self.path = folder / "operator.pem"
        if key is not None:
            self.path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def url(self, service, instance=1):
        return f"http://127.0.0.1:9/{service}"

    def identity_key(self, principal):
        assert principal == "operator"
        return self.path


@pytest.fixture
def key():
    return Ed25519PrivateKey.generate()


def client(tmp_path, key, answer):
    return ServiceClient(OneStack(tmp_path, key), transport=httpx.MockTransport(answer))


def test_each_call_carries_a_token_of_the_operator_for_that_service(tmp_path, key):
    seen = []

    def answer(request):
        seen.append(request)
        return httpx.Response(200, json={"ok": True})

    with client(tmp_path, key, answer) as services:
        assert services.get("vault", "/v1/things", {"state": "open", "account": None}) == {"ok": True}
        assert services.post("enforcement", "/v1/x", {"a": 1}, idempotency_key="k") == {"ok": True}
    first, second = seen
    assert (
        TokenVerifier("vault", {"operator": key.public_key()}).principal(first.headers["authorization"]) == "operator"
    )
    assert str(first.url) == "http://127.0.0.1:9/vault/v1/things?state=open"
    assert second.headers["idempotency-key"] == "k"


def test_a_problem_document_becomes_one_readable_sentence(tmp_path, key):
    problem = {"type": "urn:x", "title": "Gone", "status": 404, "detail": "there is no complaint with this id"}
    services = client(tmp_path, key, lambda _: httpx.Response(404, json=problem))
    with pytest.raises(CommandError, match=r"enforcement refused \(404\): there is no complaint with this id"):
        services.get("enforcement", "/v1/complaints")


def test_an_answer_without_a_problem_document_is_told_by_its_status(tmp_path, key):
    services = client(tmp_path, key, lambda _: httpx.Response(500, text="Internal Server Error"))
    with pytest.raises(CommandError, match=r"vault refused \(500\)"):
        services.get("vault", "/v1/things")


def test_a_refused_token_says_that_the_service_may_belong_to_another_stack(tmp_path, key):
    services = client(tmp_path, key, lambda _: httpx.Response(401, json={"detail": "no"}))
    with pytest.raises(CommandError) as caught:
        services.get("vault", "/v1/things")
    assert "of this stack" in caught.value.next_step


def test_a_success_that_is_no_json_is_not_taken_for_one(tmp_path, key):
    services = client(tmp_path, key, lambda _: httpx.Response(200, text="<html>"))
    with pytest.raises(CommandError, match="not JSON"):
        services.get("vault", "/v1/things")


def test_a_service_that_is_down_gives_the_command_to_start_it(tmp_path, key):
    def refuse(request):
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(CommandError) as caught:
        client(tmp_path, key, refuse).get("routing", "/v1/doubt")
    assert "routing cannot be reached" in caught.value.message
    assert "waystation up" in caught.value.next_step


def test_a_silent_service_may_have_done_the_work(tmp_path, key):
    def hang(request):
        raise httpx.ReadTimeout("slow", request=request)

    with pytest.raises(CommandError) as caught:
        client(tmp_path, key, hang).post("routing", "/v1/doubt")
    assert "may have been done" in caught.value.next_step


def test_a_stack_that_never_started_has_no_operator_key(tmp_path):
    with pytest.raises(CommandError, match="no operator key"):
        ServiceClient(OneStack(tmp_path, None))


def test_a_broken_operator_key_is_no_traceback(tmp_path, key):
    stack = OneStack(tmp_path, key)
    stack.path.write_text("nonsense")
    with pytest.raises(CommandError, match="cannot be read"):
        ServiceClient(stack)
