"""How many tokens of a core's window a request takes. Knows no tokenizer: cores of our own count, others are estimated.

An estimate is by bytes of text, and is said to be one. Two are needed: whoever makes a prompt shorter wants it to fit
for sure, and whoever refuses one wants to be sure that it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import msgspec

from aios.abi.calls import LLMGenerate
from aios.abi.errors import ContextLengthExceeded

from .base import Core

FEWEST_BYTES = 3
"""Bytes of text that a token stands for at least, in what people and programs write."""
MOST_BYTES = 8
"""And at most: more only in text that repeats itself."""
AROUND = 8
"""Tokens that stand around one message, at most."""


@runtime_checkable
class Counts(Protocol):
    """A core that can count the tokens of a prompt."""

    def count(self, args: LLMGenerate) -> int:
        """Tokens of the prompt that `args` make; more than the window for what is longer by far. Any thread may ask.
        Raises BadRequest for messages that no prompt can be made of."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A core's window in tokens, and how a prompt is counted in it."""

    context: int
    is_exact: bool
    count: Callable[[LLMGenerate], int]


def measure_of(core: Core) -> Measure | None:
    """None when the core's window is not known."""
    if core.context_length is None:
        return None
    is_exact = isinstance(core, Counts)
    return Measure(core.context_length, is_exact, core.count if isinstance(core, Counts) else estimate)


def estimate(args: LLMGenerate) -> int:
    """Tokens of the prompt, rather too many than too few."""
    return -(-_size(args) // FEWEST_BYTES) + AROUND * (len(args.messages) + len(args.tools or ()))


def check_length(core: Core, args: LLMGenerate) -> None:
    """Raise ContextLengthExceeded for what cannot fit a core that does not count itself. What may fit passes: the
    server behind it knows, and its refusal is told."""
    if core.context_length is None or isinstance(core, Counts):
        return
    least, answer = _size(args) // MOST_BYTES, args.max_tokens or 1
    if least + answer > core.context_length:
        raise ContextLengthExceeded(
            f"core '{core.name}' has a window of {core.context_length} tokens, and this asks for more: about {least} "
            f"or more in the messages and tools (an estimate, by their {_size(args)} bytes), {answer} for the answer; "
            "shorten the messages or lower max_tokens",
            param="messages",
        )


def _size(args: LLMGenerate) -> int:
    """Bytes of what a model reads."""
    texts = sum(len(message.text().encode("utf-8", "replace")) for message in args.messages)
    calls = [call.function for message in args.messages for call in message.tool_calls or ()]
    return texts + len(msgspec.json.encode(calls)) + len(msgspec.json.encode(args.tools or []))
