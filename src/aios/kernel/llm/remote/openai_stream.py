"""A stream of OpenAI's chat completions, read as it comes and passed on as it came. Plain parsing, no I/O."""

from __future__ import annotations

import sys

import msgspec
from msgspec import Raw

from aios.abi.messages import Chunk, FinishReason, FunctionDelta, ToolCallDelta, Usage

from ..base import Emit
from .faults import cut, garbage
from .hearing import Hearing
from .openai_answer import REASONS, Answer, parse_whole
from .openai_body import NO_USAGE, Body, Call, Choice, Delta, arguments_of, has_more, read, thought_of
from .sse import MAX_EVENT, payload_of

BEYOND, SLACK = 2, 256
"""A stream may have so many times as many pieces as tokens were asked for, and some more: tokens may be cut up."""

PLAIN = b"data: "
_DONE = b"data: [DONE]\n\n"


class Events(Hearing):
    """The finishing event is held back until the usage behind it is known, and goes out with it: some clients look for
    it nowhere else."""

    answer: Answer
    _emit: Emit

    def __init__(self, core: str, emit: Emit, most: int | None = None) -> None:
        """`most` is how many tokens the server was told to say at most."""
        super().__init__(core, emit)
        self.answer = Answer()
        self._most = sys.maxsize if most is None else most * BEYOND + SLACK
        self._rest = b""
        self._is_named = False
        self._held: bytes | None = None

    def _read(self, data: bytes) -> None:
        if self.is_done:
            return  # what comes now is not part of it
        if self.answer.num_tokens > self._most:
            raise garbage(self._core, "has no end: it goes on far beyond max_tokens")
        if (
            not self._rest
            and data.startswith(PLAIN)
            and data.endswith(b"\n\n")
            and data.count(b"\n") == 2
            and self._one(data)
        ):
            return
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *events, self._rest = data.split(b"\n\n")
        if len(self._rest) > MAX_EVENT:
            raise garbage(self._core, "has no end of event")
        for event in events:
            if self.is_done:
                break
            if event.startswith(PLAIN) and b"\n" not in event:
                self._take(event, event[6:])
            elif payload := payload_of(event):
                self._take(PLAIN + payload, payload)

    def _one(self, data: bytes) -> bool:
        """The commonest case in one go: a single event that holds a piece of text and nothing else."""
        if data == _DONE:
            return False
        body = read(self._core, data[6:])
        if not body.choices or body.usage is not NO_USAGE:
            return False
        choice = body.choices[0]
        delta = choice.delta
        if choice.index or choice.finish_reason is not None or choice.logprobs is not None or delta is None:
            return False
        text = delta.content
        if text.__class__ is not str or not text or delta.tool_calls or _is_odd(delta):
            return False
        answer = self.answer
        if answer.model is None:
            answer.note(body)
        if not self._is_named:
            self._name(data[6:])
        answer.texts.append(text)
        answer.num_tokens += 1
        self.has_spoken = self._gets_on = True
        self._emit(Chunk(text, None, None, None, None, 1, data))
        return True

    def _take(self, event: bytes, payload: bytes) -> None:
        if payload == b"[DONE]":
            self.is_done = True
            return
        body = read(self._core, payload)
        if body.usage is not NO_USAGE or self.answer.model is None:
            self.answer.note(body)
        if not body.choices:
            self._take_usage(event, body)
            return
        if not self._is_named:
            self._name(payload)
        self._take_choice(event, body.choices[0])

    def _take_choice(self, event: bytes, choice: Choice) -> None:
        if choice.index:
            raise garbage(self._core, "is several answers at once, and one was asked for")
        draft = self._draft
        if choice.finish_reason is not None:
            self._gets_on |= self.answer.finish is None
            self.answer.finish = choice.finish_reason
            self._held = event
        else:
            draft.raw.append(event)
        if choice.delta is not None:
            self._take_delta(choice.delta)
            self._gets_on = self._gets_on or has_more(self._core, event[6:])
        if choice.logprobs is not None and choice.logprobs.content:
            draft.logprobs += choice.logprobs.content
            self.answer.logprobs += choice.logprobs.content

    def _name(self, payload: bytes) -> None:
        self._is_named = True
        self.answer.name(self._core, payload)

    def _take_delta(self, delta: Delta) -> None:
        draft = self._draft
        self.answer.add(delta)
        if isinstance(delta.content, str) and delta.content:
            draft.text.append(delta.content)
        for n, call in enumerate(delta.tool_calls or ()):
            draft.calls.append(_delta(n, call))
        if thought := thought_of(delta):
            draft.reasoning.append(thought)
        if delta.content or delta.tool_calls or thought:
            draft.tokens += 1
            self._gets_on = True

    def _take_usage(self, event: bytes, body: Body) -> None:
        """The last event: the usage and no choice."""
        if body.usage is NO_USAGE:
            return
        self._release()
        self._emit(Chunk(usage=self.answer.usage, raw=event + b"\n\n"))

    def _flush(self, finish: FinishReason | None = None, usage: Usage | None = None) -> None:
        if self._draft.raw:  # what is in a finishing event goes out with that
            super()._flush(finish, usage)

    def _release(self) -> None:
        """Let the finishing event go, with the usage if that is known by now."""
        if self._held is None:
            return
        held, self._held = self._held, None
        if self.answer.usage is not None:
            fields = msgspec.json.decode(held[6:], type=dict[str, Raw])
            if fields.get("usage", b"null") == b"null":
                fields["usage"] = Raw(self.answer.raw_usage.encode())
                held = PLAIN + msgspec.json.encode(fields)
        self._draft.raw.append(held)
        self._flush(REASONS.get(self.answer.finish or "", "stop"), self.answer.usage)

    def finish(self) -> Answer:
        """The stream has ended. Raises UpstreamFault when it ended before the answer did."""
        if not self.is_done and self.answer.finish is None:
            raise cut(self._core)
        if not self._is_named:
            raise garbage(self._core, "holds no choice")
        self.answer.check_calls(self._core)
        self._release()
        return self.answer

    def whole(self, data: bytes) -> Answer:
        """The answer of a server that does not stream."""
        answer = parse_whole(self._core, data)
        self._emit(answer.as_chunk())
        return answer


def _is_odd(delta: Delta) -> bool:
    """Whether it holds more than text and calls."""
    return bool(delta.reasoning_content or delta.reasoning or delta.refusal)


def _delta(n: int, call: Call) -> ToolCallDelta:
    function = None
    if call.function is not None:
        arguments = call.function.arguments
        function = FunctionDelta(call.function.name, None if arguments is None else arguments_of(arguments))
    return ToolCallDelta(n if call.index is None else call.index, call.id, call.type, function)
