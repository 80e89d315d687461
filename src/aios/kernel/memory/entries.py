"""Entries as rows of the store: added, read, changed, forgotten. Knows no call, and nothing of what is resident.

Every statement is bounded by the block that it is given; who has resolved a caller's block has said whose it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import apsw
import msgspec
from msgspec import Struct

from aios.abi.calls import Entry
from aios.abi.errors import ModuleFault, NotFound

from ..database import row, rows, value
from .base import Held, Swap

MAX_REVISIONS = 32
"""Earlier states of an entry that are kept: the newest ones."""
MAX_ANSWER = 8 << 20
"""Bytes of entries after which a list ends, though more were asked for; there is always one."""
_FACTS = "kind, metadata, created, source, importance, modified, revision"
_HELD = "tip, tail, seal"


class Facts(Struct, frozen=True, array_like=True, gc=False):
    """An entry but for its content."""

    kind: str
    metadata: dict[str, Any]
    created: float
    source: str | None = None
    importance: float | None = None
    modified: float | None = None
    revision: int = 1


class Record(NamedTuple):
    """An entry as it is kept: its number, its content in UTF-8, and JSON of its facts. With a `fault` it is damaged on
    disk, and its content is gone."""

    number: int
    content: bytes
    facts: bytes
    fault: str | None = None

    @property
    def size(self) -> int:
        return len(self.content) + len(self.facts)


encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Facts).decode


def id_of(number: int) -> str:
    return f"m{number:015x}"


def number_of(id: str) -> int:
    """The entry's number. Raises NotFound for what is no id."""
    try:
        number = int(id[1:], 16)
    except ValueError:
        number = -1
    if not 0 <= number < 1 << 60 or id != id_of(number):
        raise no_entry(id)
    return number


def entry_of(record: Record, score: float | None = None) -> Entry:
    facts = _decode(record.facts)
    return Entry(
        id=id_of(record.number),
        content=record.content.decode(),
        kind=facts.kind,
        metadata=facts.metadata,
        created=facts.created,
        score=score,
        source=facts.source,
        importance=facts.importance,
        modified=facts.modified,
        revision=facts.revision,
        fault=record.fault,
    )


# ── inside jobs ──


def add(connection: apsw.Connection, number: int, block: int, facts: Facts, size: int, held: Held) -> None:
    """`size` is what it counts against its agent's bound."""
    connection.execute(
        f"INSERT INTO entries(row, block, {_FACTS}, size, {_HELD}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (number, block, *_columns(facts), size, *held),
    )


def read(connection: apsw.Connection, swap: Swap, block: int, number: int) -> Record | None:
    """None when the block holds no such entry."""
    sql = f"SELECT {_FACTS}, {_HELD} FROM entries WHERE row = ? AND block = ?"
    found = row(connection, sql, (number, block))
    return None if found is None else _record(connection, swap, block, number, found)


def newest(
    connection: apsw.Connection,
    swap: Swap,
    block: int,
    *,
    before: int | None = None,
    limit: int,
    kinds: Sequence[str] | None = None,
    most: int | None = None,
) -> tuple[list[Record], bool]:
    """Entries, newest first, before the one of that number; whether the list ends at `most` bytes
    (`MAX_ANSWER`)."""
    among = f" AND kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
    sql = f"SELECT row, {_FACTS}, {_HELD} FROM entries WHERE block = ? AND row < ?{among} ORDER BY row DESC LIMIT ?"
    found = connection.execute(sql, (block, before if before is not None else 1 << 62, *(kinds or ()), limit))
    return _up_to(most or MAX_ANSWER, (_record(connection, swap, block, number, columns) for number, *columns in found))


def history(connection: apsw.Connection, swap: Swap, block: int, number: int) -> tuple[list[Record], bool]:
    """Earlier states of an entry, newest first; whether the list ends for its length. Raises NotFound."""
    if value(connection, "SELECT 1 FROM entries WHERE row = ? AND block = ?", (number, block)) is None:
        raise no_entry(id_of(number))
    sql = f"SELECT {_FACTS}, {_HELD} FROM entries_were WHERE row = ? ORDER BY revision DESC"
    found = connection.execute(sql, (number,))
    return _up_to(MAX_ANSWER, (_record(connection, swap, block, number, columns) for columns in found))


def _up_to(most: int, records: Iterator[Record]) -> tuple[list[Record], bool]:
    """The first of `records`, at least one, and whether there are more."""
    fitting: list[Record] = []
    for record in records:
        most -= record.size
        if most < 0 and fitting:
            return fitting, True
        fitting.append(record)
    return fitting, False


