"""Routes that only the principal `operator` may use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import Request  # noqa: TC002  FastAPI reads it at runtime

from common.http.problems import Problem
from common.security.tokens import TokenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from common.security.tokens import TokenVerifier

OPERATOR = "operator"


def principal_of(request: Request, verifier: TokenVerifier) -> str:
    """Return who sent a request.

    Raises:
        Problem: 401, the Authorization header proves nothing.
    """
    try:
        return verifier.principal(request.headers.get("authorization"))
    except TokenError as error:
        raise Problem(401, "unauthenticated", str(error), field="authorization") from None


def operator_only(verifier: TokenVerifier) -> Callable[[Request], None]:
    """Return the dependency of routes that answer the operator and nobody else."""

    def check(request: Request) -> None:
        require_operator(request, verifier)

    return check


def require_operator(request: Request, verifier: TokenVerifier) -> None:
    """Refuse a request that is not the operator's.

    Raises:
        Problem: 401 or 403.
    """
    principal = principal_of(request, verifier)
    if principal != OPERATOR:
        detail = f"principal {principal} may not do this; it needs an operator's token"
        raise Problem(403, "not-an-operator", detail, field="authorization")
