"""A transport without a kernel: answers by a function, and remembers what was asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

from aios.abi.errors import AiosError
from aios.abi.messages import Chunk, Generation, Message, Usage
from aios.sdk.stream import Final

T = TypeVar("T")


class FakeTransport:
    """`answer(name, arguments)` gives the result struct, or an error to raise. `asked` lists (name, arguments, key)."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Any]) -> None:
        self._answer = answer
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []

    async def call(
        self, kind: type[T], name: str, arguments: dict[str, Any], key: str | None, timeout: float | None
    ) -> T:
        self.asked.append((name, arguments, key))
        value = self._answer(name, arguments)
        if isinstance(value, AiosError):
            raise value
        assert isinstance(value, kind)
        return value

    async def stream(
        self, kind: type[T], name: str, arguments: dict[str, Any], key: str | None, timeout: float | None
    ) -> AsyncGenerator[Chunk | Final[T], None]:
        whole = await self.call(kind, name, arguments, key, timeout)
        assert isinstance(whole, Generation)
        for word in whole.message.text().split():
            yield Chunk(text=word, tokens=1)
        yield Final(whole)

    async def fetch(self, method: str, path: str, body: Any = None) -> Any:
        return {"method": method, "path": path, "body": body}

    async def events(self, path: str) -> AsyncGenerator[Any, None]:
        yield {"path": path}

    async def close(self) -> None:
        """Nothing is open."""


def generation(message: Message | str) -> Generation:
    if isinstance(message, str):
        message = Message(role="assistant", content=message)
    reason = "tool_calls" if message.tool_calls else "stop"
    return Generation(message, reason, Usage.of(10, 3), "fake-1", "fake")
