"""One line of tokens: what was said, what may come next, the text so far. Knows no batch, model, thread or request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .grammar import Grammars, Guide, Vocabulary
from .kv import KV
from .linear import F32
from .sampler import Logprob, Mask, Sampler, Sampling
from .text import TextStream
from .thought import Thought

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
    is_thinking: bool = False
    """The prompt ends within what the model thinks aloud: its template has opened that."""
    sampling: Sampling = field(default_factory=Sampling)
    beam_width: int = 1
    length_penalty: float = 1.0
    group: str = ""
    """Whose prefixes it may share."""
    said: str = ""
    num_said: int = 0
    """What another core has said of the answer: the prompt ends with it, in so many tokens."""

    @property
    def longest(self) -> int:
        """Tokens of the finished sequence, at most. The last one is never computed."""
        return len(self.prompt) + self.max_tokens


class Branch:
    """`kv` is None before the branch is computed, while its sequence is moved aside, and after its end."""

    __slots__ = (
        "_held",
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
        "thought",
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
        if spec.said:
            self.text.feed(spec.said.encode(), may_stop=False)
        self.fresh: list[str] = []
        """Text that became certain and that nobody took."""
        self.thought = Thought(grammars.vocabulary.reasoning, is_open=spec.is_thinking)
        self._held: list[int] = []
        """The answer's first tokens, while it cannot be told whether they begin a thought."""
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
        other.thought, other._held = self.thought.fork(), self._held[:]
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
        allowed = None if self.thought.is_inside else self.guide.allowed()
        if allowed is not None and self.thought.may_begin and self._vocabulary.think is not None:
            allowed = allowed.copy()
            allowed[self._vocabulary.think] = True
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
        if self.thought.is_inside or (self.thought.may_begin and token == self._vocabulary.think):
            return
        self.logprobs.append(sampler.logprob(logits, token))

    def accept(self, token: int) -> None:
        """`token` is the next one."""
        self.output.append(token)
        is_end = token in self._vocabulary.ends
        if self.thought.is_inside and not is_end:
            self._think(self._vocabulary.tokens[token])
        elif is_end or not self._is_held(token):
            self._release()
            if is_end or (self.finish is None and not self.thought.is_inside):
                self._answer(token)
        if self.finish is None and len(self.output) >= self._spec.max_tokens:
            self._release()
            self.finish = self.finish or "length"
        if self.finish is not None:
            self.thought.finish()
            self.fresh.append(self.text.finish())

    def _is_held(self, token: int) -> bool:
        """Whether `token` is, or may be, the beginning of a thought, and no answer yet."""
        if not self.thought.may_begin:
            return False
        if self.guide.is_bound and token != self._vocabulary.think:
            self.thought.may_begin = False  # it is held to a grammar, and has begun to follow it
            return False
        said = b"".join(self._vocabulary.tokens[each] for each in (*self._held, token))
        begins = self.thought.begins(said)
        if begins is None:
            self._held.append(token)
        elif begins:
            self._held.clear()
            self.logprobs.clear()
            self._think(self.thought.after_opening(said))
        return begins is not False

    def _release(self) -> None:
        """The tokens that were held are an answer's."""
        held, self._held = self._held, []
        for token in held:
            if self.finish is None:
                self._answer(token)

    def _think(self, data: bytes) -> None:
        rest = self.thought.feed(data)
        # What stands glued to the closing mark would be no part of what a grammar asks for.
        if rest and not self.guide.is_bound:
            self._say(rest)

    def _answer(self, token: int) -> None:
        vocabulary, guide = self._vocabulary, self.guide
        was_in_call = guide.in_call
        guide.accept(token)
        is_end = token in vocabulary.ends
        if is_end or guide.is_complete:
            self.finish = "tool_calls" if guide.in_call else "stop"
        if is_end:
            pass
        elif not guide.in_call:
            self._say(self._text_of(token))
        elif was_in_call or token != vocabulary.call:
            self.call_bytes += vocabulary.tokens[token]

    def _text_of(self, token: int) -> bytes:
        data = self._vocabulary.tokens[token]
        if self._vocabulary.drops_first_space and len(self.output) == 1:
            data = data.removeprefix(b" ")
        return self.thought.stripped(data)

    def _say(self, data: bytes) -> None:
        self.fresh.append(self.text.feed(data, may_stop=len(self.output) >= self._spec.min_tokens))
        if self.text.is_opened:
            self.guide.open(self.text.rest)
            self.call_bytes += self.text.rest
            self.text.is_opened = False
            if self.finish is not None:  # the grammar was at its end with this token
                self.finish = "tool_calls"
        elif self.text.is_stopped:
            self.finish = "stop"
