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
import weakref
from collections.abc import AsyncGenerator, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from aios.abi.calls import Effect, spec_of
from aios.abi.errors import AiosError, BadRequest, CutShort, Full, KernelFault, Stopping, Unauthorized
from aios.abi.home import home_path as home_path
from aios.abi.messages import Chunk

from .calls import AsyncCalls, Calls
from .files import AsyncFilePath, FilePath
from .memory import AsyncMemory, Memory
from .stream import AsyncStream, Final, Stream
from .transport import HTTP, NoKernel, Transport

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8420"
LONGEST_PAUSE = 60.0
CLOSE_SECONDS = 2.0
"""What closing the connections of a client may take."""
_REFUSALS = (NoKernel, Full, Stopping, CutShort)
"""What another try may mend."""


def default_url() -> str:
    """`AIOS_URL`, else the address of the home's own kernel."""
    return os.environ.get("AIOS_URL") or _own_url() or DEFAULT_URL


def _own_url() -> str | None:
    """The address that the home's kernel wrote down when it started. None when none runs."""
    try:
        return str(json.loads((home_path() / "kernel.json").read_text())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def default_key(url: str | None = None) -> str | None:
    """`AIOS_KEY`, else the admin key in the home, if this user may read it.

    The home's key goes to the home's own kernel only: whoever answers elsewhere could keep it. Raises Unauthorized
    when `url`, or `AIOS_URL`, is another address; NoKernel when neither is given and no kernel runs on the home: at the
    usual address may be another home's.
    """
    if key := os.environ.get("AIOS_KEY"):
        return key
    home, own, asked = home_path(), _own_url(), url or os.environ.get("AIOS_URL")
    if asked is None and own is None:
        raise NoKernel(f"no kernel runs on {home}; start one with 'aios up', or name one by AIOS_URL and AIOS_KEY")
    try:
        key = (home / "admin.key").read_text().strip()
    except OSError:
        return None
    if asked is not None and (own is None or asked.rstrip("/") != own.rstrip("/")):
        raise Unauthorized(
            f"there is no key for {asked}: the one in {home} is for {own or 'its own kernel'} only; set AIOS_KEY",
            code="no_key",
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
        attempt = 0
        while True:
            try:
                return await self._transport.call(kind, name, given, key, timeout)
            except AiosError as error:
                if not await self._may_try_again(error, name, key, attempt):
                    raise _told(error) from error.__cause__
            attempt += 1

    def _stream(
        self, kind: type[T], name: str, arguments: dict[str, Any], key: str | None, timeout: float | None
    ) -> AsyncStream[Chunk, T]:
        return AsyncStream(self._pieces(kind, name, _given(arguments), self._key_for(name, key), timeout))

    async def _pieces(
        self, kind: type[T], name: str, given: dict[str, Any], key: str | None, timeout: float | None
    ) -> AsyncGenerator[Chunk | Final[T], None]:
        attempt, is_begun = 0, False
        while True:
            try:
                async for piece in self._transport.stream(kind, name, given, key, timeout):
                    is_begun = True
                    yield piece
                return
            except AiosError as error:
                # What was said cannot be unsaid.
                if is_begun or not await self._may_try_again(error, name, key, attempt):
                    raise _told(error) from error.__cause__
            attempt += 1

    def _key_for(self, name: str, key: str | None) -> str | None:
        spec = spec_of(name)
        if key is None and self._keyed and spec.module != "kernel" and spec.effect is not Effect.READ:
            return uuid.uuid4().hex
        return key

    async def _may_try_again(self, error: AiosError, name: str, key: str | None, attempt: int) -> bool:
        """Wait before the next attempt. False when there must be none."""
        is_safe = key is not None or spec_of(name).effect in (Effect.PURE, Effect.READ)
        pause = error.retry_after if error.retry_after is not None else 0.1 * 2**attempt
        if not isinstance(error, _REFUSALS) or not is_safe or attempt >= self._retries or pause > LONGEST_PAUSE:
            return False
        await asyncio.sleep(pause * random.uniform(1.0, 1.25))  # never early; spread, so that not all come back at once
        return True

    async def fetch(self, method: str, path: str, body: Any = None) -> Any:
        """A page of the native HTTP surface that is no call (`/aios/v1/keys`, `/aios/v1/cores`, …)."""
        return await self._transport.fetch(method, path, body)

    @property
    def memory(self) -> AsyncMemory:
        """What the key's agent remembers."""
        return AsyncMemory(self)

    @property
    def files(self) -> AsyncFilePath:
        """The top of the files of the key's agent."""
        return AsyncFilePath(self)

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
        except AiosError as error:
            raise _told(error) from error.__cause__
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
            self._loop = loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="aios-client", daemon=True)
            thread.start()
            self._end = weakref.finalize(self, _end, self._client, loop, thread)
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

    @property
    def memory(self) -> Memory:
        """What the key's agent remembers."""
        return Memory(self)

    @property
    def files(self) -> FilePath:
        """The top of the files of the key's agent."""
        return FilePath(self)

    def close(self) -> None:
        if self._loop is not None:
            self._end()
            self._loop = None

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _end(client: AsyncClient, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Close `client` and end its loop; also for who left that to the end of the program."""

    async def close() -> None:
        try:
            await client.aclose()
        finally:
            loop.stop()

    asyncio.run_coroutine_threadsafe(close(), loop)
    if threading.current_thread() is not thread:
        thread.join(CLOSE_SECONDS)


def _told(error: AiosError) -> AiosError:
    """`error` without the way it came, which is no help to who called. A bug of the kernel's keeps it."""
    return error if isinstance(error, KernelFault) else error.with_traceback(None)


def _given(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}
