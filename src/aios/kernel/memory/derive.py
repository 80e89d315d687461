"""Writes an entry with what a model made of it, in one job: notes, links, merged entries. Knows no model."""

from __future__ import annotations

import apsw

from aios.abi.calls import Written
from aios.abi.errors import NotFound

from ..process import Place
from .changes import Changed, Changes
from .distil import DistilledWrite, Merged
from .entries import Facts, id_of, number_of

SOURCE = "distilled"
"""What notes say they come from; their metadata has the entry that they were made of."""


def write_distilled(
    changes: Changes, connection: apsw.Connection, place: Place, name: str, args: DistilledWrite, now: float
) -> tuple[Written, list[Changed]]:
    """The entry, its notes, and what it changed in others, all or nothing."""
    metadata = dict(args.metadata)
    if args.made.links:
        metadata["links"] = args.made.links
    facts = Facts(args.kind, metadata, now, args.source, args.importance)
    done = [changes.write(connection, place, name, args.content.encode(), facts)]
    id = id_of(done[0].number)
    for note in args.made.notes:
        made = Facts("fact", {"of": id, "tags": note.tags}, now, SOURCE, note.importance)
        done.append(changes.write(connection, place, name, note.content.encode(), made))
    for merged in args.made.merged:
        done += _merge(changes, connection, place, name, merged, now)
    return Written(id=id, derived=[id_of(each.number) for each in done[1:]], problem=args.problem), done


def _merge(
    changes: Changes, connection: apsw.Connection, place: Place, name: str, merged: Merged, now: float
) -> list[Changed]:
    """Nothing for an entry that was forgotten while the model thought."""
    try:
        number = number_of(merged.id)
        return [changes.update(connection, place, name, number, merged.content.encode(), {"modified": now})]
    except NotFound:
        return []
