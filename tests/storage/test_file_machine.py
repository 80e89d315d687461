"""Files, versions, moves and trash against dictionaries, with restarts and disks that fail in between.

AIOS_STEPS=10000 takes that many steps, instead of the few that fit a quick run.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from storage_world import IN_FILES, World

from aios.abi.calls import (
    Args,
    StoClear,
    StoCreate,
    StoHistory,
    StoList,
    StoMove,
    StoRead,
    StoRestore,
    StoRollback,
    StoWrite,
)
from aios.abi.errors import AiosError, BadRequest, Conflict, NotFound, Stopping
from aios.kernel.storage import chunker, trash, versions

STEPS = int(os.environ.get("AIOS_STEPS", "300"))
NAMES = ("a", "b", "c")
PATHS = [
    "/".join(parts)
    for parts in (
        *((n,) for n in NAMES),
        *((n, m) for n in NAMES for m in NAMES),
        ("a", "b", "c"),
        ("b", "a", "b", "c"),
    )
]
_LONG = random.Random(1).randbytes(120_000).hex()
CONTENTS = ["", "x", "short text", _LONG, _LONG[:170_000] + "!" + _LONG[170_000:], _LONG[100:], "y" * 70_000]


@dataclass(eq=False)
class Entry:
    """A file with its versions, the oldest first, or a folder."""

    versions: list[str] = field(default_factory=list)
    inside: dict[str, Entry] | None = None

    def all(self) -> Iterator[Entry]:
        yield self
        for each in (self.inside or {}).values():
            yield from each.all()


def folder() -> Entry:
    return Entry(inside={})


class Model:
    """What an agent's files should be. Raises what the calls should raise."""

    def __init__(self) -> None:
        self.top = folder()
        self.trash: list[tuple[str, Entry]] = []
        """The latest last."""

    def find(self, path: str, top: Entry | None = None) -> Entry | None:
        entry: Entry | None = top or self.top
        for name in path.split("/") if path else ():
            entry = entry.inside.get(name) if entry is not None and entry.inside is not None else None
        return entry

    def need(self, path: str) -> Entry:
        entry = self.find(path)
        if entry is None:
            raise NotFound("")
        return entry

    def need_file(self, path: str) -> Entry:
        entry = self.need(path)
        if entry.inside is not None:
            raise BadRequest("")
        return entry

    def put(self, path: str, entry: Entry) -> None:
        """With the folders above it."""
        at = self.top
        *above, name = path.split("/")
        made = []
        for each in above:
            assert at.inside is not None
            if each not in at.inside:
                made.append((at.inside, each))
                at.inside[each] = folder()
            at = at.inside[each]
            if at.inside is None:
                raise Conflict("")
        assert at.inside is not None
        at.inside[name] = entry

    def take(self, path: str) -> Entry:
        self.need(path)
        above, _, name = path.rpartition("/")
        parent = self.find(above)
        assert parent is not None
        assert parent.inside is not None
        return parent.inside.pop(name)

    def check_free(self, path: str) -> None:
        """Raises Conflict when something is there, or a file where a folder should be."""
        parts = path.split("/")
        if self.find(path) is not None:
            raise Conflict("")
        for n in range(1, len(parts)):
            above = self.find("/".join(parts[:n]))
            if above is not None and above.inside is None:
                raise Conflict("")

    # ── calls ──

    def create(self, path: str, kind: str) -> int:
        self.check_free(path)
        self.put(path, folder() if kind == "folder" else Entry([""]))
        return 1

    def write(self, path: str, content: str, base: int | None) -> int:
        entry = self.find(path)
        if entry is not None and entry.inside is not None:
            raise Conflict("")
        if base is not None and base != (len(entry.versions) if entry is not None else 0):
            raise Conflict("")
        if entry is None:
            self.check_free(path)
            entry = Entry()
            self.put(path, entry)
        entry.versions.append(content)
        return len(entry.versions)

    def roll_back(self, path: str, number: int) -> int:
        entry = self.need_file(path)
        if number > len(entry.versions):
            raise NotFound("")
        entry.versions.append(entry.versions[number - 1])
        return len(entry.versions)

    def move(self, path: str, to: str) -> None:
        self.need(path)
        if to == path or to.startswith(f"{path}/"):
            raise BadRequest("")
        self.check_free(to)
        self.put(to, self.take(path))

    def clear(self, path: str) -> int:
        entry = self.take(path)
        self.trash.append((path, entry))
        return len(list(entry.all()))

    def restore(self, path: str) -> None:
        for at in reversed(range(len(self.trash))):
            was, top = self.trash[at]
            rest = path[len(was) + 1 :] if path.startswith(f"{was}/") else "" if path == was else None
            if rest is None or self.find(rest, top) is None:
                continue
            self.check_free(path)
            if not rest:
                self.put(path, self.trash.pop(at)[1])
                return
            above, _, name = rest.rpartition("/")
            parent = self.find(above, top)
            assert parent is not None
            assert parent.inside is not None
            self.put(path, parent.inside.pop(name))
            return
        raise NotFound("")

    def empty(self, path: str) -> int:
        """The trash, at `path` and below, "" being all of it."""
        gone = []
        for was, top in list(self.trash):
            if not path or was == path or was.startswith(f"{path}/"):
                self.trash.remove((was, top))
                gone.append(top)
            elif path.startswith(f"{was}/"):
                above, _, name = path[len(was) + 1 :].rpartition("/")
                parent = self.find(above, top)
                if parent is not None and parent.inside is not None and name in parent.inside:
                    gone.append(parent.inside.pop(name))
        return sum(len(list(entry.all())) for entry in gone)

    # ── looking ──

    def entries(self) -> list[Entry]:
        return [each for top in (self.top, *(top for _, top in self.trash)) for each in top.all()][1:]

    def kept(self) -> tuple[int, int]:
        entries = self.entries()
        return len(entries), sum(len(v) + 100 for entry in entries for v in entry.versions)


