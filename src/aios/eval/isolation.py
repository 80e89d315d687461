"""Two agents of two owners do random things with memory and files, and neither may see a byte that is the other's own.

Both use the same words, names and paths, so that whatever is looked up by them is found at both; what tells texts apart
are marks, `pa…` in what is the first one's own, `pb…` in the second's, `sh…` in what they share. Every result and every
error is searched for the other's mark. They also ask for each other's ids, which they could not know.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import msgspec

from aios.abi import calls as abi
from aios.abi.errors import AiosError
from aios.abi.memory import EntryKind, SearchMode
from aios.kernel import ByteSize, Config, GroupSection, Kernel, MemorySection, Principal
from aios.testing import ScriptedCore, booted

WORDS = ("door", "code", "cat", "ship", "lamp", "river", "stone", "green", "north", "seven", "bread", "glass", "tower")
FOLDERS = ("", "notes", "notes/old", "work", "work/plans")
NAMES = ("a.md", "b.txt", "c.csv", "d.py")
KINDS: tuple[EntryKind, ...] = get_args(EntryKind)
MODES: tuple[SearchMode, ...] = get_args(SearchMode)
SHARED, BOARD = "team", "board"
"""Blocks: both may do all with the first, and one of them only read the second."""
KEPT = 10
"""Leaks that are told in full."""
MAX_IDS = 200


@dataclass(slots=True)
class Found:
    """What came out so far."""

    seed: int
    count: int = 0
    refused: int = 0
    by_call: Counter[str] = field(default_factory=Counter)
    foreign_asks: int = 0
    leaks: list[str] = field(default_factory=list)

    @property
    def is_proven(self) -> bool:
        return not self.leaks

    def to_dict(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "operations": self.count,
            "refused": self.refused,
            "asked_for_the_others": self.foreign_asks,
            "leaks": self.leaks,
            "by_call": dict(self.by_call),
        }


@dataclass(slots=True)
class Agent:
    """One of the two: what it writes, what it knows, and what it must never see."""

    mark: str
    who: Principal
    draw: random.Random
    ids: list[tuple[str, str | None]] = field(default_factory=list)
    num_texts: int = 0

    def text(self, block: str | None = None) -> str:
        """Common words around a mark that says whose it is."""
        self.num_texts += 1
        mark = f"{'sh' if block else self.mark}{self.num_texts:06x}"
        words = self.draw.choices(WORDS, k=self.draw.choice((3, 8, 30, 200)))
        words.insert(self.draw.randrange(len(words)), mark)
        return " ".join(words)

    def path(self) -> str:
        folder = self.draw.choice(FOLDERS)
        name = self.draw.choice(NAMES)
        if self.draw.random() < 0.3:  # a name of its own, which is told in listings
            name = f"{self.mark}{self.draw.randrange(16):02x}-{name}"
        return f"{folder}/{name}" if folder else name

    def words(self) -> str:
        return " ".join(self.draw.choices(WORDS, k=self.draw.randint(1, 3)))


async def prove(
    count: int, home: Path, *, seed: int = 0, on_step: Callable[[Found], None] = lambda found: None
) -> Found:
    """`count` operations on a kernel in `home`; `on_step` is told from time to time."""
    found = Found(seed)
    async with booted(cores=[ScriptedCore()], home=home, config=_config()) as kernel:
        pair = [_agent(kernel, owner, mark, seed) for owner, mark in (("ann", "pa"), ("ben", "pb"))]
        for agent in pair:
            for block in ("own", SHARED, BOARD):
                await _do(kernel, found, agent, pair, "mem_alloc", abi.MemAlloc(block=block))
        while found.count < count:
            agent = pair[found.count % 2]
            name, args = _drawn(agent, pair[(found.count + 1) % 2], found)
            await _do(kernel, found, agent, pair, name, args)
            if found.count % 1000 == 0:
                on_step(found)
    return found


def _config() -> Config:
    both = ["mem_read", "mem_write", "mem_clear", "mem_alloc"]
    groups = [
        GroupSection(name="pair", members=["ann:writer", "ben:writer"], may=[f"{call}:{SHARED}" for call in both]),
        GroupSection(name="readers", members=["ann:writer"], may=[f"mem_read:{BOARD}"]),
        GroupSection(name="writers", members=["ben:writer"], may=[f"{call}:{BOARD}" for call in both]),
    ]
    # So little memory that entries leave it and come back all the time.
    memory = MemorySection(limit=ByteSize(256 << 10), total=ByteSize(1 << 20))
    return msgspec.structs.replace(Config(), group=groups, memory=memory)


def _agent(kernel: Kernel, owner: str, mark: str, seed: int) -> Agent:
    _, key = kernel.access.mint(owner=owner, agent="writer")
    return Agent(mark, kernel.authenticate(key), random.Random(f"{seed} {mark}"))


async def _do(kernel: Kernel, found: Found, agent: Agent, pair: list[Agent], name: str, args: abi.Args) -> None:
    found.count += 1
    found.by_call[name] += 1
    try:
        result = await kernel.call(agent.who, name, args)
    except AiosError as error:
        found.refused += 1
        said = f"{error.message} {error.param}"
    else:
        said = msgspec.json.encode(result).decode()
        if isinstance(result, abi.Written) and name == "mem_write":
            agent.ids.append((result.id, getattr(args, "block", None)))
            del agent.ids[:-MAX_IDS]
    (other,) = (each for each in pair if each is not agent)
    if (leak := re.search(rf"\b{other.mark}[0-9a-f]{{2,}}", said)) and len(found.leaks) < KEPT:
        found.leaks.append(f"{agent.mark} saw {leak[0]} by {name} {msgspec.json.encode(args).decode()[:300]}")


def _drawn(agent: Agent, other: Agent, found: Found) -> tuple[str, abi.Args]:
    draw = agent.draw
    block = draw.choices((None, "own", SHARED, BOARD), (5, 2, 2, 1))[0]
    if draw.random() < 0.5:
        return _memory(agent, other, block, found)
    return _files(agent)


def _memory(agent: Agent, other: Agent, block: str | None, found: Found) -> tuple[str, abi.Args]:
    draw = agent.draw
    name = draw.choices(
        ("mem_write", "mem_update", "mem_read", "mem_history", "mem_search", "mem_list", "mem_stat", "mem_clear"),
        (30, 6, 20, 6, 20, 6, 3, 3),
    )[0]
    is_shared = block in (SHARED, BOARD)
    id, block_of_it = _id(agent, other, block, found)
    match name:
        case "mem_write":
            text = agent.text(block if is_shared else None)
            return name, abi.MemWrite(
                content=text, kind=draw.choice(KINDS), metadata={"n": draw.randrange(3)}, block=block
            )
        case "mem_update":
            is_theirs = block_of_it in (SHARED, BOARD)
            return name, abi.MemUpdate(id=id, content=agent.text(block_of_it if is_theirs else None), block=block_of_it)
        case "mem_read":
            return name, abi.MemRead(id=id, block=block_of_it)
        case "mem_history":
            return name, abi.MemHistory(id=id, block=block_of_it)
        case "mem_search":
            kinds = [draw.choice(KINDS)] if draw.random() < 0.2 else None
            return name, abi.MemSearch(query=agent.words(), k=20, block=block, mode=draw.choice(MODES), kinds=kinds)
        case "mem_list":
            return name, abi.MemList(limit=50, block=block, after=id if draw.random() < 0.5 else None)
        case "mem_stat":
            return name, abi.MemStat(block=block)
    if draw.random() < 0.02 and not is_shared:
        return name, abi.MemClear(all=True, block=block)
    return name, abi.MemClear(id=id, block=block_of_it)


def _id(agent: Agent, other: Agent, block: str | None, found: Found) -> tuple[str, str | None]:
    """An id of its own, or one of the other's that it could not know, in whichever block."""
    if other.ids and agent.draw.random() < 0.3:
        found.foreign_asks += 1
        return agent.draw.choice(other.ids)[0], block
    return agent.draw.choice(agent.ids) if agent.ids else ("m000000000000001", None)


