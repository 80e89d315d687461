"""A stream of Anthropic's Messages API, read as it comes, and its errors. Plain parsing, no I/O."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from aios.abi.messages import FunctionDelta, ToolCallDelta

from ..base import Emit
from .anthropic_answer import Answer, Event, Whole
from .anthropic_faults import STATUS, error_of
from .faults import cut, garbage
from .hearing import Hearing
from .sse import EndlessEvent, EventReader

_decode_event = msgspec.json.Decoder(Event).decode
_decode_whole = msgspec.json.Decoder(Whole).decode

_PIECES = {"text": {"text"}, "thinking": {"thinking", "signature"}, "tool_use": {"partial_json"}}
"""What each type of block is made of. Blocks of other types are passed over whole."""
_DELTAS = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"} | {
    "input_json_delta": "partial_json"
}
"""What each type of delta holds."""


class Events(Hearing):
    """Kinds of events that nobody knows, and pings, are passed over, as the API asks of its clients."""

    answer: Answer

    def __init__(self, core: str, key_source: str, emit: Emit | None) -> None:
        super().__init__(core, emit)
        self.answer = Answer()
        self._key_source = key_source
        self._is_begun = False
        self._reader = EventReader()
        self._calls: dict[int, int] = {}
        """Which call, counted from 0, a block is."""
        self._ended: set[int] = set()
        self._takes: dict[str, Callable[[Event], None]] = {
            "content_block_start": self._open,
            "content_block_delta": self._add,
            "content_block_stop": lambda event: self._close(event.index),
            "message_delta": self._note,
            "message_stop": self._end,
        }

    def _read(self, data: bytes) -> None:
        try:
            for payload in self._reader.feed(data):
                if self.is_done:
                    break  # the message is over
                self._take(payload)
        except EndlessEvent:
            raise garbage(self._core, "has no end of event") from None

    def whole(self, data: bytes) -> Answer:
        """An answer that came in one piece, from a server that does not stream."""
        try:
            message = _decode_whole(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            message = Whole()
        if message.content is None:
            raise garbage(self._core, "is no message")
        self._begin(message)
        for index, block in enumerate(message.content):
            self._open(Event("content_block_start", index=index, content_block=block))
        self.answer.end(message.stop_reason, message.stop_details)
        self._end()
        self._flush()
        return self.finish()

    def finish(self) -> Answer:
        """The stream has ended. Raises UpstreamFault when it ended before the answer did, or said nothing at all."""
        if not self.is_done:
            raise cut(self._core)
        if not self.answer.blocks and self.answer.stop is None:
            raise garbage(self._core, "holds nothing, and does not say why")
        return self.answer

    # ── event by event ──

    def _take(self, payload: bytes) -> None:
        try:
            event = _decode_event(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise garbage(self._core, "is no event of a message") from None
        if event.type == "error" or event.error is not None:
            kind = event.error.get("type") if isinstance(event.error, dict) else None
            raise error_of(self._core, self._key_source, STATUS.get(str(kind), 500), payload, {})
        if event.type == "message_start":
            self._begin(event.message)
        elif (take := self._takes.get(event.type)) is not None:
            if not self._is_begun:
                raise garbage(self._core, f"has no beginning: {event.type} came before message_start")
            take(event)

    def _begin(self, message: Whole | None) -> None:
        if message is None or self._is_begun:
            raise garbage(self._core, "begins twice" if self._is_begun else "begins no message")
        self._is_begun = True
        self.answer.model = message.model
        self.answer.note(message.usage)

    def _open(self, event: Event) -> None:
        index, block = event.index, event.content_block
        if block is None or index in self.answer.blocks:
            raise garbage(self._core, f"begins its block {index} {'with nothing' if block is None else 'twice'}")
        self.answer.blocks[index], self.answer.pieces[index] = block, []
        self._gets_on = True
        if block.type == "tool_use":
            if not block.name:
                raise garbage(self._core, "calls a tool without a name")
            self._calls[index] = len(self._calls)
            self._draft.calls.append(
                ToolCallDelta(self._calls[index], block.id, "function", FunctionDelta(block.name, ""))
            )
        elif block.type in _PIECES:
            self._say(index, block.type, getattr(block, block.type))

    def _add(self, event: Event) -> None:
        index, delta = event.index, event.delta
        block = self.answer.blocks.get(index)
        if block is None:
            raise garbage(self._core, "goes on with a block that was never begun")
        if delta is None:
            return
        name = _DELTAS.get(delta.type) if delta.type is not None else delta.first()
        piece = None if name is None else getattr(delta, name)
        self._gets_on |= name is None or bool(piece)
        if not piece or block.type not in _PIECES:
            return
        if name not in _PIECES[block.type]:
            raise garbage(self._core, f"puts {delta.type} into a block of type {block.type}")
        if name == "signature":
            block.signature = piece
        elif name == "partial_json":
            self._say_input(index, piece)
        else:
            self._say(index, name, piece)

    def _close(self, index: int) -> None:
        """Some servers send a tool's input whole where the block begins."""
        block = self.answer.blocks.get(index)
        if block is None or index in self._ended:
            return
        if block.type == "tool_use" and block.input and not self.answer.pieces[index]:
            self._say_input(index, msgspec.json.encode(block.input).decode())
        self._ended.add(index)

    def _note(self, event: Event) -> None:
        self.answer.note(event.usage)
        if event.delta is not None:
            self._gets_on |= self.answer.stop is None and event.delta.stop_reason is not None
            self.answer.end(event.delta.stop_reason, event.delta.stop_details)

    def _end(self, event: Event | None = None) -> None:
        for index in self.answer.blocks:
            self._close(index)
        self.is_done = True

    def _say(self, index: int, kind: str, piece: str | None) -> None:
        if piece:
            self.answer.pieces[index].append(piece)
            (self._draft.text if kind == "text" else self._draft.reasoning).append(piece)
            self._draft.tokens += 1

    def _say_input(self, index: int, piece: str) -> None:
        if index in self._ended:
            raise garbage(self._core, "goes on with a call of a tool that has ended")
        self.answer.pieces[index].append(piece)
        self._draft.calls.append(ToolCallDelta(self._calls[index], function=FunctionDelta(None, piece)))
        self._draft.tokens += 1
