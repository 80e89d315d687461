"""A mounted folder against a dictionary, with others who change it in between.

AIOS_STEPS=10000 takes that many steps, instead of the few that fit a quick run.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from mount_world import MountWorld, large

from aios.abi.calls import StoClear, StoCreate, StoHistory, StoMove, StoRestore, StoRollback
from aios.abi.errors import BadRequest, Conflict, NotFound
from aios.kernel.database import rows

STEPS = int(os.environ.get("AIOS_STEPS", "300"))
NAMES = st.sampled_from(["a", "b", "é"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TEXTS = st.one_of(st.text("xyz\n", max_size=4), st.integers(0, 3).map(lambda n: large(n, 70_000)))


class Folder:
    """What should be there: texts by path, and folders."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self.folders: set[str] = set()

    def kind(self, path: str) -> str | None:
        return "file" if path in self.files else "folder" if path in self.folders or not path else None

    def takes(self, path: str) -> bool:
        """Whether something can be below the folder of `path`: no file stands in the way."""
        return not any(above in self.files for above in above_of(path))

    def put(self, path: str, text: str) -> None:
        self.folders.update(above_of(path))
        self.files[path] = text

    def take(self, path: str) -> dict[str, str | None]:
        """Take away what is at `path` and below: texts, or None for folders."""
        gone: dict[str, str | None] = {p: self.files.pop(p) for p in list(self.files) if is_at(p, path)}
        gone |= {p: None for p in self.folders if is_at(p, path)}
        self.folders -= set(gone)
        return gone

    def give(self, entries: dict[str, str | None]) -> None:
        for path, text in entries.items():
            self.folders.update(above_of(path))
            if text is None:
                self.folders.add(path)
            else:
                self.files[path] = text

    def names(self, path: str) -> list[str]:
        found = {p for p in [*self.files, *self.folders] if p.rpartition("/")[0] == path}
        return sorted(found)


