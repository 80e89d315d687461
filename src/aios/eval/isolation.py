"""Two agents of two owners do random things with memory and files, and neither may see a byte that is the other's own.

Both use the same words, names and paths, so that whatever is looked up by them is found at both; what tells texts apart
are marks, `pa…` in what is the first one's own, `pb…` in the second's, `sh…` in what they share. Every result and every
error is searched for the other's mark, and so is what a link of either opens. They also ask for each other's ids, and
for links that were never made, which they could not know.
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
from aios.abi.errors import AiosError, NotFound
from aios.abi.memory import EntryKind, SearchMode
from aios.kernel import ByteSize, Config, GroupSection, Kernel, MemorySection, MountSection, Principal
from aios.testing import ScriptedCore, booted

WORDS = ("door", "code", "cat", "ship", "lamp", "river", "stone", "green", "north", "seven", "bread", "glass", "tower")
FOLDERS = ("", "notes", "notes/old", "work", "work/plans")
NAMES = ("a.md", "b.txt", "c.csv", "d.py")
KINDS: tuple[EntryKind, ...] = get_args(EntryKind)
MODES: tuple[SearchMode, ...] = get_args(SearchMode)
SHARED, BOARD = "team", "board"
"""Blocks of memory, and mounts among files: both may do all with the first, and one of them only read the second."""
OWN = "own"
"""A block, and a mount, that each has of that name."""
KEPT = 10
"""Leaks that are told in full."""
MAX_IDS, MAX_LINKS = 200, 50


@dataclass(slots=True)
class Found:
    """What came out so far."""

    seed: int
    count: int = 0
    refused: int = 0
    by_call: Counter[str] = field(default_factory=Counter)
    foreign_asks: int = 0
    passages: int = 0
    followed: int = 0
    leaks: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Calls that failed by a fault of the kernel's: it may have been the last thing that kept something in."""

    @property
    def is_proven(self) -> bool:
        return not self.leaks and not self.broken

    def look(self, said: str, mark: str, how: str) -> None:
        """Whoever is told `said` must not see `mark` in it."""
        if (leak := re.search(rf"\b{mark}[0-9a-f]{{2,}}", said)) and len(self.leaks) < KEPT:
            self.leaks.append(f"{leak[0]} was seen {how}")

    def to_dict(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "operations": self.count,
            "refused": self.refused,
            "asked_for_the_others": self.foreign_asks,
            "passages_found": self.passages,
            "links_followed": self.followed,
            "leaks": self.leaks,
            "broken": self.broken,
            "by_call": dict(self.by_call),
        }


