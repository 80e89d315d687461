"""What a tool is, and what tools need of their neighbours. Knows nothing about queues or worker processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeVar

import msgspec

from aios.abi.calls import ToolResult
from aios.abi.errors import TimedOut
from aios.abi.tools import ToolManifest

from ..clock import Clock, Timer

T = TypeVar("T")

MAX_RESULT = 1 << 20
"""Characters of a result that an agent gets."""


@dataclass(frozen=True, slots=True)
class Caller:
    """For whom a tool runs. Tools see this and never a key."""

    owner: str
    agent: str
    pid: int


class Tool(Protocol):
    """Something with a manifest that runs. Up to `manifest.max_instances` runs may be under way.

    `run` gets arguments that fit the manifest's schema. What the tool could not do is a result with
    `is_error`, for a model to read. Raises TimedOut past `manifest.timeout`, ModuleFault when the tool broke
    down. Cancelling ends what runs, whatever it is doing, before the cancellation leaves `run`.
    """

    @property
    def manifest(self) -> ToolManifest: ...

    async def run(self, caller: Caller, arguments: Mapping[str, Any]) -> ToolResult: ...


class Files(Protocol):
    """An agent's files, as the file tools need them. Text files only."""

    async def paths(self, owner: str, agent: str, limit: int) -> list[str]:
        """Of the newest `limit` files, in order."""

    async def over_texts(self, owner: str, agent: str, use: Callable[[Mapping[str, str], bool], T]) -> T:
        """What `use`, called in a thread, makes of contents by path, the newest file first. It is told whether that
        is all: some megabytes are, and no more."""

    async def read_text(self, owner: str, agent: str, path: str) -> str:
        """Raises NotFound."""


class Notes(Protocol):
    """An agent's memory, as `remember` and `recall` need it."""

    def remember(self, owner: str, agent: str, content: str) -> Awaitable[str]:
        """Keep `content`; its id."""

    async def over_lines(self, owner: str, agent: str, use: Callable[[Sequence[str], bool], T]) -> T:
        """What `use`, called in a thread, makes of what was kept, oldest first. It is told whether that is all: the
        newest of it is, some megabytes and no more."""


def result_of(value: Any) -> ToolResult:
    """What a function returned, as text for a model; what is not text is JSON, and in `data` as it was."""
    if isinstance(value, ToolResult):
        return value
    if value is None:
        return ToolResult(content="done")
    if isinstance(value, str):
        return ToolResult(content=cut(value))
    data = msgspec.to_builtins(value, str_keys=True, enc_hook=str)
    text = msgspec.json.encode(data).decode()
    return ToolResult(content=cut(text), data=data if len(text) <= MAX_RESULT else None)


def error_of(message: str) -> ToolResult:
    """What a tool could not do, for a model to read and act on."""
    return ToolResult(content=cut(f"error: {message}"), is_error=True)


def words_of(error: BaseException) -> str:
    """A ValueError's own words; of other errors, what they are too."""
    text = str(error)
    if isinstance(error, ValueError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def cut(text: str) -> str:
    """`text`, or its first part and a word about how much is missing. Half surrogates become `?`."""
    text = text.encode("utf-8", "replace").decode() if not text.isascii() else text
    if len(text) <= MAX_RESULT:
        return text
    return f"{text[:MAX_RESULT]}\n[cut: these are the first {MAX_RESULT:,} of {len(text):,} characters]"


class deadline:
    """`async with deadline(clock, 5, "…"):` raises TimedOut with that message when the body takes longer.

    Like `asyncio.timeout`, but on a `Clock`; a cancellation from elsewhere stays a cancellation.
    """

    def __init__(self, clock: Clock, seconds: float, message: str) -> None:
        self._clock = clock
        self._seconds = seconds
        self._message = message
        self._is_over = False
        self._timer: Timer | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0

    async def __aenter__(self) -> None:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        self._timer = self._clock.call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        assert self._task is not None
        self._is_over = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._timer is not None
        assert self._task is not None
        self._timer.cancel()
        if not self._is_over or self._task.uncancel() > self._cancelling or kind is None:
            return
        if issubclass(kind, asyncio.CancelledError):
            raise TimedOut(self._message, code="tool_timed_out") from None


def too_long(manifest: ToolManifest) -> str:
    """What TimedOut says of this tool."""
    return f"tool '{manifest.name}' was stopped: it was not done after {manifest.timeout:g} s"
