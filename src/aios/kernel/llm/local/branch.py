"""One line of tokens: what was said, what may come next, the text so far. Knows no batch, model, thread or request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .grammar import Grammars, Guide, Vocabulary
from .kv import KV
from .linear import F32
from .sampler import Logprob, Mask, Sampler, Sampling
from .text import TextStream

Finish = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class Spec:
    """What is to be generated. `answer` and `call` are schemas of `grammar`; `max_tokens` is at least 1.

    With a `beam_width` above 1 the likeliest line is looked for, so many lines at a time; a line's worth is its log
    probability divided by its length to the power of `length_penalty`.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    min_tokens: int = 0
    stops: tuple[str, ...] = ()
    answer: str | None = None
    call: str | None = None
    may_call: bool = False
    must_call: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    beam_width: int = 1
    length_penalty: float = 1.0
    group: str = ""
    """Whose prefixes it may share."""

    @property
    def longest(self) -> int:
        """Tokens of the finished sequence, at most. The last one is never computed."""
        return len(self.prompt) + self.max_tokens


class Branch:
    """`kv` is None before the branch is computed, while its sequence is moved aside, and after its end."""

    __slots__ = (
        "_spec",
        "_vocabulary",
        "call_bytes",
        "finish",
        "fresh",
        "guide",
        "kv",
        "logprobs",
        "output",
        "score",
        "text",
    )

    def __init__(self, spec: Spec, grammars: Grammars) -> None:
        self._spec = spec
        self._vocabulary: Vocabulary = grammars.vocabulary
        self.output: list[int] = []
        self.kv: KV | None = None
        self.guide = Guide(
            grammars, answer=spec.answer, call=spec.call, may_call=spec.may_call, must_call=spec.must_call
        )
        self.text = TextStream(spec.stops)
        self.fresh: list[str] = []
        """Text that became certain and that nobody took."""
        self.call_bytes = b""
        """What followed the call token."""
        self.logprobs: list[Logprob] = []
        """Of the text's tokens, when asked for."""
        self.score = 0.0
        """The sum of its tokens' log probabilities; kept by beam search only."""
        self.finish: Finish | None = None

    def fork(self) -> Branch:
        """Another line that has said the same so far, without KV."""
        other: Branch = Branch.__new__(Branch)
        other._spec, other._vocabulary = self._spec, self._vocabulary
        other.output = self.output[:]
        other.kv = None
        other.guide, other.text = self.guide.fork(), self.text.fork()
        other.fresh, other.logprobs = self.fresh[:], self.logprobs[:]
        other.call_bytes, other.score, other.finish = self.call_bytes, self.score, self.finish
        return other

    @property
    def worth(self) -> float:
        """What beam search compares ended lines by."""
        length: float = max(1, len(self.output)) ** self._spec.length_penalty
        return self.score / length

    def allowed(self) -> Mask | None:
        """The tokens that may come next; None when all may."""
        allowed = self.guide.allowed()
        if len(self.output) >= self._spec.min_tokens:
            return allowed
        go_on = self._vocabulary.not_end if allowed is None else allowed & self._vocabulary.not_end
        return go_on if go_on.any() else allowed  # a grammar that is at its end wins over min_tokens

    def choose(self, sampler: Sampler, logits: F32) -> None:
        """Take the next token from `logits` (vocabulary,), and draw its consequences."""
        token = sampler.choose(logits, self.allowed())
        self.note(sampler, logits, token)
        self.accept(token)

    def note(self, sampler: Sampler, logits: F32, token: int) -> None:
        """Write down what the model gave `token`, if that is asked for."""
        if self._spec.sampling.logprobs is None or token == self._vocabulary.end or self._is_call(token):
            return
        self.logprobs.append(sampler.logprob(logits, token))

    def accept(self, token: int) -> None:
        """`token` is the next one."""
        vocabulary, spec = self._vocabulary, self._spec
        self.output.append(token)
        is_text = not self._is_call(token)
        self.guide.accept(token)
        if token == vocabulary.end or self.guide.is_complete:
            self.finish = "tool_calls" if self.guide.in_call else "stop"
        if token == vocabulary.end:
            pass
        elif is_text:
            may_stop = len(self.output) >= spec.min_tokens
            self.fresh.append(self.text.feed(vocabulary.tokens[token], may_stop=may_stop))
            if self.text.is_stopped:
                self.finish = "stop"
        elif token != vocabulary.call:
            self.call_bytes += vocabulary.tokens[token]
        if self.finish is None and len(self.output) >= spec.max_tokens:
            self.finish = "length"
        if self.finish is not None:
            self.fresh.append(self.text.finish())

    def _is_call(self, token: int) -> bool:
        return self.guide.in_call or token == self._vocabulary.call
