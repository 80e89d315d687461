"""One generation: its lines of tokens, their memory and the sampler. Knows no batch, thread or request format.

It may be taken out of the engine after any token and put back later: with its keys and values as they are, with what
`leave` gave of them, or without any, and then what it said is computed again, step by step as it was. What it says is
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Any

from numpy.typing import NDArray

from . import beams
from .branch import Branch, Finish, Spec
from .grammar import GrammarError, Grammars, Guide
from .kv import KV, KVPool, PoolFull
from .linear import F32
from .sampler import Logprob, Sampler
from .text import TextStream

Array = NDArray[Any]

__all__ = ["Finish", "Sequence", "Spec"]


class Sequence:
    """`branches` are the lines that go on: one, or up to `beam_width` of them. Each has its own KV while it may run."""

    def __init__(self, id: str, spec: Spec, grammars: Grammars) -> None:
        may_call = spec.may_call or spec.must_call
        size = len(grammars.vocabulary.tokens)
        self.id = id
        self.spec = spec
        self.computed = 0
        """Positions whose keys and values are in each branch's KV."""
        self.num_cached = 0
        """Those of them that an earlier prompt had computed."""
        self.num_chosen = 0
        """Tokens chosen, of all branches: what a quantum counts."""
        self.sampler = Sampler(spec.sampling, size, grammars.vocabulary.banned(may_call=may_call))
        self.branches = [Branch(spec, grammars)]
        self.ended: list[Branch] = []
        """Lines of a beam search that are at their end, the best first."""
        self.error: Exception | None = None
        """What went wrong with it alone: it is over, and the others go on."""
        self._told = 0
        """Characters of the thought that there were when text was last taken."""
        self._spare: list[KV] = []
        """Reserved for lines that a beam search may still open."""

    # ── the line that counts: the only one, or the best ──

    @property
    def line(self) -> Branch:
        return self.branches[0] if self.branches else self.ended[0]

    @property
    def output(self) -> list[int]:
        return self.line.output

    @property
    def text(self) -> TextStream:
        return self.line.text

    @property
    def guide(self) -> Guide:
        return self.line.guide

    @property
    def call_bytes(self) -> bytes:
        return self.line.call_bytes

    @property
    def logprobs(self) -> list[Logprob]:
        return self.line.logprobs if self.is_certain else []

    @property
    def finish(self) -> Finish | None:
        return self.line.finish

    @property
    def is_prefilled(self) -> bool:
        """Its first token is chosen, and its prompt is computed."""
        return bool(self.line.output) and self.computed >= len(self.spec.prompt)

    @property
    def is_caught_up(self) -> bool:
        """All that was said is computed: the next token is to be chosen."""
        return self.computed == len(self.spec.prompt) + len(self.line.output)

    @property
    def num_behind(self) -> int:
        """Tokens that were said and must be computed again before the next one, of all branches."""
        last = len(self.spec.prompt) + len(self.line.output) - 1  # it was not computed the first time either
        return (last - max(self.computed, len(self.spec.prompt))) * len(self.branches) if self.line.output else 0

    def next_input(self, branch: Branch) -> int:
        """The first token that is not computed: the last one, but for what is computed again."""
        return branch.output[self.computed - len(self.spec.prompt)]

    @property
    def is_certain(self) -> bool:
        """What the line says will not be taken back: a beam search may still turn to another one."""
        return self.spec.beam_width == 1 or self.finish is not None

    @property
    def has_text(self) -> bool:
        """Whether there is any, of the answer or of what was thought, since `take_text` was last asked."""
        return self.is_certain and (any(self.line.fresh) or len(self.line.thought.text) > self._told)

    @property
    def thought(self) -> str:
        """What the model thought aloud, as far as that is certain."""
        return self.line.thought.text if self.is_certain else ""

    def take_text(self) -> str:
        """The text that became certain since the last time."""
        if not self.is_certain:
            return ""
        fresh = self.line.fresh
        text = "".join(fresh)
        fresh.clear()
        self._told = len(self.line.thought.text)
        return text

    # ── the next token ──

    def choose(self, rows: F32) -> None:
        """Take the next token of each branch from its row of logits (branches, vocabulary), and its consequences."""
        if self.spec.beam_width == 1:
            self.branches[0].choose(self.sampler, rows[0])
            self.num_chosen += 1
        else:
            self._search(rows)

    def _search(self, rows: F32) -> None:
        width, before = self.spec.beam_width, self.branches
        parents, going, ended = beams.step(before, list(rows), width, self.sampler)
        self.num_chosen += len(before)
        self.ended = beams.best(self.ended + ended, width)
        if not going and not self.ended:
            raise GrammarError("the schema lets nothing follow")
        if beams.is_over(going, self.ended, width):
            parents, going = [], []
        self.branches = [*before, *going]  # whatever comes, their memory is known
        self._hand_on(before, parents, going)
        self.branches = going

    def _hand_on(self, before: list[Branch], parents: list[int], going: list[Branch]) -> None:
        """The first child of a branch takes its KV; the others get copies, in KV of lines that have ended."""
        sources = [branch.kv for branch in before]
        self._spare += [kv for index, kv in enumerate(sources) if index not in parents and kv is not None]
        taken: set[int] = set()
        for parent, child in zip(parents, going, strict=True):
            source = sources[parent]
            if parent in taken and source is not None:
                child.kv = self._spare.pop()
                child.kv.copy(source, self.computed)
            else:
                child.kv = source
                taken.add(parent)

    # ── memory ──

    def bytes_in(self, pool: KVPool) -> int:
        """Bytes that it reserves there, at its longest and widest."""
        return pool.shape.bytes(self.spec.longest) * self.spec.beam_width

    def open(self, pool: KVPool) -> None:
        """Take memory for what is computed and for all that may come. PoolFull, and MemoryError when the machine has
        none: nothing is taken then."""
        if self.bytes_in(pool) > pool.room:
            raise PoolFull(f"no room for {self.bytes_in(pool)} bytes of KV: {pool.room} of {pool.budget} are left")
        now = max(len(self.spec.prompt), self.computed) + 1
        try:
            for branch in self.branches:
                branch.kv = pool.open(self.spec.longest, now=now)
            for _ in range(self.spec.beam_width - len(self.branches)):
                self._spare.append(pool.open(self.spec.longest))
        except BaseException:  # whatever it is, nothing stays reserved
            self.release()
            raise

    def size_in(self, pool: KVPool) -> int:
        """Bytes of keys and values that `leave` gives."""
        return pool.shape.exact_bytes(self.computed) * sum(branch.kv is not None for branch in self.branches)

    def copying(self) -> Callable[[], list[Array]]:
        """What gives copies of its keys and values, a branch each. Any thread may call it; when the sequence goes on
        meanwhile they are of no use."""
        kvs, computed = [branch.kv for branch in self.branches if branch.kv is not None], self.computed
        return lambda: [kv.export(computed) for kv in kvs]

    def leave(self) -> list[Array]:
        """Give its memory back. Returns copies of the keys and values that it held."""
        arrays = self.copying()()
        self.release()
        return arrays

    def enter(self, pool: KVPool, arrays: Many[Array] | None) -> None:
        """Be in memory again, with what `leave` gave, else with nothing computed; raises as `reopen`."""
        self.reopen(pool, arrays)()

    def reopen(self, pool: KVPool, arrays: Many[Array] | None) -> Callable[[], None]:
        """Take memory for `arrays`, which what it returns puts there; any thread may call that. Raises MemoryError when
        `pool` is full, ValueError when `arrays` are not this sequence's; all is as before then."""
        if arrays is not None and not self._fit(pool, arrays):
            raise ValueError("its keys and values are of another shape")
        before = self.computed
        self.computed = self.computed if arrays is not None else 0
        try:
            self.open(pool)
        except MemoryError:
            self.computed = before
            raise
        kvs = [branch.kv for branch in self.branches if branch.kv is not None]

        def load() -> None:
            for kv, data in zip(kvs, arrays or (), strict=False):
                kv.load(data)

        return load

    def _fit(self, pool: KVPool, arrays: Many[Array]) -> bool:
        shape = pool.shape
        wanted = (shape.layers, 2 * shape.kv_heads, self.computed, shape.head_dim)
        return len(arrays) == len(self.branches) and all(array.shape == wanted for array in arrays)

    def share(self) -> None:
        """The first branch has computed the prompt for all."""
        for branch in self.branches[1:]:
            if branch.kv is not None and self.line.kv is not None:
                branch.kv.copy(self.line.kv, self.computed)

    def release(self) -> None:
        """Give all KV back to its pool."""
        for branch in self.branches:
            if branch.kv is not None:
                branch.kv.free()
                branch.kv = None
        for kv in self._spare:
            kv.free()
        self._spare = []
