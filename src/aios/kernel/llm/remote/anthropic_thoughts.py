"""What the model thought before it called tools, kept for when the results of those come. Knows no I/O and no core."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from aios.abi.messages import Message

from .anthropic_answer import Answer
from .anthropic_request import Block, input_of

MOST_BYTES = 8 << 20
THINKING = {"thinking", "redacted_thinking"}


class Thoughts:
    """Late answers that hold such thoughts, block for block.

    The server wants its signed thinking back, unchanged, with the results of the tools, and programs that speak
    OpenAI's API have no place to keep it. An answer is found by the ids that the server gave its calls, when text and
    arguments are still the same; what is not found goes without. Bounded; the oldest go first.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._kept: OrderedDict[tuple[str, ...], bytes] = OrderedDict()
        self._most = most
        self._size = 0

    def keep(self, message: Message, answer: Answer) -> None:
        turn = answer.turn()
        kinds = {block.type for block in turn}
        if not message.tool_calls or not kinds & THINKING or kinds - THINKING - {"text", "tool_use"}:
            return
        blocks = [msgspec.to_builtins(block) for block in turn]
        for block in blocks:
            if block["type"] == "tool_use":
                block["input"] = input_of(block["input"])
        kept = msgspec.json.encode(blocks)
        self._drop(_ids(message))
        self._kept[_ids(message)] = kept
        self._size += len(kept)
        while self._size > self._most:
            self._drop(next(iter(self._kept)))

    def find(self, message: Message) -> list[Block] | None:
        kept = self._kept.get(_ids(message))
        if kept is None:
            return None
        blocks: list[Block] = msgspec.json.decode(kept)
        calls = [(b["id"], b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"]
        asked = [(c.id, c.function.name, input_of(c.function.arguments)) for c in message.tool_calls or ()]
        text = "".join(b["text"] for b in blocks if b["type"] == "text")
        return blocks if calls == asked and text == message.text() else None

    def _drop(self, ids: tuple[str, ...]) -> None:
        self._size -= len(self._kept.pop(ids, b""))


def _ids(message: Message) -> tuple[str, ...]:
    return tuple(call.id for call in message.tool_calls or ())
