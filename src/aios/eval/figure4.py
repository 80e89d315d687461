"""The paper's figure 4: a beam search that is interrupted in its middle, saved in two forms, and gone on with. Knows
the packaged model and its engine; prints nothing.

The question is the paper's. The model, of four million parameters, is held to a call of one of two tools; what it looks
for is which of them, and with which words.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Any

from aios.abi.calls import LLMGenerate
from aios.abi.messages import FunctionSpec, Message, ToolSpec
from aios.kernel.context.base import About
from aios.kernel.context.logits import LogitsSnapshot, read
from aios.kernel.llm.local.chat import ChatTemplate
from aios.kernel.llm.local.engine import Engine
from aios.kernel.llm.local.load import load
from aios.kernel.llm.local.request import Translator
from aios.kernel.llm.local.sequence import Sequence, Spec
from aios.kernel.llm.local.snapshot import sequence_of, state_of
from aios.kernel.llm.local.tokenizer import Tokenizer
from aios.kernel.llm.nano import WEIGHTS, vocabulary_of

QUESTION = "Determine whether there will be rain in the destination of flight UA057."
WIDTH = 3
KV_BYTES = 1 << 28
LEAST_CHANCE = 1e-3
"""What was given up at once with less than this, such as another way to cut the same text into tokens, is left out."""
OTHER_TOKENS = 40
"""What another agent is given of the model while the search is away."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the search after a step: its tokens, and the logarithm of their probability."""

    tokens: tuple[int, ...]
    score: float


@dataclass(frozen=True, slots=True)
class Frame:
    """The search after a step: the lines that go on, and those that have ended."""

    live: tuple[Line, ...]
    ended: tuple[Line, ...]


@dataclass(slots=True)
class Node:
    """A stretch that all lines below it share. `chance` is its probability after what stands before it.

    `cut` is where in `text` the search was interrupted, if it was there; `fate` is of the line that ends here.
    """

    text: str
    chance: float
    fate: str = ""
    cut: int | None = None
    children: list[Node] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        mark = {"interrupted_at": self.cut} if self.cut is not None else {}
        below = {"children": [child.to_dict() for child in self.children]} if self.children else {}
        fate = {"fate": self.fate} if self.fate else {}
        return {"text": self.text, "chance": round(self.chance, 6), **fate, **mark, **below}


@dataclass(frozen=True, slots=True)
class Way:
    """A search that was saved, and went on from the bytes: `is_equal` to the one that nobody interrupted, in the lines
    of each step and each bit of their scores. `ms` from the bytes to the next step's end."""

    form: str
    bytes: int
    ms: float
    is_equal: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """All that there is to show."""

    prompt_tokens: int
    steps: int
    after: int
    """The step after which it was interrupted."""
    lines: list[tuple[str, float]]
    """Those that went on then, with the logarithms of their probabilities."""
    tree: Node
    answer: str
    ways: list[Way]

    def to_dict(self) -> dict[str, Any]:
        return {
            "question": QUESTION,
            "prompt_tokens": self.prompt_tokens,
            "beam_width": WIDTH,
            "steps": self.steps,
            "interrupted_after": self.after,
            "lines": [{"text": text, "log_probability": score} for text, score in self.lines],
            "answer": self.answer,
            "ways": [
                {"form": way.form, "bytes": way.bytes, "resume_ms": round(way.ms, 3), "is_equal": way.is_equal}
                for way in self.ways
            ],
            "is_equal": all(way.is_equal for way in self.ways),
            "tree": self.tree.to_dict(),
        }


def show() -> Shown:
    """Search once without an interrupt, and once for each form with one."""
    scene = _Scene()
    alone = scene.new("alone")
    frames = scene.search(alone)
    after = _middle(frames)
    ways = [scene.interrupted(form, frames, after) for form in ("logits", "text")]
    live = [(scene.text(line.tokens), line.score) for line in frames[after - 1].live]
    best = max(frames[-1].ended, key=lambda line: line.score / len(line.tokens))
    tree = _Tree(scene, frames, after, best).node()
    return Shown(len(alone.spec.prompt), len(frames), after, live, tree, scene.text(best.tokens), ways)


