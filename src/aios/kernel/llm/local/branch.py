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
    is_parallel: bool = True
    """More than one call may be made, by a model that does so."""
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
            grammars, answer=spec.answer, call=spec.call, may_call=spec.may_call, must_call=spec.must_call,
            is_parallel=spec.is_parallel,
        )  # fmt: skip
        dialect = grammars.vocabulary.dialect
        self.text = TextStream(spec.stops, dialect.opening if dialect is not None and self.guide.watches else "")
        self.fresh: list[str] = []
        """Text that became certain and that nobody took."""
        self.call_bytes = b""
        """What followed the opening of a call."""
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
        if self._spec.sampling.logprobs is None or token in self._vocabulary.ends or self.guide.is_call(token):
            return
        self.logprobs.append(sampler.logprob(logits, token))

    def accept(self, token: int) -> None:
        """`token` is the next one."""
        vocabulary, guide = self._vocabulary, self.guide
        self.output.append(token)
        was_in_call = guide.in_call
        guide.accept(token)
        is_end = token in vocabulary.ends
        if is_end or guide.is_complete:
            self.finish = "tool_calls" if guide.in_call else "stop"
        if is_end:
            pass
        elif not guide.in_call:
            self._say(token)
        elif was_in_call or token != vocabulary.call:
            self.call_bytes += vocabulary.tokens[token]
        if self.finish is None and len(self.output) >= self._spec.max_tokens:
            self.finish = "length"
        if self.finish is not None:
            self.fresh.append(self.text.finish())

    def _say(self, token: int) -> None:
        vocabulary = self._vocabulary
        data = vocabulary.tokens[token]
        if vocabulary.drops_first_space and len(self.output) == 1:
            data = data.removeprefix(b" ")
        self.fresh.append(self.text.feed(data, may_stop=len(self.output) >= self._spec.min_tokens))
        if self.text.is_opened:
            self.guide.open(self.text.rest)
            self.call_bytes += self.text.rest
            self.text.is_opened = False
            if self.finish is not None:  # the grammar was at its end with this token
                self.finish = "tool_calls"
        elif self.text.is_stopped:
            self.finish = "stop"