def above_of(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def is_at(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


class Machine(RuleBasedStateMachine):
    """Agents' calls and others' doings, each carried out on the model as well."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.place = Path(tempfile.mkdtemp(prefix="aios-mounts-"))
        self.world = MountWorld(self.place)
        self.loop.run_until_complete(self.world.begun())
        self.folder = Folder()
        self.known: dict[str, dict[int, str]] = {}
        """Versions of files that agents wrote or read, since the file is there."""

    def run(self, coroutine: object) -> object:
        return self.loop.run_until_complete(coroutine)  # type: ignore[arg-type]

    def remember(self, path: str, version: int) -> None:
        self.known.setdefault(path, {})[version] = self.folder.files[path]

    def forget(self, path: str) -> None:
        self.known = {p: versions for p, versions in self.known.items() if not is_at(p, path)}

    # ── agents ──

    @rule(path=PATHS, text=TEXTS)
    def writes(self, path: str, text: str) -> None:
        if self.folder.kind(path) == "folder" or not self.folder.takes(path):
            with pytest.raises(Conflict):
                self.run(self.world.write(f"docs/{path}", text))
            return
        version = self.run(self.world.write(f"docs/{path}", text))
        self.folder.put(path, text)
        self.remember(path, version)  # type: ignore[arg-type]

    @rule(path=PATHS)
    def reads(self, path: str) -> None:
        if self.folder.kind(path) == "file":
            assert self.run(self.world.read(f"docs/{path}")) == self.folder.files[path]
        else:
            with pytest.raises((BadRequest, NotFound, Conflict)):
                self.run(self.world.read(f"docs/{path}"))

    @rule(path=st.one_of(st.just(""), PATHS))
    def lists(self, path: str) -> None:
        if self.folder.kind(path) == "folder":
            shown = f"docs/{path}".rstrip("/")
            assert self.run(self.world.names(shown)) == [f"docs/{name}" for name in self.folder.names(path)]

    @rule(path=PATHS, kind=st.sampled_from(["file", "folder"]))
    def creates(self, path: str, kind: str) -> None:
        call = self.world.call(StoCreate(path=f"docs/{path}", kind=kind))  # type: ignore[arg-type]
        if self.folder.kind(path) is not None or not self.folder.takes(path):
            with pytest.raises(Conflict):
                self.run(call)
            return
        self.run(call)
        self.folder.give({path: "" if kind == "file" else None})

    @rule(path=PATHS, to=PATHS)
    def moves(self, path: str, to: str) -> None:
        call = self.world.call(StoMove(path=f"docs/{path}", to=f"docs/{to}"))
        can = self.folder.kind(path) is not None and self.folder.kind(to) is None and not is_at(to, path)
        if not can or not self.folder.takes(to):
            with pytest.raises((Conflict, NotFound, BadRequest)):
                self.run(call)
            return
        self.run(call)
        gone = self.folder.take(path)
        self.folder.give({to + p[len(path) :]: text for p, text in gone.items()})
        moved = {to + p[len(path) :]: v for p, v in self.known.items() if is_at(p, path)}
        self.forget(path)
        self.known |= moved

    @rule(path=PATHS)
    def clears(self, path: str) -> None:
        call = self.world.call(StoClear(path=f"docs/{path}"))
        if self.folder.kind(path) is None:
            with pytest.raises((NotFound, Conflict)):
                self.run(call)
            return
        count = self.run(call).count  # type: ignore[attr-defined]
        assert count == len(self.folder.take(path))
        self.forget(path)

    @rule(path=PATHS)
    def clears_and_restores(self, path: str) -> None:
        if self.folder.kind(path) is not None:
            self.run(self.world.call(StoClear(path=f"docs/{path}")))
            assert not (self.world.top / path).exists()
            self.run(self.world.call(StoRestore(path=f"docs/{path}")))

    @rule(data=st.data())
    @precondition(lambda self: self.known)
    def rolls_back(self, data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(sorted(self.known)))
        number = data.draw(st.sampled_from(sorted(self.known[path])))
        done = self.run(self.world.call(StoRollback(path=f"docs/{path}", version=number)))
        self.folder.files[path] = self.known[path][number]
        self.remember(path, done.version)  # type: ignore[attr-defined]

    @rule(path=PATHS)
    def looks_at_history(self, path: str) -> None:
        if self.folder.kind(path) != "file":
            return
        history = self.run(self.world.call(StoHistory(path=f"docs/{path}", limit=1000)))
        newest = history.revisions[0].version  # type: ignore[attr-defined]
        assert history.not_kept is None  # type: ignore[attr-defined]
        self.remember(path, newest)
        for number, text in self.known[path].items():
            assert self.run(self.world.read(f"docs/{path}", number)) == text

    # ── others ──

    @rule(path=PATHS, text=TEXTS)
    def others_write(self, path: str, text: str) -> None:
        if self.folder.kind(path) != "folder" and self.folder.takes(path):
            self.world.put(path, text)
            self.folder.put(path, text)

    @rule(path=PATHS, text=TEXTS)
    def others_replace(self, path: str, text: str) -> None:
        """As editors save."""
        if self.folder.kind(path) != "folder" and self.folder.takes(path):
            self.world.put(path, "")
            self.folder.put(path, text)
            (self.world.top / "saving").write_text(text)
            (self.world.top / "saving").rename(self.world.top / path)

    @rule(path=PATHS)
    def others_delete(self, path: str) -> None:
        kind = self.folder.kind(path)
        if kind is not None:
            shutil.rmtree(self.world.top / path) if kind == "folder" else (self.world.top / path).unlink()
            self.folder.take(path)
            self.forget(path)

    @rule(path=PATHS, to=PATHS)
    def others_move(self, path: str, to: str) -> None:
        can = self.folder.kind(path) is not None and self.folder.kind(to) is None and not is_at(to, path)
        if can and self.folder.takes(to):
            (self.world.top / to).parent.mkdir(parents=True, exist_ok=True)
            (self.world.top / path).rename(self.world.top / to)
            gone = self.folder.take(path)
            self.forget(path)
            self.folder.give({to + p[len(path) :]: text for p, text in gone.items()})

    @rule()
    def the_system_tells(self) -> None:
        self.run(self.world.quiet())

    @rule()
    def all_is_looked_through(self) -> None:
        self.world.mounted().follower.look_whole()
        self.run(self.world.quiet())
        self.check_store()

    @rule()
    def the_kernel_starts_again(self) -> None:
        self.run(self.world.again())
        self.check_store()

    @rule()
    def the_folder_is_away_for_a_while(self) -> None:
        self.world.top.rename(self.place / "away")
        self.run(self.world.quiet())
        self.world.mounted().follower.look_whole()
        self.run(self.world.quiet())
        (self.place / "away").rename(self.world.top)
        self.run(self.world.mounted().present())
        self.run(self.world.quiet())

    # ── what holds ──

    @invariant()
    def the_folder_has_what_it_should(self) -> None:
        if hasattr(self, "world"):
            assert self.world.all_files() == self.folder.files
            assert folders_in(self.world.top) == self.folder.folders

    def check_store(self) -> None:
        """The store has all that is in the folder, as it is there, and nothing more."""
        found = self.world.database.read(
            lambda c: rows(
                c,
                "WITH RECURSIVE live(id, kind, path, version) AS ("
                " SELECT id, kind, name, version FROM files WHERE parent = 0 AND trashed IS NULL UNION ALL"
                " SELECT files.id, files.kind, path || '/' || name, files.version FROM live JOIN files"
                " ON parent = live.id AND trashed IS NULL) SELECT kind, path, version FROM live",
            )
        )
        assert {path for kind, path, _ in found if kind == "folder"} == self.folder.folders
        for kind, path, version in found:
            if kind == "file":
                assert self.run(self.world.read(f"docs/{path}", version)) == self.folder.files[path]
        assert {path for kind, path, _ in found if kind == "file"} == set(self.folder.files)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.run(self.world.end())
            self.world.check_integrity()
            self.world.close()
            self.loop.close()
            shutil.rmtree(self.place)


def folders_in(top: Path) -> set[str]:
    return {str(Path(folder, name).relative_to(top)) for folder, names, _ in os.walk(top) for name in names}


TestMount = Machine.TestCase
TestMount.settings = settings(
    max_examples=max(1, STEPS // 80),
    stateful_step_count=min(STEPS, 100),
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
    print_blob=False,
)
