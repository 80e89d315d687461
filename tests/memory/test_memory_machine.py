"""The memory room beside plain dicts: whatever is written, changed, forgotten, let go and brought back, by several
agents in several blocks, across restarts and while the swap fails, everybody sees exactly what is theirs.
"""

from __future__ import annotations

import asyncio
import random
import re
import tempfile
from pathlib import Path
from typing import Any

import apsw
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from memory_steps import machine
from memory_world import World

from aios.abi.calls import Entry, MemAlloc, MemClear, MemHistory, MemUpdate, MemWrite
from aios.abi.errors import ModuleFault, NotFound, Stopping
from aios.kernel.config import ByteSize, MemorySection
from aios.kernel.memory import check
from aios.kernel.storage import Segments

AGENTS = ("a", "b")
BLOCKS = (None, "work", "team")
KIB = 1 << 10


agents, blocks = st.sampled_from(AGENTS), st.sampled_from(BLOCKS)
faults = st.sampled_from([None] * 6 + ["read", "write", "bug"])


class Failing(Segments):
    """A swap that fails when it is told to: reads as if damaged, writes as a disk that gives up."""

    def __init__(self) -> None:
        self.fails: str | None = None

    def get(self, connection: apsw.Connection, scope: int, held: Any) -> bytes:
        if self.fails == "read":
            raise ModuleFault("the content is damaged on disk: told to", code="content_damaged")
        return super().get(connection, scope, held)

    def put(self, connection: apsw.Connection, scope: int, content: bytes) -> Any:
        kept = super().put(connection, scope, content)
        if self.fails == "write":
            raise apsw.FullError("told to")
        if self.fails == "bug":
            raise ModuleFault("told to", code="told_to")
        return kept