class Files(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="aios-test-")
        self.runner = asyncio.Runner()
        self.world = World(Path(self.folder.name))
        self.models = {"a": Model(), "b": Model()}
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(chunker, "RANGES", IN_FILES)
        for module in (versions, trash):
            self.patch.setattr(module, "STEP", 3)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.database.check_integrity()
            self.world.close()
            self.runner.close()
            self.folder.cleanup()
            self.patch.undo()

    def ask(self, agent: str, args: Args, expected: Any) -> Any:
        """Make a call, which ends as `expected` does for the model."""
        self.world.clock.advance(1)
        try:
            wanted = expected()
        except AiosError as error:
            with pytest.raises(type(error)):
                self.runner.run(self.world.call(args, agent))
            return None
        answer = self.runner.run(self.world.call(args, agent))
        assert wanted is None or wanted == getattr(answer, "version", getattr(answer, "count", None))
        return answer

    agents = st.sampled_from("ab")
    paths = st.sampled_from(PATHS)

    @rule(agent=agents, path=paths, content=st.sampled_from(CONTENTS), base=st.none() | st.integers(0, 3))
    def write(self, agent: str, path: str, content: str, base: int | None) -> None:
        args = StoWrite(path=path, content=content, base=base)
        self.ask(agent, args, lambda: self.models[agent].write(path, content, base))

    @rule(agent=agents, path=paths, kind=st.sampled_from(["file", "folder"]))
    def create(self, agent: str, path: str, kind: Any) -> None:
        self.ask(agent, StoCreate(path=path, kind=kind), lambda: self.models[agent].create(path, kind))

    @rule(agent=agents, path=paths, to=paths)
    def move(self, agent: str, path: str, to: str) -> None:
        self.ask(agent, StoMove(path=path, to=to), lambda: self.models[agent].move(path, to))

    @rule(agent=agents, path=paths)
    def clear(self, agent: str, path: str) -> None:
        self.ask(agent, StoClear(path=path), lambda: self.models[agent].clear(path))

    @rule(agent=agents, path=paths)
    def restore(self, agent: str, path: str) -> None:
        self.ask(agent, StoRestore(path=path), lambda: self.models[agent].restore(path))

    @rule(agent=agents, path=paths, number=st.integers(1, 5))
    def roll_back(self, agent: str, path: str, number: int) -> None:
        args = StoRollback(path=path, version=number)
        self.ask(agent, args, lambda: self.models[agent].roll_back(path, number))

    @rule(agent=agents, path=st.sampled_from([".", *PATHS]))
    def empty(self, agent: str, path: str) -> None:
        args = StoClear(path=path, trash=True)
        self.ask(agent, args, lambda: self.models[agent].empty("" if path == "." else path))

    @rule(agent=agents, path=paths)
    def read(self, agent: str, path: str) -> None:
        entry = self.models[agent].find(path)
        if entry is None or entry.inside is not None:
            with pytest.raises(NotFound if entry is None else BadRequest):
                self.runner.run(self.world.call(StoRead(path=path), agent))
            return
        history = self.runner.run(self.world.call(StoHistory(path=path), agent))
        assert [r.version for r in history.revisions] == list(range(len(entry.versions), 0, -1))[:100]
        for n, content in enumerate(entry.versions, 1):
            assert self.runner.run(self.world.read(path, n, agent)) == content

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule(agent=agents, path=paths, content=st.sampled_from(CONTENTS[3:]))
    def write_to_a_disk_that_fails(self, agent: str, path: str, content: str) -> None:
        num_written = 0
        put = self.world.store.blobs.put

        def fails(hash: bytes, pieces: Any) -> int:
            nonlocal num_written
            num_written += 1
            if num_written > 1:
                raise Stopping("no space left", code="storage_full")
            return put(hash, pieces)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.world.store.blobs, "put", fails)
            try:
                self.runner.run(self.world.write(path, content, agent))
            except AiosError:
                return
        self.models[agent].write(path, content, None)

    @rule(agent=agents, path=paths)
    def die_while_the_trash_is_emptied(self, agent: str, path: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.world.store, "drop_leaving", _dies)
            with pytest.raises(Stopping):
                self.runner.run(self.world.call(StoClear(path=path, trash=True), agent))
        self.models[agent].empty(path)
        self.world.restart()
        self.runner.run(self.world.storage.keep_house())

    @invariant()
    def everything_is_as_it_should_be(self) -> None:
        if not hasattr(self, "world"):
            return
        self.runner.run(self.world.storage.keep_house())
        named = {id(v) for model in self.models.values() for entry in model.entries() for v in entry.versions}
        for agent, model in self.models.items():
            assert self.world.kept(agent) == model.kept()
            self.compare(agent, model, "")
            cleared = self.runner.run(self.world.call(StoList(trash=True), agent)).entries
            assert [entry.path for entry in cleared] == sorted({was for was, _ in model.trash})
        num_files = self.world.count("files")
        assert num_files == sum(len(model.entries()) for model in self.models.values())
        assert self.world.count("contents", "refs <= 0") == 0
        assert self.world.faults() == []
        assert named or self.world.count("chunks") == 0

    def compare(self, agent: str, model: Model, path: str) -> None:
        """Folder by folder."""
        there = self.runner.run(self.world.call(StoList(path=path), agent)).entries
        entry = model.find(path)
        assert entry is not None
        assert entry.inside is not None
        assert [each.path.rpartition("/")[2] for each in there] == sorted(entry.inside)
        for each in there:
            inside = entry.inside[each.path.rpartition("/")[2]]
            if inside.inside is not None:
                assert each.kind == "folder"
                self.compare(agent, model, each.path)
            else:
                assert (each.kind, each.size, each.version) == ("file", len(inside.versions[-1]), len(inside.versions))


def _dies() -> None:
    raise Stopping("the kernel died")


TestFiles = Files.TestCase
TestFiles.settings = settings(
    max_examples=max(1, STEPS // 60),
    stateful_step_count=min(STEPS, 60),
    deadline=None,
    derandomize=STEPS <= 300,
    suppress_health_check=list(HealthCheck),
)