def keep_as_it_was(connection: apsw.Connection, block: int, number: int) -> tuple[Facts, Held, int]:
    """Put the entry as it is into its history, which now shares its content; what it is, and its size. Raises
    NotFound."""
    sql = f"SELECT size, {_FACTS}, {_HELD} FROM entries WHERE row = ? AND block = ?"
    found = row(connection, sql, (number, block))
    if found is None:
        raise no_entry(id_of(number))
    connection.execute(
        f"INSERT INTO entries_were(row, {_FACTS}, size, {_HELD}) SELECT row, {_FACTS}, size, {_HELD}"
        " FROM entries WHERE row = ?",
        (number,),
    )
    size, *columns = found
    return _facts(columns), (columns[-3], columns[-2], columns[-1]), size


def change(connection: apsw.Connection, number: int, facts: Facts, size: int, held: Held) -> None:
    names = f"({_FACTS}, size, {_HELD})"
    connection.execute(
        f"UPDATE entries SET {names} = (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) WHERE row = ?",
        (*_columns(facts), size, *held, number),
    )


def trim_history(connection: apsw.Connection, swap: Swap, number: int, revision: int) -> tuple[int, int]:
    """Forget what is more than `MAX_REVISIONS` older than `revision`; bytes that no longer count, and bytes freed."""
    sql = "DELETE FROM entries_were WHERE row = ? AND revision < ? RETURNING size, tip, octet_length(tail)"
    return _drop_contents(connection, swap, rows(connection, sql, (number, revision - MAX_REVISIONS)))


def remove(connection: apsw.Connection, swap: Swap, block: int, number: int) -> tuple[int, int, int] | None:
    """Forget an entry and its history: bytes of its content, bytes that no longer count, bytes freed. None when the
    block holds no such entry."""
    gone = "size, tip, octet_length(tail)"
    sql = f"DELETE FROM entries WHERE row = ? AND block = ? RETURNING {gone}, octet_length(metadata)"
    found = row(connection, sql, (number, block))
    if found is None:
        return None
    size, tip, tail, metadata = found
    was = rows(connection, f"DELETE FROM entries_were WHERE row = ? RETURNING {gone}", (number,))
    kept, freed = _drop_contents(connection, swap, [(size, tip, tail), *was])
    return size - metadata, kept, freed


def numbers(connection: apsw.Connection, block: int, most: int) -> list[int]:
    return [number for (number,) in rows(connection, "SELECT row FROM entries WHERE block = ? LIMIT ?", (block, most))]


def unreadable(connection: apsw.Connection, swap: Swap) -> Iterator[tuple[int, int | None, str]]:
    """Of all entries: number, revision where it is an earlier state, and why it cannot be read."""
    now = f"SELECT block, row, NULL, {_FACTS}, {_HELD} FROM entries"
    were = ", ".join(f"was.{name}" for name in f"{_FACTS}, {_HELD}".split(", "))
    was = f"SELECT block, row, was.revision, {were} FROM entries_were AS was JOIN entries USING (row)"
    for block, number, revision, *columns in connection.execute(f"{now} UNION ALL {was}"):
        record = _record(connection, swap, block, number, columns)
        if record.fault is not None:
            yield number, revision, record.fault


def newest_number(connection: apsw.Connection) -> int:
    return value(connection, "SELECT max(row) FROM entries") or 0


def _drop_contents(connection: apsw.Connection, swap: Swap, gone: Sequence[tuple[Any, ...]]) -> tuple[int, int]:
    kept = sum(size for size, *_ in gone)
    return kept, sum(tail + swap.drop(connection, tip) for _, tip, tail in gone)


def _columns(facts: Facts) -> tuple[Any, ...]:
    kind, metadata, *rest = msgspec.structs.astuple(facts)
    return (kind, encode(metadata), *rest)


def _facts(columns: Sequence[Any]) -> Facts:
    kind, metadata, *rest = columns[:7]
    return Facts(kind, msgspec.json.decode(metadata), *rest)


def _record(connection: apsw.Connection, swap: Swap, block: int, number: int, columns: Sequence[Any]) -> Record:
    *_, tip, tail, seal = columns
    content, facts, why = b"", Facts(columns[0], {}, columns[2]), ""
    try:
        facts = _facts(columns)
        content = swap.get(connection, block, (tip, tail, seal))
        content.decode()
    except ModuleFault as fault:
        why = fault.message
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        content, why = b"", f"it is not what was written ({error})"
    return Record(number, content, encode(facts), why or None)


def no_entry(id: str) -> NotFound:
    return NotFound(
        f"this block of memory holds no entry '{id[:80]}'; mem_list lists them", code="no_such_entry", param="id"
    )
