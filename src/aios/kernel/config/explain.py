"""What msgspec finds wrong, as a sentence about keys. Knows no file."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from aios.abi.calls import nearest
from aios.abi.choices import choices_at, place_of

from .base import Section
from .cores import KEYS_GO, CoreSection
from .sections import Config

TYPES = {
    "`object`": "a section", "`array`": "a list", "`str`": "a text", "`int`": "a whole number", "`float`": "a number",
    "`bool`": "true or false",
}  # fmt: skip


def explain(error: msgspec.ValidationError, kind: type[Section] = Config) -> str:
    """msgspec's message as one about keys: where first, then what, with the words that may stand there."""
    what, place = str(error).split(" - at `", 1)[0], place_of(error) or ""
    if "unknown field `" in what:
        word = what.split("unknown field `", 1)[1].split("`", 1)[0]
        if word in ("api_key", "key", "token", "password", "secret") and (
            kind is CoreSection or place.startswith("core")
        ):
            return f"{place or 'the core'} has '{word}'; {KEYS_GO}"
        near = nearest(word, kind.__struct_encode_fields__) if kind is not Config else _meant(word, place)
        return f"unknown key '{word}'{near}" + (f" (at {place})" if place else "")
    if words := choices_at(kind, place):
        allowed = " or ".join(f'"{word}"' for word in words)
        given = what.partition("Invalid enum value ")[2]
        hint = nearest(given.strip("'").lower(), words)
        return f"{place} is {given or 'no text'}, and must be {allowed}{hint}"
    for theirs, ours in TYPES.items():
        what = what.replace(theirs, ours)
    what = what[:1].lower() + what[1:]
    if what == "expected a list, got a section":
        what += f"; write its header as [[{place}]]"
    return f"{place}: {what}" if place else what


def _meant(word: str, place: str) -> str:
    """What an unknown key may have been meant to be: one of its own section, or one of another."""
    known = {header.strip("[]"): (header, keys) for header, keys in _sections()}
    own = known[place.partition("[")[0]][1] if place.partition("[")[0] in known else set(known)
    if hint := nearest(word, own):
        return hint
    homes = [header for header, keys in known.values() if word in keys]
    if homes:
        return f"; it belongs under {' or '.join(homes)}"
    return nearest(word, {key for _, keys in known.values() for key in keys})


def _sections() -> Iterator[tuple[str, set[str]]]:
    """Each section's header, as it is written, and its keys."""
    for item in msgspec.structs.fields(Config):
        inner = getattr(item.type, "__args__", ())
        kind = inner[0] if inner else item.type
        if isinstance(kind, type) and issubclass(kind, Section):
            header = f"[[{item.encode_name}]]" if inner else f"[{item.encode_name}]"
            yield header, set(kind.__struct_encode_fields__)
