"""How calls reach a kernel: over HTTP, or in the same program. Knows no agent, no retry and no kernel's inside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from io import IOBase
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from aios.abi.calls import Args, convert_args, spec_of
from aios.abi.errors import AiosError, BadRequest, TimedOut, Unauthorized, UpstreamFault, from_dict
from aios.abi.messages import Chunk

from .stream import Final

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
JSON = dict[str, Any]
GRACE = 5.0
"""Seconds that a client waits beyond a call's own time-out."""


class NoKernel(AiosError):
    """Nobody listens at the address."""

    status, fault, type, default_code = 503, "kernel", "connection_error", "no_kernel"


class ConnectionLost(NoKernel):
    """The connection broke while a call was under way: without an idempotency key its outcome is not known."""

    default_code = "connection_lost"


class Transport(Protocol):
    """Carries one call at a time, once: retries are the client's business. Raises the errors of `abi.errors`.

    `key` is the idempotency key. Cancelling the awaiting task cancels the call, unless it has a key.
    """

    async def call(self, kind: type[T], name: str, arguments: JSON, key: str | None, timeout: float | None) -> T: ...

    def stream(
        self, kind: type[T], name: str, arguments: JSON, key: str | None, timeout: float | None
    ) -> AsyncGenerator[Chunk | Final[T], None]: ...

    async def fetch(self, method: str, path: str, body: Any = None) -> Any:
        """A page of the native surface that is no call, as decoded JSON."""

    def events(self, path: str) -> AsyncGenerator[Any, None]:
        """A stream of server-sent events, each as decoded JSON."""

    async def close(self) -> None: ...


# ── over HTTP ────────────────────────────────────────────────────────────────────────────────────────


class HTTP:
    """A kernel at `url`. Connects when first used; keeps connections for the loop it is used on. Raises BadRequest when
    `url` is none."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = _address(url)
        self._key = key
        self._session: aiohttp.ClientSession | None = None

    async def call(self, kind: type[T], name: str, arguments: JSON, key: str | None, timeout: float | None) -> T:
        async with self._send("POST", f"/aios/v1/calls/{name}", arguments, key, timeout) as response:
            return msgspec.json.decode(await response.read(), type=kind)

    async def stream(
        self, kind: type[T], name: str, arguments: JSON, key: str | None, timeout: float | None
    ) -> AsyncGenerator[Chunk | Final[T], None]:
        accept = {"Accept": "text/event-stream"}
        async with self._send("POST", f"/aios/v1/calls/{name}", arguments, key, timeout, accept) as response:
            async for event, data in _sse(response.content):
                if event == "result":
                    yield Final(msgspec.json.decode(data, type=kind))
                elif event == "error":
                    raise _error(response.status, data, response.headers.get("retry-after"))
                else:
                    yield msgspec.json.decode(data, type=Chunk)

    async def fetch(self, method: str, path: str, body: Any = None) -> Any:
        async with self._send(method, path, body, None, None) as response:
            return msgspec.json.decode(await response.read() or b"null")

    async def events(self, path: str) -> AsyncGenerator[Any, None]:
        async with self._send("GET", path, None, None, None, {"Accept": "text/event-stream"}) as response:
            async for _, data in _sse(response.content):
                yield msgspec.json.decode(data)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp  # slow to load, and an in-process client never needs it

        if self._session is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(connector=connector, headers=headers)
        return self._session

    @asynccontextmanager
    async def _send(
        self, method: str, path: str, body: Any, key: str | None, timeout: float | None, more: JSON | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, if it is one; an error answer, a broken connection and a time-out are raised."""
        session = self._open()
        import aiohttp

        headers = {**(more or {}), **({"Idempotency-Key": key} if key else {})}
        data: Any = None
        if isinstance(body, IOBase):  # bytes of any length, sent as they are read
            data, headers["Content-Type"] = body, "application/octet-stream"
        elif body is not None:
            data, headers["Content-Type"] = msgspec.json.encode(body), "application/json"
        if timeout is not None:
            headers["X-AIOS-Timeout"] = f"{timeout:g}"
        # The kernel keeps the time; the client's own limit is for a kernel that does not answer any more.
        limit = aiohttp.ClientTimeout(total=timeout and timeout + GRACE, sock_connect=10)
        try:
            async with session.request(method, self.url + path, data=data, headers=headers, timeout=limit) as response:
                if response.status >= 400:
                    error = _error(response.status, await response.read(), response.headers.get("retry-after"))
                    raise self._keyless(error) if self._key is None and isinstance(error, Unauthorized) else error
                yield response
        except aiohttp.ClientSSLError as error:
            raise NoKernel(
                f"no kernel at {self.url} ({_reason(error)}): a kernel speaks http://, unless a proxy stands before it"
            ) from None
        except aiohttp.ClientConnectorError as error:
            raise NoKernel(f"no kernel at {self.url} ({_reason(error)}); start one with 'aios up'") from None
        except TimeoutError:
            raise TimedOut(f"{self.url}{path} did not answer in time", code="client_timeout") from None
        except aiohttp.ClientError as error:
            raise ConnectionLost(f"the connection to {self.url} broke during {path} ({_reason(error)})") from None
        except msgspec.DecodeError as error:
            raise UpstreamFault(f"what answers at {self.url}{path} is no kernel of this version: {error}") from None

    def _keyless(self, error: Unauthorized) -> Unauthorized:
        """The kernel said how to send a key; who uses a client is told how to give it one."""
        return Unauthorized(
            f"{self.url} wants a key and there is none: set AIOS_KEY to one that 'aios keys new NAME' prints there",
            code=error.code,
        )