class Memories(RuleBasedStateMachine):
    """Each agent's blocks are a dict of id → (content, revisions before); `team` is everybody's."""

    @initialize(policy=st.sampled_from(["lru_k", "lru", "two_q", "arc", "size_aware"]), seed=st.integers(0, 99))
    def begin(self, policy: Any, seed: int) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="aios-memory-")
        self.runner = asyncio.Runner()
        self.dice = random.Random(seed)
        settings = MemorySection(
            total=ByteSize(64 * KIB), limit=ByteSize(24 * KIB), watermark=0.9, low=0.6, policy=policy
        )
        self.runner.run(self._open(settings))
        self.model: dict[tuple[str, str | None], dict[str, list[str]]] = {}
        for agent in AGENTS:
            self._call(MemAlloc(block="work"), agent)

    async def _open(self, settings: MemorySection) -> None:
        self.world = World(Path(self.folder.name), settings, shared=("team",))
        self._fail_at_will()

    def _fail_at_will(self) -> None:
        self.swap = Failing()
        self.world.memory._swap = self.world.memory._changes._swap = self.swap

    def _call(self, args: Any, agent: str) -> Any:
        async def call() -> Any:
            result = await self.world.call(args, agent)
            await asyncio.sleep(0)
            return result

        self.world.clock.advance(self.dice.choice([0.0, 0.1, 5.0]))
        return self.runner.run(call())

    def entries(self, agent: str, block: str | None) -> dict[str, list[str]]:
        return self.model.setdefault(("" if block == "team" else agent, block), {})

    def some_id(self, agent: str, block: str | None, own: bool = True) -> str:
        ids = list(self.entries(agent, block)) if own else [id for mine in self.model.values() for id in mine]
        return self.dice.choice(ids or ["m000000000000001"])

    def content(self) -> str:
        stem = "".join(f"turn {n} zqxj said; " for n in range(self.dice.choice([1, 5, 60, 300])))
        return stem[: self.dice.randrange(len(stem) + 1)] + self.dice.choice(["", " é☃", f" {self.dice.random()}"])

    @rule(agent=agents, block=blocks, fault=faults)
    def write(self, agent: str, block: str | None, fault: str | None) -> None:
        content, self.swap.fails = self.content(), fault
        try:
            id = self._call(MemWrite(content=content, block=block), agent).id
        except (ModuleFault, Stopping):
            assert fault in ("write", "bug")
        else:
            self.entries(agent, block)[id] = [content]
        self.swap.fails = None

    @rule(agent=agents, block=blocks, number=st.integers(2, 8))
    def write_some(self, agent: str, block: str | None, number: int) -> None:
        for _ in range(number):
            self.write(agent, block, None)

    @rule(agent=agents, block=blocks, number=st.integers(2, 8))
    def read_some(self, agent: str, block: str | None, number: int) -> None:
        for _ in range(number):
            self.read(agent, block, None, True)

    @rule(agent=agents, block=blocks, fault=faults, own=st.booleans())
    def read(self, agent: str, block: str | None, fault: str | None, own: bool) -> None:
        id, self.swap.fails = self.some_id(agent, block, own), fault
        mine = self.entries(agent, block)
        try:
            entry = self.runner.run(self.world.read(id, agent, block))
            assert (entry.content, entry.revision) == (mine[id][-1], len(mine[id]))
        except NotFound:
            assert id not in mine
        except ModuleFault:
            assert fault == "read"
            assert id in mine
        self.swap.fails = None

    @rule(agent=agents, block=blocks, fault=faults, own=st.booleans())
    def update(self, agent: str, block: str | None, fault: str | None, own: bool) -> None:
        id, content, self.swap.fails = self.some_id(agent, block, own), self.content(), fault
        mine = self.entries(agent, block)
        try:
            told = self._call(MemUpdate(id=id, content=content, block=block), agent)
        except NotFound:
            assert id not in mine
        except (ModuleFault, Stopping):
            assert fault in ("write", "bug")
        else:
            mine[id].append(content)
            assert told.revision == len(mine[id])
        self.swap.fails = None

    @rule(agent=agents, block=blocks)
    def touch(self, agent: str, block: str | None) -> None:
        id = self.some_id(agent, block)
        if mine := self.entries(agent, block):
            self._call(MemUpdate(id=id, importance=self.dice.random(), block=block), agent)
            mine[id].append(mine[id][-1])

    @rule(agent=agents, block=blocks, own=st.booleans())
    def history(self, agent: str, block: str | None, own: bool) -> None:
        id = self.some_id(agent, block, own)
        mine = self.entries(agent, block)
        try:
            before = self._call(MemHistory(id=id, block=block), agent).entries
            assert [entry.content for entry in before] == mine[id][-2::-1][:32]
        except NotFound:
            assert id not in mine

    @rule(agent=agents, block=blocks, own=st.booleans())
    def forget(self, agent: str, block: str | None, own: bool) -> None:
        id = self.some_id(agent, block, own)
        mine = self.entries(agent, block)
        try:
            self._call(MemClear(id=id, block=block), agent)
            del mine[id]
        except NotFound:
            assert id not in mine

    @rule(agent=agents, block=blocks, really=st.integers(0, 4))
    def empty(self, agent: str, block: str | None, really: int) -> None:
        if not really:
            mine = self.entries(agent, block)
            assert self._call(MemClear(all=True, block=block), agent).count == len(mine)
            mine.clear()

    @rule(agent=agents, block=blocks, fault=st.sampled_from([None, None, "read"]))
    def list(self, agent: str, block: str | None, fault: str | None) -> None:
        self.swap.fails = fault
        self._same(self.runner.run(self.world.list(agent, block=block, limit=1000)).entries, agent, block)
        self.swap.fails = None

    @rule(agent=agents, block=blocks, fault=st.sampled_from([None, None, "read"]))
    def search(self, agent: str, block: str | None, fault: str | None) -> None:
        self.swap.fails = fault
        found = self.runner.run(self.world.search("zqxj", 1000, agent, block=block, mode="keyword"))
        mine = self.entries(agent, block)
        wanted = {id for id, states in mine.items() if re.search(r"\bzqxj\b", states[-1])}
        differing = {id: mine.get(id) for id in wanted ^ {entry.id for entry in found}}
        assert differing == {}
        assert all(entry.content == mine[entry.id][-1] for entry in found if entry.fault is None)
        self.swap.fails = None

    @rule(agent=agents, block=blocks, limit=st.sampled_from([8, 16, 24]), k=st.integers(1, 3))
    def alloc(self, agent: str, block: str | None, limit: int, k: int) -> None:
        self._call(MemAlloc(limit=limit * KIB, k=k, block=block), agent)

    @rule()
    def restart(self) -> None:
        async def restart() -> None:
            self.world.restart()

        self.runner.run(restart())
        self._fail_at_will()

    def _same(self, found: list[Entry], agent: str, block: str | None) -> None:
        mine = self.entries(agent, block)
        assert [entry.id for entry in found] == sorted(mine, reverse=True)
        assert all(entry.content == mine[entry.id][-1] for entry in found if entry.fault is None)

    @invariant()
    def it_is_sound(self) -> None:
        if not hasattr(self, "world"):
            return
        self.runner.run(self.world.settle())
        for agent in AGENTS:
            for block in BLOCKS:
                mine, stat = self.entries(agent, block), self.runner.run(self.world.stat(agent, block))
                assert stat.entries == len(mine)
                assert stat.raw == sum(len(states[-1].encode()) for states in mine.values())

    def teardown(self) -> None:
        if hasattr(self, "world"):
            faults = self.world.database.read(lambda c: list(check(c, Segments())))
            assert faults == []
            assert self.world.searching.check_integrity() == []
            for agent in AGENTS:
                for block in BLOCKS:
                    self._same(self.runner.run(self.world.list(agent, block=block, limit=1000)).entries, agent, block)
            self.world.close()
            self.runner.close()
            self.folder.cleanup()


TestMemories = Memories.TestCase
TestMemories.settings = machine
