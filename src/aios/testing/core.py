"""A core that answers what was written for it, token by token. Knows no model: a word is a token.

It keeps the whole contract of `Core`: it honours the quantum, resumes with the very same pieces, stops
at once when cancelled, and lets a test hold it (`gate`) and wait until calls are inside it (`entered`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, ContextLengthExceeded
from aios.abi.messages import (
    Chunk,
    FinishReason,
    FunctionCall,
    FunctionDelta,
    Generation,
    Message,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from aios.kernel.llm.base import Request, Said
from aios.kernel.syscall import Suspended

Reply = str | Message | AiosError
"""Text, a whole message (perhaps with tool calls), or an error to raise."""

Script = Reply | Sequence[Reply] | Callable[[LLMGenerate], Reply]
"""One reply for all, one after another (the last one repeats), or a function of the request."""


def tool_call(name: str, id: str = "call_1", **arguments: Any) -> Message:
    """The message of a model that calls tool `name`."""
    function = FunctionCall(name, msgspec.json.encode(arguments).decode())
    return Message(role="assistant", tool_calls=[ToolCall(id, function)])


@dataclass(slots=True)
class Progress:
    """A generation under way: what it will say, and how much of it was said. This core's snapshot."""

    message: Message
    pieces: list[Chunk]
    done: int = 0


class ScriptedCore:
    """Answers by `script`. With `tokens`, each answer is padded to that many words.

    `gate` is open; a test that clears it holds all calls before their next token. `seen` is what was asked.
    """

    kind = "scripted"

    def __init__(
        self,
        script: Script = "ok",
        *,
        name: str = "scripted",
        model: str = "scripted-1",
        slots: int = 8,
        tokens: int | None = None,
        context_length: int | None = None,
        resume: str = "kv_exact",
    ) -> None:
        self.name = name
        self.model = model
        self.slots = slots
        self.context_length = context_length
        self.resume = resume
        self.gate = asyncio.Event()
        self.gate.set()
        self.seen: list[LLMGenerate] = []
        self.inside: set[str] = set()
        self.num_dropped = 0
        self._script = script
        self._tokens = tokens
        self._change = asyncio.Condition()

    async def open(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to close."""

    def check(self, args: LLMGenerate) -> None:
        if args.window in (None, "error"):
            self._check_length(args)

    def count(self, args: LLMGenerate) -> int:
        return count(args)

    def _check_length(self, args: LLMGenerate) -> None:
        if self.context_length is not None and (size := count(args)) >= self.context_length:
            raise ContextLengthExceeded(f"{size} tokens do not fit a window of {self.context_length}", param="messages")

    def can_take(self, snapshot: Any, active: int = 0) -> bool:
        return True

    def can_continue(self, args: LLMGenerate, said: Said) -> bool:
        return self.resume != "none"

    async def run(self, request: Request, quantum: int | None) -> Generation | Suspended:
        progress = request.snapshot or self._begin(request.args)
        if request.said is not None:
            _skip(progress, request.said)
        limit = quantum if quantum is not None and self.resume != "none" else len(progress.pieces)
        self.inside.add(request.id)
        await self._tell()
        try:
            said = await self._say(progress, request, limit)
        finally:
            self.inside.discard(request.id)
        if progress.done < len(progress.pieces):
            return Suspended(progress, said)
        return self._generation(progress, request.args)

    async def _say(self, progress: Progress, request: Request, limit: int) -> int:
        said = 0
        while said < limit and progress.done < len(progress.pieces):
            await self.gate.wait()
            await asyncio.sleep(0)  # others on this loop move on between two tokens, as beside a real model
            request.emit(progress.pieces[progress.done])
            progress.done += 1
            said += 1
        return said

    async def entered(self, number: int) -> None:
        """Wait until `number` calls are inside this core at once."""
        async with self._change:
            await self._change.wait_for(lambda: len(self.inside) >= number)

    async def _tell(self) -> None:
        async with self._change:
            self._change.notify_all()

    def _begin(self, args: LLMGenerate) -> Progress:
        self._check_length(args)
        reply = self._next(args)
        self.seen.append(args)
        if isinstance(reply, AiosError):
            raise reply
        message = Message(role="assistant", content=reply) if isinstance(reply, str) else reply
        return Progress(message, pieces_of(message, self._tokens)[: args.max_tokens])

    def _next(self, args: LLMGenerate) -> Reply:
        if isinstance(self._script, str | Message | AiosError):
            return self._script
        if callable(self._script):
            return self._script(args)
        return self._script[min(len(self.seen), len(self._script) - 1)]

    def _generation(self, progress: Progress, args: LLMGenerate) -> Generation:
        said = progress.pieces
        usage = Usage.of(count(args), len(said))
        reason: FinishReason = "tool_calls" if progress.message.tool_calls else "stop"
        if len(said) == args.max_tokens:
            reason = "length"
        calls = progress.message.tool_calls
        text = "".join(piece.text for piece in said) or (None if calls else "")
        message = Message(role="assistant", content=text, tool_calls=calls)
        return Generation(message, reason, usage, self.model, self.name, args.seed)

    def drop(self, snapshot: Any) -> None:
        self.num_dropped += 1

    def statistics(self) -> dict[str, Any]:
        return {"seen": len(self.seen), "inside": len(self.inside), "dropped": self.num_dropped}


def _skip(progress: Progress, said: Said) -> None:
    """Go on behind what was said, which a piece may begin with; whatever the script says of the part before."""
    left = len(said.text)
    for place, piece in enumerate(progress.pieces):
        if left < len(piece.text):
            progress.pieces[place] = msgspec.structs.replace(piece, text=piece.text[left:])
            progress.done = place
            return
        left -= len(piece.text)
    progress.done = len(progress.pieces)


def count(args: LLMGenerate) -> int:
    """Tokens of a prompt: its words."""
    return sum(len(message.text().split()) for message in args.messages)


def pieces_of(message: Message, tokens: int | None = None) -> list[Chunk]:
    """`message` as chunks of one token each: words, then each tool call as a head and pieces of arguments."""
    words = re.findall(r"\s*\S+|\s+$", message.text())
    if tokens is not None:
        words = [*words[:tokens], *(f" word{n}" for n in range(len(words), tokens))]
    chunks = [Chunk(text=word, tokens=1) for word in words]
    for index, call in enumerate(message.tool_calls or []):
        chunks.append(_delta(ToolCallDelta(index, call.id, "function", FunctionDelta(call.function.name, ""))))
        for part in re.findall(r".{1,8}", call.function.arguments, re.DOTALL):
            chunks.append(_delta(ToolCallDelta(index, function=FunctionDelta(arguments=part))))
    return chunks


def _delta(delta: ToolCallDelta) -> Chunk:
    return Chunk(tool_calls=[delta], tokens=1)
