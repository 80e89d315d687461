"""What every reader of a server's stream does: it bounds what comes, fills a chunk and hands it on. Knows no wire."""

from __future__ import annotations

from typing import Protocol

from aios.abi.messages import Chunk, FinishReason, TokenLogprob, ToolCallDelta, Usage

from ..base import Emit
from .connection import Heard
from .faults import garbage

MAX_ANSWER = 64 << 20
"""Bytes of one stream."""


class Draft:
    """A chunk that is being filled: what comes together goes out together."""

    __slots__ = ("calls", "logprobs", "raw", "reasoning", "text", "tokens")

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.calls: list[ToolCallDelta] = []
        self.logprobs: list[TokenLogprob] = []
        self.raw: list[bytes] = []
        """Events as they came, each without its end, where they pass through."""
        self.tokens = 0

    @property
    def is_empty(self) -> bool:
        return not (self.raw or self.text or self.calls or self.reasoning)

    def chunk(self, finish: FinishReason | None, usage: Usage | None) -> Chunk:
        raw = b"\n\n".join((*self.raw, b"")) if self.raw else b""
        text, thought = "".join(self.text), "".join(self.reasoning)
        return Chunk(text, self.calls or None, self.logprobs or None, finish, usage, self.tokens, raw, thought)


class _Answer(Protocol):
    """What is added up. `num_tokens` counts pieces, which are mostly tokens."""

    num_tokens: int


class Hearing:
    """Takes a stream's bytes as they arrive and hands on one chunk for what came together.

    A wire's own reads them (`_read`), adds up its `answer` and fills `_draft`.
    """

    answer: _Answer

    def __init__(self, core: str, emit: Emit | None) -> None:
        self.is_done = False
        self.has_spoken = False
        """Something was handed on: the request cannot be sent again as if nothing had been said."""
        self._core = core
        self._emit = emit
        self._room = MAX_ANSWER
        self._draft = Draft()
        self._gets_on = False
        """What is being read brings the answer on."""

    def feed(self, data: bytes) -> Heard:
        """Bytes as they came. Raises UpstreamFault for garbage, and the error that the server sends."""
        self._room -= len(data)
        if self._room < 0:
            raise garbage(self._core, "has no end: it goes on far beyond what any answer needs")
        self._gets_on = False
        try:
            self._read(data)
        finally:  # what was well said before garbage is told all the same
            self._flush()
        return Heard.ALL if self.is_done else Heard.SOMETHING if self._gets_on else Heard.NOTHING

    def _read(self, data: bytes) -> None:
        raise NotImplementedError

    def _flush(self, finish: FinishReason | None = None, usage: Usage | None = None) -> None:
        draft = self._draft
        if draft.is_empty:
            return
        self._draft = Draft()
        self.answer.num_tokens += draft.tokens
        if self._emit is not None:
            self.has_spoken = True
            self._emit(draft.chunk(finish, usage))
