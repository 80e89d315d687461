"""What a sequence said, as the messages and chunks that agents know. Knows no engine, thread or core."""

from __future__ import annotations

import hashlib

import msgspec

from aios.abi.messages import (
    Chunk,
    FinishReason,
    FunctionDelta,
    Generation,
    Message,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
    Usage,
)

from .dialect import NANO, Dialect
from .grammar import Vocabulary
from .sampler import Logprob
from .sequence import Sequence


class Teller:
    """Tells one sequence's answer, in pieces and as a whole. What the sequence has said before is told already, unless
    it `is_unheard`: whoever was told it is gone with an earlier run of the kernel."""

    def __init__(self, sequence: Sequence, vocabulary: Vocabulary, *, is_unheard: bool = False) -> None:
        self._sequence = sequence
        self._vocabulary = vocabulary
        self._logprobs = 0 if is_unheard else len(sequence.logprobs)
        self._thought = 0 if is_unheard else len(sequence.thought)

    def piece(self, text: str, tokens: int) -> Chunk:
        """`text` that became certain, and what the last `tokens` tokens bring with it."""
        logprobs = self._sequence.logprobs[self._logprobs :]
        self._logprobs += len(logprobs)
        found = [self._logprob(p) for p in logprobs] or None
        return Chunk(text, logprobs=found, tokens=tokens, reasoning=self._reasoning())

    def _reasoning(self) -> str:
        """What was thought since the last time. All of it before what is said: a thought ends before its answer."""
        fresh = self._sequence.thought[self._thought :]
        self._thought += len(fresh)
        return fresh

    def last(self, text: str, tokens: int, answer: Generation) -> Chunk:
        """The last piece of a finished answer: what is left of it, how it ended, what it cost."""
        sequence = self._sequence
        calls = answer.message.tool_calls
        unsaid = answer.message.text()[len(sequence.text.text) :]
        logprobs = sequence.logprobs[self._logprobs :]
        return Chunk(
            text + unsaid,
            tool_calls=[_delta(index, call) for index, call in enumerate(calls)] if calls else None,
            logprobs=[self._logprob(p) for p in logprobs] or None,
            finish_reason=answer.finish_reason,
            usage=answer.usage,
            tokens=tokens,
            reasoning=self._reasoning(),
        )

    def whole(self, *, model: str, core: str, seed: int | None, fingerprint: str) -> Generation:
        """The answer of a finished sequence."""
        sequence = self._sequence
        message, finish = _message(sequence, self._vocabulary.dialect)
        if sequence.thought:
            message = msgspec.structs.replace(message, reasoning_content=sequence.thought)
        is_asked = sequence.spec.sampling.logprobs is not None
        return Generation(
            message=message,
            finish_reason=finish,
            usage=_usage(sequence),
            model=model,
            core=core,
            seed=seed,
            logprobs=[self._logprob(p) for p in sequence.logprobs] if is_asked else None,
            fingerprint=f"fp_{fingerprint}",
        )

    def _logprob(self, found: Logprob) -> TokenLogprob:
        text, data = self._token(found.token)
        return TokenLogprob(text, found.logprob, data, [TopLogprob(*self._named(t, p)) for t, p in found.top])

    def _named(self, token: int, logprob: float) -> tuple[str, float, list[int]]:
        text, data = self._token(token)
        return text, logprob, data

    def _token(self, token: int) -> tuple[str, list[int]]:
        data = self._vocabulary.tokens[token]
        return data.decode("utf-8", "replace"), list(data)


def _usage(sequence: Sequence) -> Usage:
    """What another core has said of the answer is prompt to this one, and answer to who asked."""
    said = sequence.spec.num_said
    prompt = len(sequence.spec.prompt) - said
    return Usage.of(prompt, len(sequence.output) + said, min(sequence.num_cached, prompt))


def _message(sequence: Sequence, dialect: Dialect | None) -> tuple[Message, FinishReason]:
    """A call that is JSON of the right form becomes a tool call; any other stays visible, as text."""
    text, finish = sequence.text.text, sequence.finish or "stop"
    if not sequence.guide.in_call or dialect is None:
        return Message("assistant", text), finish
    written = sequence.call_bytes.decode("utf-8", "replace")
    functions = dialect.read(written) if finish == "tool_calls" else None
    if functions is None:
        opening = "" if dialect is NANO or sequence.guide.is_bare else dialect.opening
        return Message("assistant", text + opening + written), "length" if finish == "length" else "stop"
    calls = [ToolCall(_call_id(sequence, index), function) for index, function in enumerate(functions)]
    return Message("assistant", text or None, tool_calls=calls), "tool_calls"


def _call_id(sequence: Sequence, index: int) -> str:
    """The same for the same question and answer, so that repeated runs are equal byte for byte."""
    seed = hashlib.sha256(repr((sequence.spec.sampling.seed, sequence.spec.prompt)).encode())
    seed.update(sequence.call_bytes + b"\0%d" % index if index else sequence.call_bytes)
    return f"call_{seed.hexdigest()[:24]}"


def _delta(index: int, call: ToolCall) -> ToolCallDelta:
    return ToolCallDelta(index, call.id, call.type, FunctionDelta(call.function.name, call.function.arguments))