def _address(url: str) -> str:
    """`url` as paths are added to it. Raises BadRequest when nothing could be sent there."""
    bare = url.rstrip("/")
    try:
        parts = urlsplit(bare)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or a bracketed address that is none
        is_one = False
    hint = "" if "://" in url else f"; did you mean 'http://{bare:.100}'?"
    if bare.endswith("/v1"):
        is_one, hint = False, f"; leave out /v1, which is for OpenAI's clients: {bare.removesuffix('/v1')}"
    if not is_one or any(c.isspace() or not c.isprintable() for c in url):
        raise BadRequest(f"{url!r:.200} is no address of a kernel, such as http://127.0.0.1:8420{hint}", code="bad_url")
    return bare


def _reason(error: Exception) -> str:
    cause = getattr(error, "os_error", None)
    text = getattr(cause, "strerror", None) or str(error)
    return "connection refused" if isinstance(cause, ConnectionRefusedError) else text or type(error).__name__


def _error(status: int, body: bytes, retry_after: str | None) -> AiosError:
    """The error that an answer tells of; also when what answered is no kernel."""
    try:
        told = msgspec.json.decode(body)
        if "why" in told:  # how a page for machines says it
            told["error"] = {"code": told["status"], "message": told["why"]}
        error = from_dict(status, told["error"])
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        text = body[:200].decode(errors="replace").strip()
        return UpstreamFault(f"HTTP {status} with no error of a kernel in it: {text or 'an empty body'}")
    if error.retry_after is None and (retry_after or "").replace(".", "", 1).isdigit():
        error.retry_after = float(retry_after or 0)
    return error


async def _sse(content: aiohttp.StreamReader) -> AsyncIterator[tuple[str, bytes]]:
    """(event, data) of each server-sent event; comments and ids are passed over."""
    event, data, rest = "message", [], b""
    async for part in content.iter_any():  # not by lines: the reader bounds their length
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].removeprefix(b" "))
            elif line.startswith(b"event:"):
                event = line[6:].strip().decode()
            elif not line and data:
                yield event, b"\n".join(data)
                event, data = "message", []


# ── in the same program ──────────────────────────────────────────────────────────────────────────────


class Call(Protocol):
    """A call under way, as much of it as this transport sees."""

    future: asyncio.Future[Any]


class KernelDoor(Protocol):
    """What this transport needs of a kernel; `aios.kernel.Kernel` fits."""

    def authenticate(self, key: str | None) -> Any: ...

    async def call(
        self, principal: Any, name: str, args: Args, *, key: str | None = None, timeout: float | None = None
    ) -> Any: ...

    def submit(
        self,
        principal: Any,
        name: str,
        args: Args,
        *,
        key: str | None = None,
        on_chunk: Callable[[Chunk], None] | None = None,
        timeout: float | None = None,
    ) -> Any: ...

    def cancel(self, call: Any, why: str = ...) -> None: ...


class InProcess:
    """A kernel in this program, for the holder of `key`. May be used from another event loop than the kernel's.

    `loop` is the kernel's event loop: the running one, unless told.
    """

    def __init__(self, kernel: KernelDoor, key: str | None, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._kernel = kernel
        self._key = key
        self.loop = loop or asyncio.get_running_loop()

    async def call(self, kind: type[T], name: str, arguments: JSON, key: str | None, timeout: float | None) -> T:
        args = _checked(name, arguments)
        answer: T = await self._there(self._ask(name, args, key, timeout))
        return answer

    async def _ask(self, name: str, args: Args, key: str | None, timeout: float | None) -> Any:
        principal = self._kernel.authenticate(self._key)
        return await self._kernel.call(principal, name, args, key=key, timeout=timeout)

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        """Await `work` on the kernel's loop, whichever loop this is."""
        if asyncio.get_running_loop() is self.loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop))

    async def stream(
        self, kind: type[T], name: str, arguments: JSON, key: str | None, timeout: float | None
    ) -> AsyncGenerator[Chunk | Final[T], None]:
        args = _checked(name, arguments)
        inbox: asyncio.Queue[Chunk | None] = asyncio.Queue()
        here = asyncio.get_running_loop()

        def put(item: Chunk | None) -> None:
            here.call_soon_threadsafe(inbox.put_nowait, item)

        async def begin() -> Call:
            principal = self._kernel.authenticate(self._key)
            call: Call = self._kernel.submit(principal, name, args, key=key, on_chunk=put, timeout=timeout)
            call.future.add_done_callback(lambda _: put(None))
            return call

        call = await self._there(begin())
        try:
            while (chunk := await inbox.get()) is not None:
                yield chunk
            yield Final(call.future.result())
        finally:
            if not call.future.done() and key is None:
                self.loop.call_soon_threadsafe(self._kernel.cancel, call, "the reader of the stream left")

    async def fetch(self, method: str, path: str, body: Any = None) -> Any:
        raise BadRequest(f"{path} is a page of the HTTP surface; in the same program ask the kernel itself")

    async def events(self, path: str) -> AsyncGenerator[Any, None]:
        await self.fetch("GET", path)
        yield

    async def close(self) -> None:
        """The kernel is its owner's to stop."""


def _checked(name: str, arguments: JSON) -> Args:
    # Through plain data, so that both transports refuse the same things with the same words.
    return convert_args(spec_of(name), msgspec.to_builtins(arguments))
