"""Which model made which vectors. A model is a name and a dimension; number 0 is no model."""

from __future__ import annotations

from typing import NamedTuple

import apsw

from ..database import row, value


class Model(NamedTuple):
    number: int
    name: str
    dimension: int


def newest_model(connection: apsw.Connection, name: str) -> Model | None:
    """The one of that name which made the last vectors, as far as anybody knows."""
    found = row(
        connection, "SELECT number, name, dimension FROM search_models WHERE name = ? ORDER BY number DESC", (name,)
    )
    return None if found is None else Model(*found)


def model_of(connection: apsw.Connection, name: str, dimension: int) -> Model:
    """That model, with a number of its own, the highest of its name."""
    known = newest_model(connection, name)
    if known is not None and known.dimension == dimension:
        return known
    connection.execute("DELETE FROM search_models WHERE name = ? AND dimension = ?", (name, dimension))
    sql = "INSERT INTO search_models(name, dimension) VALUES (?, ?) RETURNING number"
    return Model(value(connection, sql, (name, dimension)), name, dimension)
