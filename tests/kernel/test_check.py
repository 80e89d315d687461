"""A home is checked, mended, backed up and put back, and nothing that can be read is lost on the way."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from aios.abi import calls as abi
from aios.abi.errors import BadRequest, ModuleFault
from aios.kernel import Kernel, Principal, check_home, repair_home
from aios.kernel import restore_backup as restore
from aios.kernel import take_backup as backup
from aios.kernel.database import HomeError
from aios.kernel.process import Place
from aios.kernel.storage import intake
from aios.testing import booted

pytestmark = pytest.mark.anyio
LARGE = "".join(random.Random(7).choices("abcdefghij \n", k=300_000))


@pytest.fixture(autouse=True)
def _chunks_are_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As large ones are: not every test here can write some tens of megabytes."""
    monkeypatch.setattr(intake, "SMALL", 8 << 10)


async def fill(home: Path) -> str:
    """Entries, files and their versions in `home`; the key of the agent whose they are."""
    async with booted(home=home) as kernel:
        _, key = kernel.access.mint(owner="o", agent="a")
        who = kernel.authenticate(key)
        for n in range(5):
            await kernel.call(who, "mem_write", abi.MemWrite(content=f"entry {n} " + "long text " * 300))
            await kernel.call(who, "sto_write", abi.StoWrite(path=f"folder/f{n}.txt", content=f"file {n}"))
        await kernel.call(who, "sto_write", abi.StoWrite(path="large.txt", content=LARGE))
        await kernel.call(who, "sto_write", abi.StoWrite(path="large.txt", content=LARGE + "more"))
        await kernel.call(who, "sto_retrieve", abi.StoRetrieve(query="file"))
        await kernel.call(who, "sto_clear", abi.StoClear(path="folder/f0.txt"))
        await kernel.search.idle()
    return key


async def read_all(home: Path, key: str) -> dict[str, str]:
    async with booted(home=home) as kernel:
        who = kernel.authenticate(key)
        found = {e.id: e.content for e in (await kernel.call(who, "mem_list", abi.MemList())).entries}
        paths = [s.path for s in (await kernel.call(who, "sto_list", abi.StoList(path="folder"))).entries]
        for path in [*paths, "large.txt"]:
            found[path] = (await kernel.call(who, "sto_read", abi.StoRead(path=path))).content
        return found


def sql(home: Path, *statements: str) -> None:
    connection = apsw.Connection(str(home / "aios.db"))
    for statement in statements:
        connection.execute(statement)
    connection.close()


async def test_a_sound_home_has_no_fault_stopped_or_running(tmp_path: Path) -> None:
    await fill(tmp_path)
    assert check_home(tmp_path) == []
    async with booted(home=tmp_path) as kernel:
        assert await kernel.check_home() == []


def damage_a_chunk(home: Path) -> None:
    path = max(home.glob("blobs/??/*"), key=lambda p: p.stat().st_size)
    path.write_bytes(b"?" + path.read_bytes()[1:])


def drop_a_chunk(home: Path) -> None:
    next(iter(sorted(home.glob("blobs/??/*")))).unlink()


def add_a_strangers_file(home: Path) -> None:
    (home / "blobs" / "ab").mkdir(exist_ok=True)
    (home / "blobs" / "ab" / ("ab" * 32)).write_bytes(b"whose is it")


