"""Contents as chains of blocks: what begins alike is on disk once, nobody else's is shared, and damage is noticed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import apsw
import pytest

from aios.abi.errors import ModuleFault
from aios.kernel.database import value
from aios.kernel.database.schema import MEMORY
from aios.kernel.storage import Segments
from aios.kernel.storage.segments import Held

NAMED = "SELECT tip FROM named"


class Shelf:
    """Contents that are kept by name, and what is on disk for them."""

    def __init__(self) -> None:
        self.connection = apsw.Connection(":memory:")
        self.connection.execute(MEMORY[MEMORY.index("CREATE TABLE segments") :])
        self.connection.execute("CREATE TABLE named(tip INTEGER)")
        self.segments = Segments()
        self.held: list[tuple[int, Held]] = []

    def put(self, content: bytes, scope: int = 1) -> int:
        """The bytes that it took."""
        held, taken = self.segments.put(self.connection, scope, content)
        self.held.append((scope, held))
        return taken

    def get(self, number: int) -> bytes:
        return self.segments.get(self.connection, *self.held[number])

    def drop(self, number: int) -> int:
        _, (tip, tail, _) = self.held.pop(number)
        return self.segments.drop(self.connection, tip) + len(tail)

    def on_disk(self) -> int:
        blocks = value(self.connection, "SELECT coalesce(sum(octet_length(body)), 0) FROM segments")
        return int(blocks) + sum(len(tail) for _, (_, tail, _) in self.held)

    def faults(self) -> list[tuple[str, str, str]]:
        self.connection.execute("DELETE FROM named")
        self.connection.executemany("INSERT INTO named VALUES (?)", [(held[0],) for _, held in self.held])
        return list(self.segments.check(self.connection, NAMED))


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    yield shelf
    shelf.connection.close()


def text(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 2048, 50_000, 1 << 20])
def test_a_content_is_what_was_put(shelf: Shelf, size: int) -> None:
    content = text(size, size)
    assert shelf.put(content) == size == shelf.on_disk()
    assert shelf.get(0) == content
    assert shelf.faults() == []


def test_the_next_snapshot_of_what_grows_costs_its_new_blocks_and_a_tail(shelf: Shelf) -> None:
    content = text(1, 40_000)
    for end in range(2000, 40_001, 2000):
        assert shelf.put(content[:end]) <= 2000 + 2048
    assert shelf.on_disk() < sum(range(2000, 40_001, 2000)) / 5
    assert [len(shelf.get(n)) for n in range(20)] == list(range(2000, 40_001, 2000))
    assert shelf.faults() == []


def test_a_megabyte_is_few_rows(shelf: Shelf) -> None:
    shelf.put(text(1, 1 << 20))
    assert value(shelf.connection, "SELECT count(*) FROM segments") == 112


def test_scopes_share_nothing(shelf: Shelf) -> None:
    content = text(1, 5000)
    assert shelf.put(content, 1) == shelf.put(content, 2) == 5000
    assert shelf.put(content, 1) == 5000 % 1024
    assert shelf.drop(0) == 5000 % 1024
    assert shelf.get(0) == shelf.get(1) == content


def test_what_the_last_one_lets_go_is_freed_and_no_more(shelf: Shelf) -> None:
    long, short = text(1, 10_000), text(1, 10_000)[:4096]
    shelf.put(long)
    assert shelf.put(short) == 0
    assert shelf.drop(0) == 10_000 - 4096
    assert shelf.get(0) == short
    assert shelf.drop(0) == 4096
    assert shelf.on_disk() == 0


def test_a_content_named_twice_stays_until_both_have_let_it_go(shelf: Shelf) -> None:
    shelf.put(text(1, 3000))
    scope, held = shelf.held[0]
    shelf.segments.keep(shelf.connection, held[0])
    shelf.held.append((scope, held))
    assert shelf.faults() == []
    shelf.drop(0)
    assert shelf.get(0) == text(1, 3000)


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE segments SET body = zeroblob(1024) WHERE id = 2",
        "DELETE FROM segments WHERE id = 2",
        "DELETE FROM segments WHERE id = 1",
        "UPDATE segments SET parent = 4 WHERE id = 2",
        "UPDATE segments SET parent = 2 WHERE id = 2",
        "UPDATE segments SET parent = NULL WHERE id = 2",
    ],
)
def test_damage_is_one_error_of_the_contents_that_have_it_and_a_check_finds_it(shelf: Shelf, harm: str) -> None:
    shelf.put(text(1, 4096))
    shelf.put(text(2, 4096))
    shelf.connection.execute(harm)
    with pytest.raises(ModuleFault, match="damaged"):
        shelf.get(0)
    assert shelf.get(1) == text(2, 4096)
    assert shelf.faults() != []


def test_a_tail_that_is_not_what_was_written_is_noticed(shelf: Shelf) -> None:
    shelf.put(b"short")
    scope, (tip, _, seal) = shelf.held[0]
    with pytest.raises(ModuleFault, match="its end"):
        shelf.segments.get(shelf.connection, scope, (tip, b"shirt", seal))


def test_counts_that_are_wrong_are_found_and_mended(shelf: Shelf) -> None:
    for seed in (1, 2):
        shelf.put(text(seed, 4096))
    shelf.connection.execute("UPDATE segments SET refs = refs + 1 WHERE id = 3")
    shelf.held.pop(1)
    assert [fault[0] for fault in shelf.faults()] == ["segment 3", "segment 8"]
    shelf.segments.repair(shelf.connection, NAMED)
    assert shelf.faults() == []
    assert shelf.on_disk() == 4096
    assert shelf.drop(0) == 4096


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_put_and_dropped_the_rest_is_there_and_counted(shelf: Shelf, seed: int) -> None:
    dice = random.Random(seed)
    roots = [text(n, 9000) for n in range(2)]
    model: list[bytes] = []
    for _ in range(150):
        if model and dice.random() < 0.4:
            number = dice.randrange(len(model))
            before = shelf.on_disk()
            del model[number]
            assert shelf.drop(number) == before - shelf.on_disk()
        else:
            content = dice.choice(roots)[: dice.randrange(9000)] + dice.choice([b"", b"x" * dice.randrange(3000)])
            before = shelf.on_disk()
            model.append(content)
            assert shelf.put(content, 1 + dice.randrange(2)) == shelf.on_disk() - before
        assert shelf.faults() == []
    assert [shelf.get(n) for n in range(len(model))] == model
