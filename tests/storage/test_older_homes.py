"""Files of a home that an older kernel wrote: everything is there, with its versions and its trash."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import apsw
import pytest
from storage_world import LARGE, World

from aios.abi.calls import StoHistory, StoRestore
from aios.kernel.database import Database
from aios.kernel.database.schema import MIGRATIONS

pytestmark = pytest.mark.anyio
PLACES = [("o", "a"), ("o", "b")]


def write_old_home(home: Path) -> None:
    """As a kernel of version 3 left it."""
    database = Database.open(home / "aios.db", migrations=MIGRATIONS[:3])
    database.run_now(lambda c: fill(c, home))
    database.close()


def fill(connection: apsw.Connection, home: Path) -> None:
    ids = iter(range(1, 100))

    def add(place: int, path: str, *contents: str, trashed: float | None = None) -> None:
        id = next(ids)
        connection.execute(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (id, *PLACES[place], path, path.rpartition("/")[0], "file" if contents else "folder",
             len(contents[-1]) if contents else 0, max(1, len(contents)), 50.0 + id, trashed),
        )  # fmt: skip
        for n, content in enumerate(contents):
            data = content.encode()
            hash = sha256(data).digest()
            body = data if len(data) <= 65_536 else None
            connection.execute("INSERT INTO contents VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (hash, len(data), body))
            connection.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?)", (id, n + 1, hash, len(data), 10.0 + n))
            if body is None:
                blob = home / "blobs" / hash.hex()[:2] / hash.hex()
                blob.parent.mkdir(parents=True, exist_ok=True)
                blob.write_bytes(data)

    add(0, "d")
    add(0, "d/e")
    add(0, "d/e/ü.txt", "one", LARGE, "three")
    add(0, "top", "one")
    add(1, "d", LARGE)
    add(0, "gone", trashed=100.0)
    add(0, "gone/x", "x", trashed=100.0)
    add(0, "gone/f", trashed=100.0)
    add(0, "gone/f/y", LARGE + "y", trashed=100.0)
    add(0, "d/z", "z1", trashed=101.0)
    add(0, "d/z", "z2", trashed=102.0)
    add(0, "same", trashed=103.0)
    add(0, "same", trashed=103.0)
    add(0, "same/a", "twin", trashed=103.0)
    add(0, "same/a", "twin", trashed=103.0)
    add(0, "leaves", trashed=-1.0)
    add(0, "leaves/a", LARGE + "z", trashed=-1.0)
    connection.execute("DELETE FROM kept")
    connection.execute(MIGRATIONS[1][MIGRATIONS[1].index("INSERT INTO kept SELECT 'storage'") :].partition(";")[0])


@pytest.fixture
def old(tmp_path: Path) -> World:
    write_old_home(tmp_path)
    return World(tmp_path)


async def test_files_versions_and_contents_are_there_and_go_on(old: World) -> None:
    assert await old.names() == ["d", "top"]
    assert await old.names("d/e") == ["d/e/ü.txt"]
    assert [await old.read("d/e/ü.txt", n) for n in (1, 2, 3)] == ["one", LARGE, "three"]
    history = await old.call(StoHistory(path="d/e/ü.txt"))
    newest = history.revisions[0]
    assert (newest.version, newest.created, newest.author, newest.why) == (3, 12.0, None, None)
    assert await old.write("d/e/ü.txt", "four") == 4
    assert await old.read("d", agent="b") == LARGE
    assert await old.texts() == ({"d/e/ü.txt": "four", "top": "one"}, True)
    old.close()


async def test_the_trash_is_there_and_comes_back(old: World) -> None:
    assert await old.names(trash=True) == ["d/z", "gone", "same", "same/a"]
    await old.call(StoRestore(path="gone"))
    assert (await old.read("gone/x"), await old.read("gone/f/y")) == ("x", LARGE + "y")
    await old.call(StoRestore(path="d/z"))
    assert await old.read("d/z") == "z2"
    old.close()


async def test_a_large_content_that_two_agents_wrote_stays_until_both_have_dropped_it(old: World) -> None:
    before = old.kept()
    await old.storage.keep_house()
    assert len(old.blobs()) == 2
    assert old.kept() == (before[0] - 2, before[1] - len(LARGE) - 101)
    await old.clear("d")
    await old.clear(".", trash=True)
    assert await old.read("d", agent="b") == LARGE
    await old.clear("d", agent="b")
    await old.clear("d", agent="b", trash=True)
    assert (old.blobs(), old.kept("b")) == ([], (0, 0))
    assert old.count("contents") == 1
    old.close()
