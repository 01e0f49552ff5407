"""Routes that are served without the framework's router, which costs more than many a request is worth.

A route whose path has no parameters, and whose endpoint takes the request alone and returns the response itself, leaves
the router nothing to solve: 64 calls instead of 331 a request. It stands in the application's description as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from fastapi.routing import APIRoute
from starlette.requests import Request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi import APIRouter, FastAPI
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

_SIGNATURE = {"request": "Request", "return": "Response"}

Routes = dict[tuple[str, str], APIRoute]
"""Routes by method and path."""


def serve_directly(app: FastAPI) -> FastAPI:
    """Serve what `include` finds fit for it before the router is asked; return the application."""
    app.state.direct = Routes()
    app.add_middleware(Direct, owner=app)
    return app


def include(app: FastAPI, router: APIRouter) -> None:
    """Add a router to an application that serves directly."""
    app.include_router(router)
    routes: Routes = app.state.direct
    for route in router.routes:
        if isinstance(route, APIRoute) and "{" not in route.path and route.endpoint.__annotations__ == _SIGNATURE:
            routes.update({(method, route.path): route for method in route.methods or ()})


class Direct:
    """ASGI middleware: calls the endpoint of a direct route; errors become what the application makes of them."""

    def __init__(self, app: ASGIApp, owner: FastAPI) -> None:
        self._app = app
        self._routes: Routes = owner.state.direct
        self._handlers = owner.exception_handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope, receive)
        try:
            response = await route.endpoint(request)
        except Exception as error:
            kinds = (kind for kind in type(error).__mro__[:-2] if kind in self._handlers)
            if (kind := next(kinds, None)) is None or kind is Exception:
                raise
            handler = cast("Callable[[Request, Exception], Awaitable[Response]]", self._handlers[kind])
            response = await handler(request, error)
            # Frames that hold the error by a name would keep it, themselves and the body until cycles are collected.
            error.__traceback__ = None
        await response(scope, receive, send)