PASSAGES = {
    "lost reading": "DELETE FROM readings WHERE id = 1",
    "reading of no file": "UPDATE readings SET file = 4711 WHERE id = 1",
    "two readings": "INSERT INTO readings(file, version, state, num_passages) SELECT file, 1, 1, 0 FROM readings",
    "lost text": "DELETE FROM passage_texts WHERE row = 1",
    "text of no passage": "INSERT INTO passage_texts VALUES (4711, NULL, 'file')",
    "lost row of a passage": "DELETE FROM passages WHERE row = 1",
    "lost passage": (
        "DELETE FROM passages WHERE row = 1; DELETE FROM passage_texts WHERE row = 1;"
        "DELETE FROM passages_words WHERE rowid = 1; DELETE FROM passages_vectors WHERE row = 1;"
        "UPDATE search_scopes SET texts = texts - 1 WHERE room = 'passages'"
    ),
    "passage too many": (
        "INSERT INTO passages SELECT 4711, scope, reading, 0, 4 FROM passages WHERE row = 1;"
        "INSERT INTO passage_texts VALUES (4711, NULL, 'file')"
    ),
    "passages of somebody else": "UPDATE passages SET scope = 99",
    "lost words": "DELETE FROM passages_words WHERE rowid = 1",
    "words of no passage": "INSERT INTO passages_words(rowid, words) VALUES (4711, 'file')",
    "lost vector": "DELETE FROM passages_vectors WHERE row = 1",
    "miscounted passages": "UPDATE search_scopes SET texts = texts + 1 WHERE room = 'passages'",
}
"""Damage to what was read of files."""

PLANTED: dict[str, tuple[str | Callable[[Path], None], bool]] = {
    "refs": ("UPDATE contents SET refs = refs + 1", True),
    "chunk refs": ("UPDATE chunks SET refs = refs + 2", True),
    "quota": ("UPDATE kept SET bytes = bytes + 5, entries = entries - 1", True),
    "newest": ("UPDATE files SET version = 7 WHERE kind = 'file'", True),
    "folder": ("UPDATE files SET parent = 4711 WHERE name = 'f1.txt'", True),
    "body": (
        "UPDATE contents SET body = x'00' WHERE id = (SELECT min(id) FROM contents WHERE body IS NOT NULL)",
        False,
    ),
    "chunk file": (damage_a_chunk, False),
    "lost chunk": (drop_a_chunk, False),
    "nobody's file": (add_a_strangers_file, True),
    "block counts": ("UPDATE blocks SET num_entries = 99", True),
    "segment": ("UPDATE segments SET body = x'00' WHERE id = (SELECT min(id) FROM segments)", True),
    **{name: (what, True) for name, what in PASSAGES.items()},
}


@pytest.mark.parametrize("name", PLANTED)
async def test_what_is_planted_is_found_and_mended_where_that_can_be(name: str, tmp_path: Path) -> None:
    await fill(tmp_path)
    what, can_be_mended = PLANTED[name]
    sql(tmp_path, what) if isinstance(what, str) else what(tmp_path)
    assert check_home(tmp_path)
    before, left = repair_home(tmp_path)
    assert before
    assert bool(left) is not can_be_mended
    again, _ = repair_home(tmp_path)
    assert again == left


@pytest.mark.parametrize("name", PASSAGES)
async def test_after_a_repair_files_are_found_by_what_they_say_as_before(name: str, tmp_path: Path) -> None:
    async with booted(home=tmp_path) as kernel:
        _, key = kernel.access.mint(owner="o", agent="a")
        who = kernel.authenticate(key)
        for n in range(3):
            await kernel.call(who, "sto_write", abi.StoWrite(path=f"f{n}.txt", content=f"file {n}"))
        was = await found(kernel, who)
    assert [path for path, _, _ in was] == ["f0.txt", "f1.txt", "f2.txt"]
    sql(tmp_path, PASSAGES[name])
    before, left = repair_home(tmp_path)
    assert before
    assert left == []
    async with booted(home=tmp_path) as kernel:
        assert await found(kernel, kernel.authenticate(key)) == was


async def found(kernel: Kernel, who: Principal) -> list[tuple[str, int, str]]:
    asked = abi.StoRetrieve(query="file", k=10, mode="keyword")
    passages: abi.Passages = await kernel.call(who, "sto_retrieve", asked)
    return sorted((each.path, each.version, each.text) for each in passages.passages)