def _files(agent: Agent) -> tuple[str, abi.Args]:
    draw, path = agent.draw, agent.path()
    name = draw.choices(
        ("sto_write", "sto_read", "sto_list", "sto_history", "sto_diff", "sto_move", "sto_clear", "sto_restore",
         "sto_rollback", "sto_create", "sto_stat", "sto_share"),
        (30, 20, 10, 6, 6, 5, 4, 4, 3, 2, 2, 2),
    )[0]  # fmt: skip
    match name:
        case "sto_write":
            text = agent.text() * draw.choice((1, 1, 1, 200))  # some as large as are kept in chunks
            return name, abi.StoWrite(path=path, content=text)
        case "sto_read":
            return name, abi.StoRead(path=path, version=draw.choice((None, None, 1, 2)))
        case "sto_list":
            return name, abi.StoList(path=draw.choice(FOLDERS), trash=draw.random() < 0.2)
        case "sto_history":
            return name, abi.StoHistory(path=path)
        case "sto_diff":
            return name, abi.StoDiff(path=path)
        case "sto_move":
            return name, abi.StoMove(path=path, to=agent.path())
        case "sto_clear":
            return name, abi.StoClear(path=path)
        case "sto_restore":
            return name, abi.StoRestore(path=path)
        case "sto_rollback":
            return name, abi.StoRollback(path=path, version=draw.randint(1, 3))
        case "sto_share":
            return name, abi.StoShare(path=path, ttl=draw.choice((0, 60)))
        case "sto_create":
            return name, abi.StoCreate(path=path, kind=draw.choice(("file", "folder")))
    return name, abi.StoStat()