def _middle(frames: list[Frame]) -> int:
    """A step in whose lines different words have begun, and after which something is left to be said."""
    half = range(len(frames) // 2, len(frames) - 2)
    return next((n for n in half if len({line.tokens[:n] for line in frames[n - 1].live}) == WIDTH), len(frames) // 2)


class _Scene:
    """The model and the question, and engines, each with a memory of its own."""

    def __init__(self) -> None:
        tokenizer = Tokenizer.load(WEIGHTS / "tokenizer.json")
        self._decoder = load(WEIGHTS)
        self._words = vocabulary_of(tokenizer)
        asked = LLMGenerate(
            messages=[Message("user", QUESTION)],
            tools=[_tool("lookup", "Looks up a fact by its key", "key"), _tool("search", "Searches the web", "query")],
            tool_choice="required",
            beam_width=WIDTH,
            max_tokens=40,
        )
        context = self._decoder.shape.context
        self._spec = Translator(ChatTemplate(tokenizer), self._words, context).spec(asked)
        self._engine = self._fresh()

    def _fresh(self) -> Engine:
        return Engine(self._decoder, self._words, kv_bytes=KV_BYTES)

    def new(self, name: str) -> Sequence:
        return self._engine.new(name, self._spec)

    def text(self, tokens: Many[int]) -> str:
        said = b"".join(self._words.tokens[token] for token in tokens if token != self._words.call)
        return said.decode("utf-8", "replace")

    def search(self, sequence: Sequence, steps: int | None = None) -> list[Frame]:
        """What the search comes to in so many steps, or to its end."""
        engine = self._engine
        frames: list[Frame] = []
        engine.add(sequence)
        while sequence.finish is None and (steps is None or len(frames) < steps):
            before = sequence.num_chosen
            engine.step()
            if sequence.num_chosen > before:
                frames.append(Frame(_lines(sequence.branches), _lines(sequence.ended)))
        engine.remove(sequence.id)
        return frames

    def interrupted(self, form: str, frames: list[Frame], after: int) -> Way:
        """Search up to `after`, save that and throw the engine away; let another agent speak; go on from the bytes."""
        sequence = self.new(form)
        said = self.search(sequence, after)
        data = self._saved(sequence, form)
        self._engine.release(sequence)
        self._engine = self._fresh()
        self._let_another_speak()
        begun = time.perf_counter()
        restored = self._restored(data)
        said += self.search(restored, 1)
        ms = (time.perf_counter() - begun) * 1e3
        said += self.search(restored)
        return Way(form, len(data), ms, said == frames)

    def _saved(self, sequence: Sequence, form: str) -> bytes:
        about = About(sequence.id, "nano", self._engine.fingerprint, "nano")
        arrays = [branch.kv.export(sequence.computed) for branch in sequence.branches if branch.kv is not None]
        snapshot = LogitsSnapshot(about, state_of(sequence), arrays)
        return b"".join((snapshot if form == "logits" else snapshot.as_text()).parts())

    def _restored(self, data: bytes) -> Sequence:
        found = read(data)
        sequence = sequence_of(found.about.key, found.state, self._engine.grammars)
        sequence.enter(self._engine.pool, found.arrays)
        return sequence

    def _let_another_speak(self) -> None:
        other = self._engine.new("another", Spec(tuple(range(40, 90)), max_tokens=OTHER_TOKENS))
        self._engine.add(other)
        while not self._engine.is_idle:
            self._engine.step()


def _tool(name: str, about: str, parameter: str) -> ToolSpec:
    schema = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    return ToolSpec(FunctionSpec(name, about, schema))


def _lines(branches: Many[Any]) -> tuple[Line, ...]:
    return tuple(Line(tuple(branch.output), branch.score) for branch in branches)


class _Tree:
    """All lines that ever went on, as one tree whose stretches between two forks are one node."""

    def __init__(self, scene: _Scene, frames: list[Frame], after: int, best: Line) -> None:
        self._scene = scene
        self._after = after
        self._best = best.tokens
        self._scores: dict[tuple[int, ...], float] = {(): 0.0}
        for frame in frames:
            self._scores |= {line.tokens: line.score for line in (*frame.live, *frame.ended)}
        self._ended = {line.tokens for frame in frames for line in frame.ended}
        self._cut = {line.tokens for line in frames[after - 1].live}
        self._children: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for tokens in sorted(self._scores, key=len, reverse=True):  # from the leaves to the root
            if tokens and self._is_worth_telling(tokens):
                self._children.setdefault(tokens[:-1], []).append(tokens)

    def _is_worth_telling(self, tokens: tuple[int, ...]) -> bool:
        if tokens in self._ended or tokens in self._children:
            return True
        return self._scores[tokens] - self._scores[tokens[:-1]] > math.log(LEAST_CHANCE)

    def node(self, start: tuple[int, ...] = (), end: tuple[int, ...] = ()) -> Node:
        """The stretch from `start`, exclusive, over `end` up to the next fork or end of a line, and what is below."""
        while len(below := self._children.get(end, [])) == 1 and end not in self._ended:
            end = below[0]
        cut = next((tokens for tokens in self._cut if end[: self._after] == tokens and len(start) < self._after), None)
        made = Node(
            self._scene.text(end[len(start) :]),
            math.exp(self._scores[end] - self._scores[start]),
            self._fate(end, below),
            len(self._scene.text(cut[len(start) :])) if cut is not None else None,
        )
        made.children = [self.node(end, child) for child in sorted(below, key=lambda child: -self._scores[child])]
        return made

    def _fate(self, end: tuple[int, ...], below: list[tuple[int, ...]]) -> str:
        if end in self._ended:
            return "chosen" if end == self._best else "ended"
        return "" if below else "given up"
