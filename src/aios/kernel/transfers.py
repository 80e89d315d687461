"""Files that are longer than a call: sent and fetched as streams, under the checks of the calls that they stand for.

What is sent is taken in first, and named by an ordinary sto_write after its last byte: that call is short, on record
and done once under its key, and what was broken off never was a version. Knows no wire.
"""

from __future__ import annotations

import secrets
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from typing import NamedTuple, Protocol

from aios.abi.calls import Args, File, StoRead, StoWrite
from aios.abi.errors import Full, Stopping

from .process import Place, Principal, Process
from .storage import Opened as Opened
from .storage import Sent, Streams
from .syscall import Syscall

SMALL = 64 << 10
"""Bytes that are sent along with the call."""
LONG = 1 << 20
"""Bytes from which on a transfer is counted: it takes memory."""
MAX_EACH = 8
"""Long transfers of one task at the same time."""
MAX_ALL = 32
"""Of all, and once more of those who follow links."""
LINKS = "links"
"""Who they are, nobody knows."""


class Door(Protocol):
    """What transfers need of the kernel."""

    @property
    def is_ready(self) -> bool: ...

    def vet(self, principal: Principal, name: str, args: Args) -> Process:
        """Whose process asks. Raises what `submit` would, by who asks and for what."""

    def submit(
        self, principal: Principal, name: str, args: Args, *, key: str | None = None, timeout: float | None = None
    ) -> Syscall: ...

    async def wait(self, call: Syscall) -> File: ...


class Transfers:
    """Used on the event loop."""

    def __init__(self, kernel: Door, streams: Streams) -> None:
        self._kernel = kernel
        self._streams = streams
        self._long: Counter[Hashable] = Counter()

    async def put(
        self,
        principal: Principal,
        path: str,
        source: AsyncIterable[bytes],
        *,
        size: int = 0,
        base: int | None = None,
        key: str | None = None,
        timeout: float | None = None,
    ) -> Syscall:
        """Write `source` to the file at `path`: the sto_write that does it, submitted. `size` is how many bytes are
        announced. Raises what that call would, and what `source` raises; then nothing was written."""
        process = self._kernel.vet(principal, "sto_write", StoWrite(path=path, content="", base=base))
        whose = Place(process.owner, process.agent)
        self._streams.check(whose, path, size, base)
        incoming = aiter(source)
        head = await _head(incoming)
        if head.is_all:
            return self._submit(principal, _small(path, head.data, base), key, timeout)
        with self._counted(process.root.pid):
            mark = sha256(key.encode()).hexdigest()[:16] if key is not None else secrets.token_hex(8)
            sent = await self._streams.take_in(whose, path, _chained(head.data, incoming), mark)
        args = StoWrite(path=path, content="", base=base, upload=sent.name)
        return self._name(principal, whose, sent, args, key, timeout)

    def _name(
        self, principal: Principal, whose: Place, sent: Sent, args: StoWrite, key: str | None, timeout: float | None
    ) -> Syscall:
        is_submitted = False
        try:
            call = self._submit(principal, args, key, timeout)
            is_submitted = True
        finally:
            if not is_submitted and sent.is_first:
                self._streams.forget(whose, sent.name)
        assert call.future is not None
        call.future.add_done_callback(lambda _: self._ended(call, whose, sent.name))
        return call

    def _ended(self, call: Syscall, whose: Place, name: str) -> None:
        if not isinstance(call.error, Stopping):  # a call with a key then goes on at the next start
            self._streams.forget(whose, name)

    def _submit(self, principal: Principal, args: StoWrite, key: str | None, timeout: float | None) -> Syscall:
        return self._kernel.submit(principal, "sto_write", args, key=key, timeout=timeout)

    @asynccontextmanager
    async def get(self, principal: Principal, path: str, version: int | None = None) -> AsyncIterator[Opened]:
        """A version of a file, to be read as long as this is entered. Raises what sto_read would."""
        args = StoRead(path=path, version=version, length=0, encoding="base64")
        call = self._kernel.submit(principal, "sto_read", args)
        seen = await self._kernel.wait(call)
        whose = Place(call.process.owner, call.process.agent)
        async with self._streams.reading(whose, path, version or seen.version or None) as opened:
            with self._counted(call.process.root.pid, opened.size):
                yield opened

    @asynccontextmanager
    async def follow(self, token: str) -> AsyncIterator[Opened]:
        """What a link opens. Raises NotFound."""
        if not self._kernel.is_ready:
            raise Stopping("the kernel is stopping; try again when it is back", retry_after=5)
        async with self._streams.shared(token) as opened:
            with self._counted(LINKS, opened.size):
                yield opened

    @contextmanager
    def _counted(self, who: Hashable, size: int = LONG) -> Iterator[None]:
        """Raises Full when so many are under way that one more would take too much memory."""
        if size < LONG:
            yield
            return
        of_all = self._long[LINKS] if who == LINKS else self._long.total() - self._long[LINKS]
        if of_all >= MAX_ALL or (who != LINKS and self._long[who] >= MAX_EACH):
            raise Full(
                f"{MAX_ALL} files are being sent or fetched, or {MAX_EACH} by one agent; try again when some are done",
                code="too_many_transfers",
                retry_after=2,
            )
        self._long[who] += 1
        try:
            yield
        finally:
            self._long[who] -= 1
            if not self._long[who]:
                del self._long[who]


class _Head(NamedTuple):
    """What a stream begins with."""

    data: bytes
    is_all: bool


async def _head(source: AsyncIterator[bytes]) -> _Head:
    """More than a call carries along, or all of it."""
    parts: list[bytes] = []
    size = 0
    async for part in source:
        parts.append(part)
        size += len(part)
        if size > SMALL:
            return _Head(b"".join(parts), False)
    return _Head(b"".join(parts), True)


async def _chained(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for part in rest:
        yield part


def _small(path: str, data: bytes, base: int | None) -> StoWrite:
    try:
        return StoWrite(path=path, content=data.decode(), base=base)
    except UnicodeDecodeError:
        return StoWrite(path=path, content=b64encode(data).decode(), encoding="base64", base=base)