async def test_a_repair_loses_nothing_that_can_be_read(tmp_path: Path) -> None:
    key = await fill(tmp_path)
    was = await read_all(tmp_path, key)
    for what, can_be_mended in PLANTED.values():
        if can_be_mended and isinstance(what, str) and "segments" not in what and "4711" not in what:
            sql(tmp_path, what)
    assert repair_home(tmp_path)[1] == []
    assert await read_all(tmp_path, key) == was


async def test_a_damaged_part_is_taken_from_an_equal_one_of_another_agent(tmp_path: Path) -> None:
    await fill(tmp_path)
    async with booted(home=tmp_path) as kernel:
        other = kernel.authenticate(kernel.access.mint(owner="o", agent="b")[1])
        await kernel.call(other, "sto_write", abi.StoWrite(path="copy.txt", content=LARGE))
    damage_a_chunk(tmp_path)
    before, left = repair_home(tmp_path)
    assert before
    assert left == []


async def test_a_file_of_a_lost_folder_is_found_at_the_top(tmp_path: Path) -> None:
    key = await fill(tmp_path)
    sql(tmp_path, str(PLANTED["folder"][0]))
    repair_home(tmp_path)
    async with booted(home=tmp_path) as kernel:
        who = kernel.authenticate(key)
        assert (await kernel.call(who, "sto_read", abi.StoRead(path="f1.txt"))).content == "file 1"


async def test_a_version_that_lost_a_part_says_so_and_others_are_read(tmp_path: Path) -> None:
    key = await fill(tmp_path)
    shutil.rmtree(tmp_path / "blobs")
    repair_home(tmp_path)
    async with booted(home=tmp_path) as kernel:
        who = kernel.authenticate(key)
        with pytest.raises(ModuleFault, match="aios fs check"):
            await kernel.call(who, "sto_read", abi.StoRead(path="large.txt"))
        assert (await kernel.call(who, "sto_read", abi.StoRead(path="folder/f1.txt"))).content == "file 1"


