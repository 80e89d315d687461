"""Continuous batching: many sequences, one decoder, a token each per step. Knows no thread, clock or request format.

Which sequences run together, in which order, and when one is taken out and put back changes nothing of what each says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .decoder import CHUNK, Decoder
from .grammar import Grammars, Vocabulary
from .kv import KV
from .linear import F32
from .prefix import PrefixCache
from .sampler import NoNumbers
from .sequence import Sequence, Spec

PREFILL_WHILE_DECODING = 2
"""Chunks of prompts that may delay a step of those already speaking."""
PREFILL_ALONE = 4
LOOK_BACK = 512
"""Positions that a chunk looks back on count as a chunk more: of a long prompt a step computes fewer."""


class Engine:
    """Plain and synchronous; one thread at a time, but for `new` and `release`.

    A sequence is in the engine from `add` until `remove`, or until a step returns it with `finish` or `error` set.
    """

    def __init__(self, decoder: Decoder, vocabulary: Vocabulary, *, kv_bytes: int, prefix_bytes: int = 0) -> None:
        if len(vocabulary.tokens) != decoder.shape.vocabulary:
            raise ValueError(
                f"the tokenizer has {len(vocabulary.tokens)} tokens and the model {decoder.shape.vocabulary}"
            )
        self.decoder = decoder
        self.grammars = Grammars(vocabulary)
        self.pool = decoder.pool(kv_bytes)
        self.prefixes = PrefixCache(prefix_bytes, CHUNK)
        self.num_steps = self.num_tokens = self.num_prefilled = self.num_replayed = 0
        self._prefilling: dict[str, Sequence] = {}
        self._decoding: dict[str, Sequence] = {}
        self._is_oldests_turn = False

    @property
    def fingerprint(self) -> str:
        return self.decoder.fingerprint

    @property
    def context(self) -> int:
        return self.decoder.shape.context

    @property
    def is_idle(self) -> bool:
        return not self._prefilling and not self._decoding

    def new(self, id: str, spec: Spec) -> Sequence:
        """A sequence with its memory, not yet running. MemoryError if there is no room, GrammarError, ValueError.

        May be called by any thread, as `release` may.
        """
        if spec.longest > self.context:
            raise ValueError(f"{spec.longest} tokens do not fit a window of {self.context}")
        return self.admit(Sequence(id, spec, self.grammars))

    def is_ready(self, spec: Spec) -> bool:
        """Whether making its sequence takes no time worth a thread: no schema is to be compiled."""
        grammars, must = self.grammars, spec.must_call
        return grammars.are_ready(spec.answer, spec.call, is_forced=must, is_parallel=spec.is_parallel)

    def admit(self, sequence: Sequence) -> Sequence:
        """Give a sequence that has not begun its memory. MemoryError if there is no room."""
        sequence.open(self.pool)
        return sequence

    def add(self, sequence: Sequence) -> None:
        """Let `sequence` run, from its beginning or from where it was removed."""
        (self._decoding if sequence.is_prefilled else self._prefilling)[sequence.id] = sequence

    def remove(self, id: str) -> Sequence | None:
        """Take a sequence out, between any two steps. It keeps its KV: `add` goes on with it, `release` frees it."""
        return self._prefilling.pop(id, None) or self._decoding.pop(id, None)

    @staticmethod
    def release(sequence: Sequence) -> None:
        """Free the KV of a sequence that is not in the engine and will not be resumed."""
        sequence.release()

    def step(self) -> list[Sequence]:
        """One token for each sequence that speaks, and some prefill for those that are new.

        Returns the sequences that got a token or an error; those that ended have left the engine and freed their KV.
        """
        speaking = list(self._decoding.values())
        with np.errstate(over="ignore", invalid="ignore"):
            if speaking:
                self._decode(speaking)
            moved = speaking + self._prefill(PREFILL_WHILE_DECODING if speaking else PREFILL_ALONE)
        self.num_steps += 1
        for sequence in moved:
            if sequence.finish is not None or sequence.error is not None:
                self.remove(sequence.id)
                self.release(sequence)
        return moved

    def statistics(self) -> dict[str, Any]:
        """Counts since the start, what is in the engine now, memory as `KVPool` tells it, and what computes here."""
        return {
            "steps": self.num_steps,
            "tokens": self.num_tokens,
            "prefilled_tokens": self.num_prefilled,
            "replayed_tokens": self.num_replayed,
            "decoding": len(self._decoding),
            "prefilling": len(self._prefilling),
            **{f"kv_{name}": number for name, number in self.pool.statistics().items()},
            **{f"prefix_{name}": number for name, number in self.prefixes.statistics().items()},
            "context": self.context,
            "row_counts": list(self.decoder.row_counts),
            "fingerprint": self.fingerprint,
        }

    def _decode(self, speaking: list[Sequence]) -> None:
        logits = self.decoder.decode(
            [sequence.next_input(branch) for sequence in speaking for branch in sequence.branches],
            [branch.kv for sequence in speaking for branch in sequence.branches if branch.kv is not None],
            [sequence.computed for sequence in speaking for _ in sequence.branches],
        )
        at = 0
        for sequence in speaking:
            sequence.computed += 1
            rows = logits[at : at + len(sequence.branches)]
            at += len(rows)
            if sequence.is_caught_up:
                self._choose(sequence, rows)
            else:
                self.num_replayed += len(rows)

    def _prefill(self, chunks: int) -> list[Sequence]:
        """Compute what costs about as much as `chunks` chunks at a prompt's beginning, and one chunk at least; returns
        the sequences that got their first token."""
        begun = []
        while chunks > 0 and self._prefilling:
            sequence = self._next_prompt()
            try:
                self._read(sequence)
            except MemoryError as error:  # the machine may have too little left for this one: the others go on
                sequence.error = error
            chunks -= 1 + sequence.computed // LOOK_BACK
            if _left(sequence) and sequence.error is None:
                continue
            self._decoding[sequence.id] = self._prefilling.pop(sequence.id)
            begun.append(sequence)
        return begun

    def _next_prompt(self) -> Sequence:
        """In turn that which came first, and the one with the least left: a short prompt waits for no long one, and a
        long one goes on."""
        self._is_oldests_turn = not self._is_oldests_turn
        waiting = self._prefilling.values()
        return next(iter(waiting)) if self._is_oldests_turn else min(waiting, key=_left)

    def _read(self, sequence: Sequence) -> None:
        """Compute the next chunk of its prompt, behind what others have computed by now; after the last, it speaks."""
        prompt, kv = sequence.spec.prompt, sequence.line.kv
        assert kv is not None, "what is in the engine has its memory"
        if not sequence.computed or len(self._prefilling) > 1:
            self._reuse(sequence, kv)
        start = sequence.computed
        sequence.computed = self.decoder.prefill(kv, prompt, start)
        self.num_prefilled += sequence.computed - start
        self._keep(sequence)
        if _left(sequence):
            return
        if sequence.line.output:  # it was all computed once, and is again
            sequence.share()
        else:
            self._choose(sequence, self.decoder.last_logits()[None])

    def _reuse(self, sequence: Sequence, kv: KV) -> None:
        """Go on with what another prompt that began alike has computed."""
        if not self.prefixes.budget:
            return
        for piece in self.prefixes.find(sequence.spec.group, sequence.spec.prompt, sequence.computed):
            kv.load(piece, sequence.computed)
            sequence.computed += CHUNK
            sequence.num_cached += 0 if sequence.line.output else CHUNK  # an answer tells how it was computed first

    def _keep(self, sequence: Sequence) -> None:
        """Keep the chunk that was just computed, if it is a whole one."""
        end, kv = sequence.computed, sequence.line.kv
        if not self.prefixes.budget or end % CHUNK or kv is None:
            return
        tokens = sequence.spec.prompt[:end]
        if not self.prefixes.has(sequence.spec.group, tokens):
            self.prefixes.put(sequence.spec.group, tokens, kv.piece(end - CHUNK, end))

    def _choose(self, sequence: Sequence, rows: F32) -> None:
        try:
            if not np.isfinite(rows.max()):
                raise NoNumbers("the model computed what is no number")
            sequence.choose(rows)
            self.num_tokens += len(rows)
        except Exception as error:  # noqa: BLE001  # not caught, but handed to the one who asked: the others go on
            sequence.error = error


def _left(sequence: Sequence) -> int:
    """Tokens of its prompt that are not computed."""
    return len(sequence.spec.prompt) - sequence.computed
