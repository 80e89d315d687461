"""An answer of OpenAI's chat completions: its pieces added up, or all of it as it came. Plain parsing, no I/O."""

from __future__ import annotations

from typing import Any

from aios.abi.messages import (
    Chunk,
    FinishReason,
    FunctionCall,
    FunctionDelta,
    Generation,
    Message,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
)

from ..base import Said
from .faults import garbage
from .openai_body import NO_USAGE, Body, Call, Delta, arguments_of, head_of, read, thought_of, usage_of

REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "function_call",
}


class Answer:
    """Pieces of one answer, added up."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reasoning: list[str] = []
        self.refusals: list[str] = []
        self.parts: list[dict[str, Any]] | None = None
        self.calls: dict[int, tuple[list[str], list[str], list[str]]] = {}
        self.logprobs: list[TokenLogprob] = []
        self.finish: str | None = None
        self.usage: Usage | None = None
        self.raw_usage = ""
        """It as the server wrote it: JSON."""
        self.model: str | None = None
        self.fingerprint: str | None = None
        self.id: str | None = None
        self.created: int | None = None
        self.num_tokens = 0
        self.prompt_ids: list[int] | None = None
        self.ids: list[int] = []
        """Tokens, where the server tells them."""
        self.is_level = False
        """All tokens so far are in the text so far: none is held back."""

    def add(self, piece: Delta) -> None:
        if isinstance(piece.content, str):
            if piece.content:
                self.texts.append(piece.content)
        elif piece.content is not None:
            self.parts = [*(self.parts or []), *piece.content]
        if thought := thought_of(piece):
            self.reasoning.append(thought)
        if piece.refusal:
            self.refusals.append(piece.refusal)
        for n, call in enumerate(piece.tool_calls or ()):
            self._add_call(n if call.index is None else call.index, call)

    def _add_call(self, index: int, call: Call) -> None:
        ids, names, arguments = self.calls.setdefault(index, ([], [], []))
        if call.id:
            ids.append(call.id)
        if call.function is not None:
            if call.function.name:
                names.append(call.function.name)
            arguments.append(arguments_of(call.function.arguments))

    @classmethod
    def behind(cls, said: Said) -> Answer:
        """One that goes on from what was said."""
        answer = cls()
        answer.texts = [said.text]
        answer.num_tokens = said.tokens
        answer.logprobs = list(said.logprobs or ())
        answer.id, answer.created = said.id, said.created
        answer.model, answer.fingerprint = said.model, said.fingerprint
        answer.prompt_ids, answer.ids = said.prompt_ids, list(said.ids or ())
        return answer

    def said(self) -> Said | None:
        """So far; None when it is more than text, which nobody could go on from."""
        if self.calls or self.reasoning or self.refusals or self.parts is not None or self.finish is not None:
            return None
        return Said(
            "".join(self.texts),
            self.num_tokens,
            self.logprobs or None,
            self.prompt_ids if self.is_level else None,
            self.ids if self.is_level else None,
            id=self.id,
            created=self.created,
            model=self.model,
            fingerprint=self.fingerprint,
        )

    def note(self, body: Body) -> None:
        """What stands beside the pieces."""
        self.model = body.model or self.model
        self.fingerprint = body.system_fingerprint or self.fingerprint
        if body.usage is not NO_USAGE:
            self.usage, self.raw_usage = usage_of(body.usage).told(), bytes(body.usage).decode()

    def name(self, core: str, event: bytes) -> None:
        """What the server calls its stream: clients see it as it came, and again when the answer is repeated."""
        head = head_of(core, event)
        self.id = head.id if isinstance(head.id, str) and head.id else None
        self.created = int(head.created) if isinstance(head.created, int | float) else None

    def check_calls(self, core: str) -> None:
        """Raise UpstreamFault for a call that nobody could carry out."""
        if not all("".join(names) for _, names, _ in self.calls.values()):
            raise garbage(core, "calls a tool without a name")

    def tool_calls(self) -> list[ToolCall] | None:
        return [
            ToolCall(
                ids[0] if ids else f"call_{index}",
                FunctionCall("".join(names), "".join(arguments) or "{}"),
            )
            for index, (ids, names, arguments) in sorted(self.calls.items())
        ] or None

    def generation(self, model: str, core: str, seed: int | None) -> Generation:
        calls = self.tool_calls()
        text = "".join(self.texts)
        message = Message(
            role="assistant",
            content=self.parts or text or (None if calls else ""),
            tool_calls=calls,
            refusal="".join(self.refusals) or None,
            reasoning_content="".join(self.reasoning) or None,
        )
        return Generation(
            message,
            REASONS.get(self.finish or "", "tool_calls" if calls else "stop"),
            self.usage or Usage.of(0, self.num_tokens),
            self.model or model,
            core,
            seed,
            self.logprobs or None,
            self.fingerprint,
            self.raw_usage or None,
            self.id,
            self.created,
        )

    def as_chunk(self) -> Chunk:
        """The whole answer as one piece, for a listener of a server that does not stream."""
        deltas = [
            ToolCallDelta(n, c.id, c.type, FunctionDelta(c.function.name, c.function.arguments))
            for n, c in enumerate(self.tool_calls() or ())
        ]
        tokens = self.usage.completion_tokens if self.usage else 0
        text, thought = "".join(self.texts), "".join(self.reasoning)
        return Chunk(text, deltas or None, self.logprobs or None, tokens=tokens, reasoning=thought)


def parse_whole(core: str, data: bytes) -> Answer:
    """An answer that came in one piece."""
    body = read(core, data)
    if not body.choices or body.choices[0].message is None:
        raise garbage(core, "holds no message")
    choice = body.choices[0]
    answer = Answer()
    answer.note(body)
    answer.add(body.choices[0].message)
    answer.check_calls(core)
    answer.finish = choice.finish_reason
    if choice.logprobs is not None:
        answer.logprobs = choice.logprobs.content or []
    return answer
