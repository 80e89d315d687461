"""The ASGI application: who may come in, and which route answers. Knows no call and no wire format.

The two busiest routes are found by a look at the path; all others by Starlette's router.
"""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from aios.abi.errors import AiosError, BadRequest, Denied, KernelFault, NotFound

from . import cores, embeddings, events, files, native, openai, openapi
from .errors import error_body, error_headers, refuse
from .exchange import JSON, Exchange, Receive, Scope, Send, encode
from .host import LocalNames, host_of

if TYPE_CHECKING:
    from aios.kernel import Kernel

log = logging.getLogger("aios.gateway")

CALLS = "/aios/v1/calls/"
HEALTH = frozenset({"/healthz", "/readyz"})
SHARED = "/aios/v1/shared/"


class Endpoint:
    """An ASGI application around a handler, so that Starlette's router can route to it."""

    def __init__(self, handler: Callable[..., Awaitable[None]]) -> None:
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handler(scope["aios.exchange"], **scope["path_params"])


def _routes() -> list[Route]:
    table: list[tuple[str, str, Callable[..., Awaitable[None]]]] = [
        ("GET", "/healthz", healthz),
        ("GET", "/readyz", readyz),
        ("GET", "/metrics", metrics),
        ("GET", "/openapi.json", openapi.show_openapi),
        ("GET", "/v1/models", openai.list_models),
        ("GET", "/v1/models/{model:path}", openai.get_model),
        ("POST", "/v1/chat/completions", openai.chat_completions),
        ("POST", "/v1/embeddings", embeddings.embeddings),
        ("POST", "/aios/v1/calls/{name}", native.run_call),
        ("GET", "/aios/v1/processes", native.list_processes),
        ("GET", "/aios/v1/processes/{pid}", native.get_process),
        ("POST", "/aios/v1/processes/{pid}/signal", native.signal_process),
        ("GET", "/aios/v1/events", events.Streams().answer),
        ("GET", "/aios/v1/cores", cores.list_cores),
        ("POST", "/aios/v1/cores", cores.add_core),
        ("GET", "/aios/v1/cores/{name}", cores.get_core),
        ("DELETE", "/aios/v1/cores/{name}", cores.remove_core),
        ("POST", "/aios/v1/cores/{name}/open", cores.open_core),
        ("POST", "/aios/v1/cores/{name}/drain", cores.drain_core),
        ("GET", "/aios/v1/check", native.check_home),
        ("GET", "/aios/v1/files/{path:path}", files.get_file),
        ("PUT", "/aios/v1/files/{path:path}", files.put_file),
        ("GET", "/aios/v1/shared/{token}", files.get_shared),
        ("GET", "/aios/v1/keys", native.list_keys),
        ("POST", "/aios/v1/keys", native.mint_key),
        ("DELETE", "/aios/v1/keys/{id}", native.revoke_key),
    ]
    paths = dict.fromkeys(path for _, path, _ in table)
    return [_route(path, {m: h for m, p, h in table if p == path}) for path in paths]


def _route(path: str, handlers: dict[str, Callable[..., Awaitable[None]]]) -> Route:
    async def handle(exchange: Exchange, **params: str) -> None:
        method = exchange.scope["method"]
        await handlers["GET" if method == "HEAD" else method](exchange, **params)

    return Route(path, Endpoint(handle), methods=list(handlers))


async def healthz(exchange: Exchange) -> None:
    """The process is alive."""
    await exchange.reply_json({"status": "ok"})


async def readyz(exchange: Exchange) -> None:
    """The kernel takes calls, and can record them."""
    fault = await exchange.kernel.why_not_ready()
    if fault is None:
        await exchange.reply_json({"status": "ready"})
    else:
        body = encode({"status": fault.code, "why": fault.message})
        await exchange.reply(503, body, JSON, error_headers(fault))


async def metrics(exchange: Exchange) -> None:
    from .metrics import show_metrics  # Prometheus' client is slow to load, and few kernels are ever asked

    await show_metrics(exchange)


class Gate:
    """Checks where a request was sent and whose key it carries, hands it on, and gives every error its shape."""

    def __init__(self, kernel: Kernel, address: str | None) -> None:
        self._kernel = kernel
        self._router = Router(routes=_routes(), redirect_slashes=False)
        self._ids = count(1)
        self._prefix = f"req_{secrets.token_hex(4)}"
        self._names = LocalNames(kernel.config.server.host, address)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(self._kernel, scope, receive, send, f"{self._prefix}{next(self._ids):x}")
        try:
            await self._answer(exchange)
        except AiosError as error:
            await refuse(exchange, error)
        except HTTPException as error:
            await self._refuse_http(exchange, error)

    async def _answer(self, exchange: Exchange) -> None:
        path = exchange.path
        exchange.check_headers()
        exchange.check_path()
        if not self._names.allow(exchange.header(b"host")):
            raise self._bad_host(exchange)
        if path not in HEALTH and not path.startswith(SHARED):
            exchange.principal = self._kernel.authenticate(exchange.key())
        if exchange.scope["method"] == "POST":
            if path == "/v1/chat/completions":
                return await openai.chat_completions(exchange)
            if path.startswith(CALLS) and "/" not in (name := path[len(CALLS) :]):
                return await native.run_call(exchange, name)
        scope = exchange.scope
        scope["aios.exchange"] = exchange
        scope["app"] = self  # tells the router to raise its refusals, which get their shape here
        await self._router(scope, exchange.receive, exchange.send)

    def _bad_host(self, exchange: Exchange) -> AiosError:
        host = exchange.header(b"host")
        if host is None or host_of(host) is None:
            said = "has no Host header" if host is None else f"has the Host header '{host[:100]}'"
            return BadRequest(f"the request {said}; it must be HOST or HOST:PORT", code="bad_host", param="Host")
        own = self._kernel.config.server.host
        own = f"[{own}]" if ":" in own else own
        return Denied(
            f"this kernel listens on this machine only and does not answer to the host '{host[:100]}'; "
            f"use http://{own}:PORT",
            code="bad_host",
        )

    async def _refuse_http(self, exchange: Exchange, error: HTTPException) -> None:
        """What the router refuses: 404 for a path, 405 for a method."""
        method, path = exchange.scope["method"], exchange.path[:200]
        if error.status_code == 404:
            missing = NotFound(f"there is no {path}; GET /openapi.json lists what there is", code="no_such_path")
            await refuse(exchange, missing)
            return
        refusal = BadRequest(f"{path} does not take {method}", code="method_not_allowed")
        headers = [(k.lower().encode(), v.encode()) for k, v in (error.headers or {}).items()]
        await exchange.reply(error.status_code, error_body(exchange.path, refusal), headers=headers)


async def _broken(request: Request, error: Exception) -> Response:
    """A bug of ours. The log says where, and never what was asked: messages of exceptions may quote it."""
    places = " < ".join(
        f"{frame.name} ({frame.filename.rsplit('/aios/', 1)[-1]}:{frame.lineno})"
        for frame in reversed(traceback.extract_tb(error.__traceback__)[-6:])
    )
    log.error("%s on %s %s at %s", type(error).__name__, request.method, request.url.path, places)
    fault = KernelFault("the kernel has a bug and could not answer; its log says where")
    return Response(error_body(request.url.path, fault), 500, media_type="application/json")


def create_app(kernel: Kernel, address: str | None = None) -> ASGIApp:
    """The kernel's HTTP surface, for a server that is bound to `address`: the configured host, unless told."""
    return ServerErrorMiddleware(Gate(kernel, address), handler=_broken)
