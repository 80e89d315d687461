"""An answer that comes in pieces, for those who await and for those who do not. Knows no transport."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

C = TypeVar("C")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Final(Generic[T]):
    """The last thing a transport yields: the whole answer."""

    result: T


class AsyncStream(Generic[C, T]):
    """`async for piece in stream`, then `stream.result`. Leaving early (`aclose`, `async with`) cancels the call."""

    def __init__(self, source: AsyncGenerator[C | Final[T], None]) -> None:
        self._source = source
        self._final: Final[T] | None = None

    def __aiter__(self) -> AsyncStream[C, T]:
        return self

    async def __anext__(self) -> C:
        item = await anext(self._source)
        if isinstance(item, Final):
            self._final = item
            await self._source.aclose()
            raise StopAsyncIteration
        return item

    @property
    def result(self) -> T:
        """The whole answer. Raises ValueError while pieces are still to come."""
        if self._final is None:
            raise ValueError("the stream has not ended: read it to its end before you ask for its result")
        return self._final.result

    async def aclose(self) -> None:
        await self._source.aclose()

    async def __aenter__(self) -> AsyncStream[C, T]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class Stream(Generic[C, T]):
    """`for piece in stream`, then `stream.result`: an AsyncStream run elsewhere, by `run`, which waits for it."""

    def __init__(self, stream: AsyncStream[C, T], run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._stream = stream
        self._run = run

    def __iter__(self) -> Iterator[C]:
        while (piece := self._run(self._next())) is not None:
            yield piece

    async def _next(self) -> C | None:
        return await anext(self._stream, None)

    @property
    def result(self) -> T:
        return self._stream.result

    def close(self) -> None:
        self._run(self._stream.aclose())

    def __enter__(self) -> Stream[C, T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
