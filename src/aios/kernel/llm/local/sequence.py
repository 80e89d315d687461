"""One generation: its lines of tokens, their memory and the sampler. Knows no batch, thread or request format.

It may be taken out of the engine after any token and put back later, as it is or through bytes (`snapshot.py`): what
it says is the same.
"""

from __future__ import annotations

from . import beams
from .branch import Branch, Finish, Spec
from .grammar import GrammarError, Grammars, Guide
from .kv import KV, KVPool
from .linear import F32
from .sampler import Logprob, Sampler
from .text import TextStream

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
        self.aside: list[F32] | None = None
        """What the branches' KV held, while it is moved aside."""
        self.error: ValueError | None = None
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
        return bool(self.line.output)

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
        """Take memory for what is computed and for all that may come. MemoryError if there is no room."""
        if self.bytes_in(pool) > pool.room:
            raise MemoryError(f"no room for {self.bytes_in(pool)} bytes of KV: {pool.room} of {pool.budget} are left")
        now = max(len(self.spec.prompt), self.computed) + 1
        for branch in self.branches:
            branch.kv = pool.open(self.spec.longest, now=now)
        self._spare = [pool.open(self.spec.longest) for _ in range(self.spec.beam_width - len(self.branches))]

    def saved(self) -> list[F32] | None:
        """The keys and values of each branch, as arrays; None if it has none: it has not begun, or is over."""
        kvs = [branch.kv for branch in self.branches if branch.kv is not None]
        return [kv.export(self.computed) for kv in kvs] or self.aside

    def move_aside(self) -> bool:
        """Take the keys and values out of their pool. False if it has none there."""
        if self.aside is None:
            self.aside = self.saved()
            self.release()
            return self.aside is not None
        return False

    def move_back(self, pool: KVPool) -> None:
        """Undo `move_aside`. Raises MemoryError when `pool` is full."""
        if self.aside is None:
            return
        self.open(pool)
        for branch, data in zip(self.branches, self.aside, strict=True):
            if branch.kv is not None:
                branch.kv.load(data)
        self.aside = None

    def release(self) -> None:
        """Give all KV back to its pool."""
        for branch in self.branches:
            if branch.kv is not None:
                branch.kv.free()
                branch.kv = None
        for kv in self._spare:
            kv.free()
        self._spare = []
