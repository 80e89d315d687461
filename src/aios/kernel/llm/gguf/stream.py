"""One streamed answer of a llama.cpp server that can be held after any token, and what was said of it until then.

Held, it stays open for a moment: what comes is kept and heard when the answer goes on, so that a slice that nobody
needs to make room for costs nothing. Knows no slot, no file and no process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from aios.abi.messages import Chunk, Generation, TokenLogprob, Usage

from ...unbroken import over
from ..base import Emit
from ..remote.connection import Heard, OnData, Response
from ..remote.faults import error_of
from ..remote.openai_answer import Answer
from ..remote.openai_stream import Events

Post = Callable[[OnData], Awaitable[Response]]


@dataclass(slots=True)
class Spoken:
    """An answer under way, of all slices so far. `prompt` and `cached` are tokens of the first slice's prompt; 0 when
    another core began the answer."""

    text: str = ""
    reasoning: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    tokens: int = 0
    prompt: int = 0
    cached: int = 0
    num_streams: int = 0


class _Timings(msgspec.Struct):
    cache_n: int = 0
    prompt_n: int = 0
    predicted_n: int = 0


class _Timed(msgspec.Struct):
    timings: _Timings | None = None


_timed = msgspec.json.Decoder(_Timed).decode


class Stream:
    """Begins at once, held. `go_on` lets it speak, `turn` waits until it is held again or over.

    It goes on from `before`, and the whole answer has `most` tokens at most.
    """

    def __init__(self, core: str, post: Post, before: Spoken, most: int | None) -> None:
        self._core = core
        self._before = before
        self._most = most
        self._events = Events(core, self._hear)
        self._waiting: deque[bytes] = deque()
        self._last = b""
        self._is_held = True
        self._emit: Emit = lambda chunk: None
        self._quantum: int | None = None
        self._spoken = 0
        """Tokens of this slice."""
        self._num_thoughts = 0
        """Pieces of reasoning that were handed on."""
        self._bell = asyncio.Event()
        self._task = asyncio.ensure_future(self._run(post))
        self._task.add_done_callback(self._end)

    @property
    def answer(self) -> Answer:
        return self._events.answer

    def _end(self, task: asyncio.Task[Response]) -> None:
        if not task.cancelled():
            task.exception()  # looked at: who cuts a stream does not ask how it went
        self._bell.set()

    async def _run(self, post: Post) -> Response:
        return await post(self._take)

    # ── slices ──

    def go_on(self, emit: Emit, quantum: int | None) -> None:
        """Say what is left, to `emit`, until `quantum` tokens were said. Raises UpstreamFault for garbage."""
        self._emit, self._quantum, self._spoken = emit, quantum, 0
        self._is_held = False
        self._bell.clear()
        self._drain()
        if self._task.done():
            self._bell.set()

    async def turn(self) -> int | None:
        """The tokens of this slice when it is held; None when the answer is complete. Raises what went wrong."""
        while not self._is_held:
            await self._bell.wait()
            self._bell.clear()
            if self._task.done() and not self._is_held:
                self._finish(self._task.result())
                return None
        return self._spoken

    def cut(self) -> None:
        """The server is to stop. What it said while this was held is forgotten: it will say it again."""
        self._task.cancel()
        self._waiting.clear()

    async def is_over(self) -> None:
        """After `cut`: nothing is sent or awaited any more."""
        await over(self._task)

    def spoken(self) -> Spoken:
        """All that was said until now, in this stream and before."""
        before, answer, timings = self._before, self.answer, self._timings()
        first = not before.num_streams and timings is not None
        return Spoken(
            before.text + "".join(answer.texts),
            before.reasoning + "".join(answer.reasoning),
            before.logprobs + answer.logprobs,
            self._num_tokens(),
            timings.cache_n + timings.prompt_n if first and timings is not None else before.prompt,
            timings.cache_n if first and timings is not None else before.cached,
            before.num_streams + 1,
        )

    def generation(self, model: str, core: str, seed: int | None, fingerprint: str) -> Generation:
        """The whole answer, when it is complete."""
        before, last = self._before, self.answer.generation(model, core, seed)
        text = before.text + "".join(self.answer.texts)
        message = msgspec.structs.replace(
            last.message,
            content=text or last.message.content,
            reasoning_content=(before.reasoning + "".join(self.answer.reasoning)) or None,
        )
        usage = last.usage
        if before.num_streams:
            prompt = before.prompt or max(0, usage.prompt_tokens - before.tokens)
            usage = Usage.of(prompt, before.tokens + usage.completion_tokens, before.cached)
        logprobs = before.logprobs + (last.logprobs or [])
        return Generation(message, last.finish_reason, usage, model, core, seed, logprobs or None, fingerprint)

    def _num_tokens(self) -> int:
        """Of the answer so far. Pieces of text are not always one token each, so the server's own count is better."""
        timings = self._timings()
        return self._before.tokens + (timings.predicted_n if timings is not None else self.answer.num_tokens)

    def _timings(self) -> _Timings | None:
        """What the last piece that was heard says of tokens."""
        line = self._last[: self._last.rfind(b"\n\n")].rpartition(b"data: ")[2]
        try:
            return _timed(line).timings
        except msgspec.MsgspecError:
            return None

    # ── from the connection ──

    def _take(self, data: bytes) -> Heard:
        """The end is that of the response, and not told before, so that the connection can be used again."""
        self._waiting.append(data)
        return Heard.SOMETHING if self._drain() or self._is_held else Heard.NOTHING

    def _drain(self) -> bool:
        """Hear what came, one event at a time where the slice is to end at a token. Says whether any got it on."""
        gets_on = False
        while self._waiting and not self._is_held:
            data = self._waiting.popleft()
            end = len(data) if self._quantum is None else data.find(b"\n\n") + 2
            if 1 < end < len(data):
                self._waiting.appendleft(data[end:])
                data = data[:end]
            self._last = data
            gets_on |= self._events.feed(data) is not Heard.NOTHING
            self._look()
        return gets_on

    def _look(self) -> None:
        """Whether the slice ends here."""
        if self._quantum is None or self._spoken < self._quantum:
            return
        # A call of a tool is not text that could be gone on from: it is said to its end.
        is_text = self.answer.finish is None and not self.answer.calls
        if is_text and (self._most is None or self._num_tokens() < self._most):
            self._is_held = True
            self._bell.set()

    def _hear(self, chunk: Chunk) -> None:
        """Without the server's own events: an answer in several streams has one name, which is not theirs."""
        thoughts = self.answer.reasoning[self._num_thoughts :]
        self._num_thoughts += len(thoughts)
        if chunk.text or chunk.tool_calls or thoughts or chunk.logprobs or chunk.tokens:
            self._spoken += chunk.tokens
            reasoning = "".join(thoughts)
            self._emit(Chunk(chunk.text, chunk.tool_calls, chunk.logprobs, tokens=chunk.tokens, reasoning=reasoning))

    def _finish(self, response: Response) -> None:
        if response.status != 200:
            raise error_of(self._core, "its key", response.status, response.body, response.headers)
        self._events.finish()
