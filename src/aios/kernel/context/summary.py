"""Who writes the summary of what does not fit, what is asked of it, and what its failing comes to. Knows no core.

What is left out is read in pieces, each beside the summary of those before it. All pieces are cut before the first is
read, so that nothing is paid for where there are too many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aios.abi.calls import LLMGenerate
from aios.abi.errors import AiosError, Cancelled, ContextLengthExceeded, CutShort, ModuleFault
from aios.abi.messages import Generation, Message

from .window import piece, transcript

MAX_PIECES = 32
"""Generations that one summary may take."""
MAX_SUMMARY = 512
"""Tokens of a summary, at most; never more than an eighth of the window."""
MARGIN = 32
"""Tokens that the words around a summary take, at most."""
FOREIGN = 3
"""Times its own tokens that a summary may take by an estimate, or by the tokenizer of another model."""
INSTRUCTION = (
    "Summarise the conversation below for the assistant who goes on with it without having seen it. Keep names, "
    "numbers, decisions, results of tools and what is still open. Write plain sentences, {words} words at most."
)
ADVICE = "ask with window = drop, or name another model in [context] summarise_with"


@dataclass(frozen=True, slots=True)
class Writer:
    """A model that writes a summary of `tokens` tokens at most, which may take `reserve` of the window that it is for.

    `context` is its own window; None where nobody knows it.
    """

    model: str | None
    context: int | None
    tokens: int
    is_foreign: bool

    @classmethod
    def of(cls, model: str | None, context: int | None, window: int, *, is_foreign: bool) -> Writer:
        """The writer for a model whose window is `window`; `is_foreign`: that counts in other tokens, or estimates."""
        smaller = min(window, context or window)
        return cls(model, context, max(1, min(MAX_SUMMARY, smaller // 8)), is_foreign)

    @property
    def reserve(self) -> int:
        """An eighth more than asked for: text cut into tokens anew may take a few more than it was said in."""
        return MARGIN + (self.tokens * FOREIGN if self.is_foreign else self.tokens + self.tokens // 8)

    def request(self, args: LLMGenerate, before: str, part: str) -> LLMGenerate:
        """What is asked for a summary of `before`, a summary already, and of `part`, what came next.

        In one message of a user: the templates of some models take no system message.
        """
        text = f"Summary so far:\n{before}\n\nWhat came next:\n{part}" if before else part
        return LLMGenerate(
            messages=[Message("user", f"{INSTRUCTION.format(words=max(1, self.tokens // 2))}\n\n{text}")],
            model=self.model,
            temperature=0.0,
            max_tokens=self.tokens,
            seed=args.seed,
            cache_salt=args.cache_salt,
        )

    def parts(self, args: LLMGenerate, dropped: Sequence[Message], count: Callable[[LLMGenerate], int]) -> list[str]:
        """The pieces in which `dropped` is to be read. Raises ModuleFault, and ContextLengthExceeded for too many."""
        text = transcript(dropped)
        if self.context is None:
            return [text]
        around = count(self.request(args, " ", ""))
        alone, beside = self.context - self.tokens - around, self.context - self.tokens - around - self.reserve
        found: list[str] = []
        while text:
            room = beside if found else alone
            part = piece(text, lambda each: count(self.request(args, " ", each)) - around, room)
            if not part:
                raise ModuleFault(
                    f"the {self.context} tokens of {self} are too few to summarise what does not fit; {ADVICE}",
                    code="no_summary",
                )
            found.append(part)
            text = text[len(part) :]
            if text and len(found) == MAX_PIECES:
                raise ContextLengthExceeded(
                    f"what does not fit is too long for {self} to summarise in {MAX_PIECES} pieces: after those "
                    f"{len(text)} of {len(text) + sum(map(len, found))} characters are left; shorten the messages, or "
                    "ask with window = drop",
                    param="messages",
                )
        return found

    def said(self, generation: Generation) -> str:
        """The summary in an answer. Raises ModuleFault when there is none."""
        if summary := generation.message.text().strip():
            return summary
        why = f"it ended with {generation.finish_reason!r} after {generation.usage.completion_tokens} tokens"
        raise ModuleFault(f"{self} had nothing to say for a summary ({why}); {ADVICE}", code="no_summary")

    def failed(self, error: AiosError) -> AiosError:
        """What the call that needs the summary ends with. Who was at fault, and when to try again, stays as it was; but
        it was not the call itself that somebody cancelled."""
        is_cancelled = isinstance(error, Cancelled) and not isinstance(error, CutShort)
        kind = ModuleFault if is_cancelled else type(error)
        code = "summary_cancelled" if is_cancelled else error.code
        return kind(
            f"{self} could not write the summary of what does not fit: {error.message}",
            code=code,
            retry_after=error.retry_after,
        )

    def too_long(self, takes: int, room: int) -> AiosError:
        return ModuleFault(
            f"{self} wrote a summary that takes {takes} tokens, of {self.tokens} that it was asked for; there is room "
            f"for {room}; {ADVICE}",
            code="summary_too_long",
        )

    def __str__(self) -> str:
        return f"model '{self.model}'" if self.model else "the default model"