async def test_pages_that_are_garbage_are_told_with_what_to_do(tmp_path: Path) -> None:
    await fill(tmp_path)
    data = bytearray((tmp_path / "aios.db").read_bytes())
    num_pages = len(data) // 4096
    for page in range(num_pages // 2, num_pages, 3):
        data[page * 4096 : page * 4096 + 512] = b"\xff" * 512
    (tmp_path / "aios.db").write_bytes(data)
    assert any("aios fs restore" in fault.mend for fault in check_home(tmp_path))
    data[4096:] = b"\xff" * (len(data) - 4096)
    (tmp_path / "aios.db").write_bytes(data)
    with pytest.raises(HomeError, match="aios fs restore"):
        check_home(tmp_path)


async def test_a_backup_taken_while_agents_write_is_whole_and_comes_back(tmp_path: Path) -> None:
    home, target, other = tmp_path / "home", tmp_path / "backup", tmp_path / "other"
    key = await fill(home)
    async with booted(home=home) as kernel:
        who = kernel.authenticate(key)
        is_enough = asyncio.Event()
        writing = asyncio.create_task(_write_on(kernel, who, is_enough))
        taken = await asyncio.to_thread(backup, home, target)
        is_enough.set()
        await writing
    assert taken.chunks
    done = restore(target, other)
    assert done.before is None
    assert check_home(other) == []
    found = await read_all(other, key)
    assert found["folder/f1.txt"] == "file 1"
    assert found["large.txt"] == LARGE + "more"


async def _write_on(kernel: Kernel, who: Principal, is_enough: asyncio.Event) -> None:
    for n in range(10_000):
        if is_enough.is_set():
            return
        text = f"{n} {LARGE[n * 100 : n * 100 + 300_000]}"
        await kernel.call(who, "sto_write", abi.StoWrite(path="busy.txt", content=text))
        await kernel.call(who, "sto_clear", abi.StoClear(path="busy.txt"))


async def test_a_mount_that_is_the_kernels_own_comes_back_in_another_home(tmp_path: Path) -> None:
    home, target, other = tmp_path / "home", tmp_path / "backup", tmp_path / "other"
    async with booted(home=home) as kernel:
        boss = kernel.authenticate((home / "admin.key").read_text().strip())
        await kernel.call(boss, "sto_mount", abi.StoMount(name="team"))
        await kernel.call(boss, "sto_write", abi.StoWrite(path="team/d/a.txt", content="shared"))
        await asyncio.to_thread(backup, home, target)
    restore(target, other)
    shutil.rmtree(home)
    async with booted(home=other) as kernel:
        boss = kernel.authenticate((other / "admin.key").read_text().strip())
        assert (await kernel.call(boss, "sto_read", abi.StoRead(path="team/d/a.txt"))).content == "shared"
        assert (await kernel.call(boss, "sto_write", abi.StoWrite(path="team/d/a.txt", content="more"))).version == 2
        folder = kernel.storage.mounts.infos(Place("", ""), is_admin=True)[0].folder
        await kernel.call(boss, "sto_mount", abi.StoMount(name="team"))  # it was done before
        assert kernel.storage.mounts.infos(Place("", ""), is_admin=True)[0].folder == folder
    assert (next((other / "mounts").iterdir()) / "d" / "a.txt").read_text() == "more"


async def test_what_a_restore_replaces_stays_beside_it(tmp_path: Path) -> None:
    home, target = tmp_path / "home", tmp_path / "backup"
    key = await fill(home)
    backup(home, target)
    was = await read_all(home, key)
    async with booted(home=home) as kernel:
        await kernel.call(kernel.authenticate(key), "mem_clear", abi.MemClear(all=True))
    done = restore(target, home)
    assert done.before is not None
    assert (done.before / "aios.db").exists()
    assert await read_all(home, key) == was


async def test_a_backup_that_is_damaged_cut_off_or_none_replaces_nothing(tmp_path: Path) -> None:
    home, target = tmp_path / "home", tmp_path / "backup"
    key = await fill(home)
    backup(home, target)
    was = await read_all(home, key)
    with pytest.raises(BadRequest, match="not empty"):
        backup(home, target)
    damaged = tmp_path / "damaged"
    shutil.copytree(target, damaged)
    damage_a_chunk(damaged)
    with pytest.raises(BadRequest, match="damaged"):
        restore(damaged, home)
    (damaged / "aios.toml").write_text("")
    with pytest.raises(BadRequest, match="damaged"):
        restore(damaged, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["kernel.lock"]
    drop_a_chunk(damaged)
    with pytest.raises(BadRequest, match="not whole"):
        restore(damaged, home)
    (damaged / "backup.json").unlink()
    with pytest.raises(BadRequest, match="no whole backup"):
        restore(damaged, home)
    assert await read_all(home, key) == was


async def test_no_restore_and_no_repair_under_a_kernel_that_runs(tmp_path: Path) -> None:
    home, target = tmp_path / "home", tmp_path / "backup"
    await fill(home)
    backup(home, target)
    async with booted(home=home):
        with pytest.raises(HomeError, match="already runs"):
            restore(target, home)
        with pytest.raises(HomeError, match="already runs"):
            repair_home(home)


async def test_a_restore_that_was_cut_off_keeps_a_kernel_from_starting_until_it_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, target = tmp_path / "home", tmp_path / "backup"
    key = await fill(home)
    backup(home, target)
    was = await read_all(home, key)
    rename = Path.rename

    def cut(self: Path, to: Path) -> Path:
        if self.parent.name == "restore.part":
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", cut)
    with pytest.raises(KeyboardInterrupt):
        restore(target, home)
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(HomeError, match="half restored"):
        async with booted(home=home):
            pass
    restore(target, home)
    assert await read_all(home, key) == was
