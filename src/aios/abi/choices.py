"""Which words may stand at a place inside a struct, for errors that list them. Knows msgspec's types, and no call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

import msgspec
from msgspec import Struct, inspect

_STEP = re.compile(r"\[[^\]]*\]|[^.\[]+")
_about = lru_cache(maxsize=64)(inspect.type_info)


def choices_at(kind: type[Struct], path: str) -> list[str]:
    """The words allowed at `path`, as msgspec writes it (`core[0].kind`); empty where more than a few are."""
    places: list[inspect.Type] = list(_alternatives(_about(kind)))
    for step in _STEP.findall(path):
        places = [deeper for place in places for inner in _below(place, step) for deeper in _alternatives(inner)]
    words = [str(word) for place in places if isinstance(place, inspect.LiteralType) for word in place.values]
    return list(dict.fromkeys(words))


def place_of(error: msgspec.ValidationError) -> str | None:
    """Where msgspec found it, without the leading `$.`; None when it is the whole."""
    found = re.search(r"at `\$\.?([^`]+)`$", str(error))
    return found[1] if found else None


def _alternatives(kind: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.Metadata):
        yield from _alternatives(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from _alternatives(each)
    else:
        yield kind


def _below(kind: inspect.Type, step: str) -> Iterator[inspect.Type]:
    """What lies one step below `kind`: a field by its name, or any item of a list or an object."""
    if isinstance(kind, inspect.StructType):
        yield from (field.type for field in kind.fields if field.encode_name == step)
    elif step.startswith("[") and isinstance(kind, inspect.ListType | inspect.VarTupleType):
        yield kind.item_type
    elif step.startswith("[") and isinstance(kind, inspect.DictType):
        yield kind.value_type
