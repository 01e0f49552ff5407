"""How the command reaches services as the principal `operator`, and what it says when that does not work."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self

import httpx

from common.security.tokens import TokenIssuer
from waystation.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

OPERATOR = "operator"
TIMEOUT_SECONDS = 30.0
_NEXT_STEPS = {
    401: "the service does not know this stack's operator key; is it a service of this stack? waystation status",
    403: "the principal that asked may not do this; operators and reviewers have keys of their own",
    503: "wait until it is ready: waystation status",
}


class Doors(Protocol):
    """What is needed of a stack; `waystation.stack.Stack` has it."""

    def url(self, service: str, instance: int = 1) -> str:
        """The base URL of a service."""

    def identity_key(self, principal: str) -> Path:
        """The private key file of a principal."""


class RefusedError(CommandError):
    """A service answered, with a status that is no success."""

    def __init__(self, status: int, message: str, next_step: str = "") -> None:
        super().__init__(message, next_step)
        self.status = status


class ServiceClient:
    """Calls services of one stack; every answer that is no success becomes a CommandError.

    with ServiceClient(Stack.open()) as client:
        client.post("enforcement", "/v1/complaints", {"account_id": "a-1", "clause": "R3.a"})
    """

    def __init__(
        self, stack: Doors, *, principal: str = OPERATOR, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._stack = stack
        self._issuer = _issuer(stack, principal)
        self._http = httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close connections."""
        self._http.close()

    def get(self, service: str, path: str, params: Mapping[str, str | int | None] | None = None) -> Any:
        """Return the JSON answer of a GET; parameters that are None are left out."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        return self._call("GET", service, path, params=given)

    def post(
        self, service: str, path: str, body: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None
    ) -> Any:
        """Return the JSON answer of a POST."""
        headers = {} if idempotency_key is None else {"idempotency-key": idempotency_key}
        return self._call("POST", service, path, json=dict(body or {}), headers=headers)

    def post_mail(self, service: str, path: str, mail: bytes) -> Any:
        """Return the JSON answer of a POST of a mail as it is."""
        return self._call("POST", service, path, content=mail, headers={"content-type": "message/rfc822"})

    def download(self, service: str, path: str, file: Path, body: Mapping[str, Any] | None = None) -> int:
        """Write an answer to a file that only its owner may read, as it comes; return its size in bytes.

        With a body it is a POST, else a GET. A download that breaks off leaves what it has in `FILE.part`.
        """
        url, draft = self._stack.url(service) + path, file.with_name(f"{file.name}.part")
        with (
            self._translated(service, url),
            self._http.stream(
                "GET" if body is None else "POST",
                url,
                json=None if body is None else dict(body),
                headers=self._issuer.headers(service),
            ) as answer,
        ):
            if not answer.is_success:
                answer.read()
                _content(service, answer)
            with open(draft, "wb", opener=_for_owner_only) as target:
                target.writelines(answer.iter_bytes())
        draft.replace(file)
        return file.stat().st_size

    def _call(
        self, method: str, service: str, path: str, *, headers: Mapping[str, str] | None = None, **request: Any
    ) -> Any:
        url = self._stack.url(service)
        with self._translated(service, url):
            answer = self._http.request(
                method, url + path, headers={**(headers or {}), **self._issuer.headers(service)}, **request
            )
        return _content(service, answer)

    @contextmanager
    def _translated(self, service: str, url: str) -> Iterator[None]:
        """Turn what can happen on the way into a CommandError with the next step."""
        try:
            yield
        except httpx.TimeoutException as error:
            raise CommandError(
                f"{service} did not answer within {TIMEOUT_SECONDS:.0f} s",
                f"the request may have been done; look first, then repeat it. Its log: waystation logs {service}-1",
            ) from error
        except httpx.TransportError as error:
            raise CommandError(
                f"{service} cannot be reached at {url} ({type(error).__name__})",
                "see what runs: waystation status; start what is missing: waystation up",
            ) from error


def _for_owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _issuer(stack: Doors, principal: str) -> TokenIssuer:
    path = stack.identity_key(principal)
    try:
        return TokenIssuer.from_file(principal, path)
    except FileNotFoundError as error:
        name = principal.partition(".")[2]
        how = f"make one: waystation review enroll {name}" if name else "start the stack, it makes one: waystation up"
        raise CommandError(f"there is no {principal} key at {path}", how) from error
    except (OSError, ValueError, TypeError) as error:
        raise CommandError(f"the {principal} key at {path} cannot be read: {type(error).__name__}") from error


def _content(service: str, answer: httpx.Response) -> Any:
    document = _json(answer)
    if answer.is_success:
        return document
    problem = document if isinstance(document, dict) else {}
    detail = problem.get("detail") or answer.reason_phrase or "no reason given"
    raise RefusedError(
        answer.status_code,
        f"{service} refused ({answer.status_code}): {detail}",
        _NEXT_STEPS.get(answer.status_code, ""),
    )


def _json(answer: httpx.Response) -> Any:
    if not answer.content:
        return None
    try:
        return answer.json()
    except ValueError as error:
        if not answer.is_success:
            return None
        raise CommandError(
            f"{service_name(answer)} answered something that is not JSON", "does another program hold its port?"
        ) from error


def service_name(answer: httpx.Response) -> str:
    """Where an answer came from, as a person reads it."""
    return f"{answer.request.url.host}:{answer.request.url.port}"
