"""What an agent does next, drawn so that it can be carried out. Knows no kernel, only what was promised so far."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .known import File, Known

FOLDERS = ("", "a", "a/b", "c")
NAMES = ("one.md", "two.txt", "three")
WORDS = [
    "river",
    "stone",
    "lamp",
    "winter",
    "copper",
    "garden",
    "signal",
    "engine",
    "harbour",
    "velvet",
    "ladder",
    "orbit",
]
KINDS = ("dialogue", "observation", "tool_call", "note", "fact")
MAX_ENTRIES = 30
"""Of a block. Beyond them one is forgotten for each that is written."""
MAX_VERSIONS = 30
"""Of all live files. Beyond them files are cleared, and the trash is emptied."""


class Step(NamedTuple):
    """A call. With a `key` it is asked again until it is answered."""

    name: str
    args: dict[str, Any]
    key: str | None = None


class Steps:
    """Those of one agent, whose blocks are `blocks`. Every text has a word of its own, by which it is found."""

    def __init__(self, agent: str, blocks: tuple[str, ...], draw: random.Random, keyed: float = 0.6) -> None:
        self._agent, self._blocks, self._draw, self._keyed = agent, blocks, draw, keyed
        self._num_texts = self._num_keys = 0
        self._said = ""
        self._writes: list[tuple[int, Callable[[Known], Step | None]]] = [
            (12, self._mem_write), (4, self._mem_update), (2, self._forget), (1, self._mem_alloc),
            (12, self._sto_write), (5, self._large), (1, self._sto_create), (3, self._sto_move),
            (3, self._sto_clear), (2, self._sto_restore), (3, self._sto_rollback), (2, self._empty),
        ]  # fmt: skip

    def next(self, known: Known) -> Step:
        weights, kinds = zip(*self._writes, strict=True)
        while (step := self._draw.choices(kinds, weights)[0](known)) is None:
            pass
        return self._with_key(step)

    def one_of_each(self, known: Callable[[], Known]) -> Iterator[Step]:
        """One step of each kind, and where that cannot be, another."""
        for _, kind in self._writes:
            tried = (kind(known()) for _ in range(20))
            step = next((step for step in tried if step is not None), None)
            yield self.next(known()) if step is None else self._with_key(step)

    def _with_key(self, step: Step) -> Step:
        if self._draw.random() >= self._keyed:
            return step
        self._num_keys += 1
        return step._replace(key=f"{self._agent}-{self._num_keys}")

    def text(self, length: int) -> str:
        """So many characters or some more."""
        self._num_texts += 1
        own = f"w{self._agent}{self._num_texts}x"
        words = self._draw.choices(WORDS, k=max(3, length // 7))
        return " ".join([own, *words])

    # ── memory ──

    def _block(self) -> dict[str, str]:
        block = self._draw.choice(self._blocks)
        return {"block": block} if block else {}

    def _mem_write(self, known: Known) -> Step | None:
        where = self._block()
        if where.get("block", "") not in known.blocks:
            return self._mem_alloc(known)
        if len(known.blocks[where.get("block", "")]) >= MAX_ENTRIES:
            return self._forget(known)
        args: dict[str, Any] = {"content": self._content(), "kind": self._draw.choice(KINDS), **where}
        if self._draw.random() < 0.4:
            args |= {"metadata": {"n": self._draw.randrange(9)}, "importance": self._draw.randrange(5) / 4}
        if self._draw.random() < 0.3:
            args["source"] = f"https://example.org/{self._draw.randrange(9)}"
        return Step("mem_write", args)

    def _content(self) -> str:
        """Mostly short; some long, and some that begin like the last long one, as dialogues grow."""
        if self._draw.random() < 0.6:
            return self.text(60)
        if self._said and self._draw.random() < 0.6 and len(self._said) < 30_000:
            self._said = f"{self._said}\n{self.text(800)}"
        else:
            self._said = self.text(4000)
        return self._said

    def _known_id(self, known: Known) -> dict[str, str] | None:
        where = self._block()
        ids = known.ids(where.get("block", ""))
        return {"id": self._draw.choice(ids), **where} if ids else None

    def _mem_update(self, known: Known) -> Step | None:
        if (which := self._known_id(known)) is None:
            return None
        changes: dict[str, Any] = {"content": self._content()} if self._draw.random() < 0.7 else {}
        if self._draw.random() < 0.5 or not changes:
            changes["importance"] = self._draw.randrange(5) / 4
        return Step("mem_update", {**which, **changes})

    def _forget(self, known: Known) -> Step | None:
        where = self._block()
        if known.ids(where.get("block", "")) and self._draw.random() < 0.06:
            return Step("mem_clear", {"all": True, **where})
        which = self._known_id(known)
        return None if which is None else Step("mem_clear", dict(which))

    def _mem_alloc(self, known: Known) -> Step:
        limit = self._draw.choice((16 << 10, 32 << 10, 64 << 10))
        return Step("mem_alloc", {"limit": limit, "k": self._draw.randint(1, 3), **self._block()})

    # ── files ──

    def _path(self) -> str:
        folder, name = self._draw.choice(FOLDERS), self._draw.choice(NAMES)
        return f"{folder}/{name}" if folder else name

    def _free_path(self, known: Known) -> str | None:
        path = self._path()
        return None if known.find(path) is not None or _is_below_a_file(known, path) else path

    def _sto_write(self, known: Known) -> Step | None:
        return self._written(known, self._draw.choice((0, 40, 400, 4000)))

    def _large(self, known: Known) -> Step | None:
        """Kept in chunks, the longest in files."""
        return self._written(known, self._draw.choice((150_000, 400_000)))

    def _written(self, known: Known, length: int) -> Step | None:
        path = self._path()
        there = known.find(path)
        if _num_versions(known) >= MAX_VERSIONS:
            return self._sto_clear(known)
        if isinstance(there, dict) or _is_below_a_file(known, path):
            return None
        args: dict[str, Any] = {"path": path, "content": self.text(length) if length else ""}
        if self._draw.random() < 0.3:
            args["base"] = len(there.versions) if there is not None else 0
        return Step("sto_write", args)

    def _sto_create(self, known: Known) -> Step | None:
        if self._draw.random() < 0.5:
            folder = f"d{self._draw.randrange(4)}"
            return None if known.find(folder) is not None else Step("sto_create", {"path": folder, "kind": "folder"})
        path = self._free_path(known)
        return None if path is None else Step("sto_create", {"path": path})

    def _sto_move(self, known: Known) -> Step | None:
        paths, to = known.paths(File) + known.paths(dict), self._free_path(known)
        path = self._draw.choice(paths) if paths else ""
        if not path or to is None or f"{to}/".startswith(f"{path}/"):
            return None
        return Step("sto_move", {"path": path, "to": to})

    def _sto_clear(self, known: Known) -> Step | None:
        paths = known.paths(File) + known.paths(dict)
        return Step("sto_clear", {"path": self._draw.choice(paths)}) if paths else None

    def _empty(self, known: Known) -> Step | None:
        return Step("sto_clear", {"path": ".", "trash": True}) if known.trash else None

    def _sto_restore(self, known: Known) -> Step | None:
        if not known.trash:
            return None
        path, node = self._draw.choice(known.trash)
        if isinstance(node, dict) and node and self._draw.random() < 0.5:  # something of a folder comes back alone
            path = f"{path}/{self._draw.choice(list(node))}"
        free = known.find(path) is None and not _is_below_a_file(known, path)
        return Step("sto_restore", {"path": path}) if free else None

    def _sto_rollback(self, known: Known) -> Step | None:
        paths = known.paths(File)
        if not paths or _num_versions(known) >= MAX_VERSIONS:
            return None
        path = self._draw.choice(paths)
        return Step("sto_rollback", {"path": path, "version": self._draw.randint(1, len(known.find(path).versions))})


def _num_versions(known: Known) -> int:
    return sum(len(known.find(path).versions) for path in known.paths(File))


def _is_below_a_file(known: Known, path: str) -> bool:
    parts = path.split("/")[:-1]
    return any(isinstance(known.find("/".join(parts[: n + 1])), File) for n in range(len(parts)))