@dataclass(slots=True)
class Agent:
    """One of the two: what it writes, what it knows, and what it must never see."""

    mark: str
    who: Principal
    draw: random.Random
    ids: list[tuple[str, str | None]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    num_texts: int = 0

    def text(self, space: str | None = None) -> str:
        """Common words around a mark that says whose it is: what goes into the block or mount `space`, if that is
        shared, is both's."""
        self.num_texts += 1
        mark = f"{self.mark_in(space)}{self.num_texts:06x}"
        words = self.draw.choices(WORDS, k=self.draw.choice((3, 8, 30, 200)))
        words.insert(self.draw.randrange(len(words)), mark)
        return " ".join(words)

    def mark_in(self, space: str | None) -> str:
        return "sh" if space in (SHARED, BOARD) else self.mark

    def folder(self, mount: str | None) -> str:
        return "/".join(part for part in (mount, self.draw.choice(FOLDERS)) if part)

    def path(self, mount: str | None) -> str:
        folder, name = self.folder(mount), self.draw.choice(NAMES)
        if self.draw.random() < 0.3:  # a name that says whose it is, which is told in listings
            name = f"{self.mark_in(mount)}{self.draw.randrange(16):02x}-{name}"
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
            for block in (OWN, SHARED, BOARD):
                await _do(kernel, found, agent, pair, "mem_alloc", abi.MemAlloc(block=block))
        while found.count < count:
            agent, other = pair[found.count % 2], pair[(found.count + 1) % 2]
            name, args = _drawn(agent, other, found)
            await _do(kernel, found, agent, pair, name, args)
            if agent.draw.random() < 0.05:
                await _follow(kernel, found, agent, other)
            if found.count % 1000 == 0:
                on_step(found)
    return found


def _config() -> Config:
    both = ["mem_read", "mem_write", "mem_clear", "mem_alloc", "sto_read", "sto_write", "sto_share"]
    ann, ben = "ann:writer", "ben:writer"
    groups = [
        GroupSection(name="pair", members=[ann, ben], may=[f"{call}:{SHARED}" for call in both]),
        GroupSection(name="readers", members=[ann], may=[f"mem_read:{BOARD}", f"sto_read:{BOARD}"]),
        GroupSection(name="writers", members=[ben], may=[f"{call}:{BOARD}" for call in both]),
    ]
    mounts = [MountSection(name=name) for name in (SHARED, BOARD)]
    mounts += [MountSection(name=OWN, agent=agent) for agent in (ann, ben)]
    # So little memory that entries leave it and come back all the time.
    memory = MemorySection(limit=ByteSize(256 << 10), total=ByteSize(1 << 20))
    return msgspec.structs.replace(Config(), group=groups, mount=mounts, memory=memory)


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
        if error.fault != "agent" and len(found.broken) < KEPT:
            found.broken.append(f"{name}: {error.message}")
    else:
        said = msgspec.json.encode(result).decode()
        _note(found, agent, result, getattr(args, "block", None))
    (other,) = (each for each in pair if each is not agent)
    found.look(said, other.mark, f"by {agent.mark} in {name} {msgspec.json.encode(args).decode()[:300]}")


def _note(found: Found, agent: Agent, result: Any, block: str | None) -> None:
    """What can be asked for later, and what was found."""
    match result:
        case abi.Written():
            agent.ids.append((result.id, block))
            del agent.ids[:-MAX_IDS]
        case abi.Link(url=str(url)):
            agent.links.append(url.rpartition("/")[2])
            del agent.links[:-MAX_LINKS]
        case abi.Passages():
            found.passages += len(result.passages)


async def _follow(kernel: Kernel, found: Found, maker: Agent, other: Agent) -> None:
    """A link opens what is its maker's, and one that was never made opens nothing."""
    if not maker.links:
        return
    token = maker.draw.choice(maker.links)
    is_made_up = maker.draw.random() < 0.2
    try:
        async with kernel.transfers.follow(token[::-1] if is_made_up else token) as opened:
            data = b"".join([piece async for piece in opened.stream(0, opened.size)])
    except NotFound:
        return
    found.followed += 1
    told = f"{opened.name} {data.decode()}"
    found.look(told, other.mark, f"behind a link of {maker.mark}")
    if is_made_up:
        found.leaks.append(f"a link that was never made opens {opened.name}")


def _drawn(agent: Agent, other: Agent, found: Found) -> tuple[str, abi.Args]:
    draw = agent.draw
    space = draw.choices((None, OWN, SHARED, BOARD), (5, 2, 2, 1))[0]
    if draw.random() < 0.5:
        return _memory(agent, other, space, found)
    return _files(agent, space)


def _memory(agent: Agent, other: Agent, block: str | None, found: Found) -> tuple[str, abi.Args]:
    draw = agent.draw
    name = draw.choices(
        ("mem_write", "mem_update", "mem_read", "mem_history", "mem_search", "mem_list", "mem_stat", "mem_clear"),
        (30, 6, 20, 6, 20, 6, 3, 3),
    )[0]
    id, block_of_it = _id(agent, other, block, found)
    match name:
        case "mem_write":
            text = agent.text(block)
            return name, abi.MemWrite(
                content=text, kind=draw.choice(KINDS), metadata={"n": draw.randrange(3)}, block=block
            )
        case "mem_update":
            return name, abi.MemUpdate(id=id, content=agent.text(block_of_it), block=block_of_it)
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
    if draw.random() < 0.02 and block not in (SHARED, BOARD):
        return name, abi.MemClear(all=True, block=block)
    return name, abi.MemClear(id=id, block=block_of_it)


def _id(agent: Agent, other: Agent, block: str | None, found: Found) -> tuple[str, str | None]:
    """An id of its own, or one of the other's that it could not know, in whichever block."""
    if other.ids and agent.draw.random() < 0.3:
        found.foreign_asks += 1
        return agent.draw.choice(other.ids)[0], block
    return agent.draw.choice(agent.ids) if agent.ids else ("m000000000000001", None)


def _files(agent: Agent, mount: str | None) -> tuple[str, abi.Args]:
    draw, path = agent.draw, agent.path(mount)
    name = draw.choices(
        ("sto_write", "sto_read", "sto_list", "sto_history", "sto_diff", "sto_move", "sto_clear", "sto_restore",
         "sto_rollback", "sto_create", "sto_stat", "sto_share", "sto_retrieve"),
        (30, 20, 10, 6, 6, 5, 4, 4, 3, 2, 2, 3, 15),
    )[0]  # fmt: skip
    match name:
        case "sto_write":
            text = f"{agent.text(mount)}\n" * draw.choice((1, 1, 1, 200))  # some as large as are kept in chunks
            return name, abi.StoWrite(path=path, content=text)
        case "sto_read":
            return name, abi.StoRead(path=path, version=draw.choice((None, None, 1, 2)))
        case "sto_list":
            return name, abi.StoList(path=agent.folder(mount), trash=draw.random() < 0.2)
        case "sto_history":
            return name, abi.StoHistory(path=path)
        case "sto_diff":
            return name, abi.StoDiff(path=path)
        case "sto_move":
            return name, abi.StoMove(path=path, to=agent.path(mount))
        case "sto_clear":
            return name, abi.StoClear(path=path)
        case "sto_restore":
            return name, abi.StoRestore(path=path)
        case "sto_rollback":
            return name, abi.StoRollback(path=path, version=draw.randint(1, 3))
        case "sto_share":
            return name, abi.StoShare(path=path, ttl=draw.choice((0, 60)))
        case "sto_retrieve":
            where = None if draw.random() < 0.5 else abi.Where(path=agent.folder(mount) or None)
            return name, abi.StoRetrieve(query=agent.words(), k=20, where=where, mode=draw.choice(MODES))
        case "sto_create":
            return name, abi.StoCreate(path=path, kind=draw.choice(("file", "folder")))
    return name, abi.StoStat()
