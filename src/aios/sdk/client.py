"""The clients: every system call as a method, with retries that cannot do harm. Know no kernel's inside.

A client takes a transport, or makes one for the kernel that `AIOS_URL` and `AIOS_KEY` name; without them it looks
into `$AIOS_HOME` for the kernel that runs there and its admin key, which is sent to that kernel only.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import uuid
from collections.abc import AsyncGenerator, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from aios.abi.calls import Effect, spec_of
from aios.abi.errors import AiosError, BadRequest, Full, Stopping, Unauthorized
from aios.abi.home import home_path as home_path
from aios.abi.messages import Chunk

from .calls import AsyncCalls, Calls
from .stream import AsyncStream, Final, Stream
from .transport import HTTP, NoKernel, Transport

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8420"
LONGEST_PAUSE = 60.0


def default_url() -> str:
    """`AIOS_URL`, else the address of the home's own kernel."""
    return os.environ.get("AIOS_URL") or _own_url()


def _own_url() -> str:
    """The address that the home's kernel wrote down when it started, else the usual one."""
    try:
        return str(json.loads((home_path() / "kernel.json").read_text())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_URL


def default_key(url: str | None = None) -> str | None:
    """`AIOS_KEY`, else the admin key in the home, if this user may read it.

    The home's key goes to the home's own kernel only: whoever answers elsewhere could keep it. Raises Unauthorized
    when `url`, or `AIOS_URL`, is another address.
    """
    if key := os.environ.get("AIOS_KEY"):
        return key
    try:
        key = (home_path() / "admin.key").read_text().strip()
    except OSError:
        return None
    asked, own = url or default_url(), _own_url()
    if asked.rstrip("/") != own.rstrip("/"):
        raise Unauthorized(
            f"there is no key for {asked}: the one in {home_path()} is for {own} only; set AIOS_KEY", code="no_key"
        )
    return key


class AsyncClient(AsyncCalls):
    """`async with AsyncClient() as client: await client.mem_write("…")`.

    A refusal (429, 503) or a broken connection is tried again up to `retries` times, but only when a second try
    cannot do anything twice: the call changes nothing, or it has an idempotency key. With `keyed` every call that
    changes something gets a key of its own. Raises the errors of `aios.abi.errors`, `NoKernel` when nobody listens.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        transport: Transport | None = None,
        retries: int = 2,
        keyed: bool = False,
    ) -> None:
        self._transport = transport or HTTP(url or default_url(), key or default_key(url))
        self._retries = retries
        self._keyed = keyed

    async def _call(
        self, kind: type[T], name: str, arguments: dict[str, Any], key: str | None, timeout: float | None
    ) -> T:
        given, key = _given(arguments), self._key_for(name, key)
        for attempt in range(self._retries + 1):
            try:
                return await self._transport.call(kind, name, given, key, timeout)
            except (NoKernel, Full, Stopping) as error:
                await self._pause(error, name, key, attempt)
        raise AssertionError("the last attempt returns or raises")

    def _stream(
        self, kind: type[T], name: str, arguments: dict[str, Any], key: str | None, timeout: float | None
    ) -> AsyncStream[Chunk, T]:
        return AsyncStream(self._pieces(kind, name, _given(arguments), self._key_for(name, key), timeout))

    async def _pieces(
        self, kind: type[T], name: str, given: dict[str, Any], key: str | None, timeout: float | None
    ) -> AsyncGenerator[Chunk | Final[T], None]:
        for attempt in range(self._retries + 1):
            is_begun = False
            try:
                async for piece in self._transport.stream(kind, name, given, key, timeout):
                    is_begun = True
                    yield piece
                return
            except (NoKernel, Full, Stopping) as error:
                if is_begun:
                    raise  # what was said cannot be unsaid
                await self._pause(error, name, key, attempt)

    def _key_for(self, name: str, key: str | None) -> str | None:
        spec = spec_of(name)
        if key is None and self._keyed and spec.module != "kernel" and spec.effect is not Effect.READ:
            return uuid.uuid4().hex
        return key

    async def _pause(self, error: AiosError, name: str, key: str | None, attempt: int) -> None:
        """Wait before the next attempt, or raise `error` when there must be none."""
        is_safe = key is not None or spec_of(name).effect in (Effect.PURE, Effect.READ)
        pause = error.retry_after if error.retry_after is not None else 0.1 * 2**attempt
        if not is_safe or attempt >= self._retries or pause > LONGEST_PAUSE:
            raise error
        await asyncio.sleep(pause * random.uniform(1.0, 1.25))  # never early; spread, so that not all come back at once

    async def fetch(self, method: str, path: str, body: Any = None) -> Any:
        """A page of the native HTTP surface that is no call (`/aios/v1/keys`, `/aios/v1/cores`, …)."""
        return await self._transport.fetch(method, path, body)

    def events(self, path: str = "/aios/v1/events") -> AsyncGenerator[Any, None]:
        """What happens in the kernel, as it happens."""
        return self._transport.events(path)

    async def aclose(self) -> None:
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Client(Calls):
    """The same calls for code that does not await; also inside a running event loop, such as a notebook's.

    Works on an event loop in a thread of its own, started with the first call and ended by `close`.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        transport: Transport | None = None,
        retries: int = 2,
        keyed: bool = False,
    ) -> None:
        self._transport = transport or HTTP(url or default_url(), key or default_key(url))
        self._client = AsyncClient(transport=self._transport, retries=retries, keyed=keyed)
        self._loop: asyncio.AbstractEventLoop | None = None

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`, done on this client's own loop. An interrupt (ctrl-C) cancels it."""
        self._refuse_deadlock(work)
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _refuse_deadlock(self, work: Coroutine[Any, Any, T]) -> None:
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            return
        if getattr(self._transport, "loop", None) is here:
            work.close()
            raise BadRequest("this client would wait for the very event loop it blocks; use AsyncClient here")

    def _started(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="aios-client", daemon=True).start()
        return self._loop

    def _call(self, kind: type[T], name: str, arguments: dict[str, Any], key: str | None, timeout: float | None) -> T:
        return self._run(self._client._call(kind, name, arguments, key, timeout))

    def _stream(
        self, kind: type[T], name: str, arguments: dict[str, Any], key: str | None, timeout: float | None
    ) -> Stream[Chunk, T]:
        return Stream(self._client._stream(kind, name, arguments, key, timeout), self._run)

    def fetch(self, method: str, path: str, body: Any = None) -> Any:
        """A page of the native HTTP surface that is no call (`/aios/v1/keys`, `/aios/v1/cores`, …)."""
        return self._run(self._client.fetch(method, path, body))

    def close(self) -> None:
        if self._loop is not None:
            self._run(self._client.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}
