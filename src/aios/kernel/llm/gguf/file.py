"""What a GGUF file says of its model: architecture, window, size of keys and values. Reads the header only, and knows
nothing of who runs it.

The format: magic, version, number of tensors, number of entries; each entry is a name, a type and a value.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..local.shape import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_ENTRIES, MAX_NAME = 1 << 16, 1 << 16
MAX_VALUE = 64 << 20
"""Bytes of one text or list of numbers: a template or the scores of a vocabulary take far less."""
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
HEADS = "attention.head_count"
_MAX_LIST = 1024
"""Lists longer than this (the tokens of a vocabulary) are passed over: nothing here asks for them."""


@dataclass(frozen=True, slots=True)
class GgufInfo:
    """`kv_bytes` is what one token's keys and values take, in f16; None where the file does not say enough."""

    architecture: str
    context_length: int | None
    kv_bytes: int | None
    size: int
    is_pooled: bool
    """It says how the vectors of a text's tokens become one."""


def read_info(path: Path) -> GgufInfo:
    """Raises ModelError: there is no such file, or it is none of this format, or it ends before its header does."""
    try:
        with path.open("rb") as file:
            return _info(_entries(file, path.stat().st_size), path.stat().st_size)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    except _Bad as error:
        raise ModelError(f"{path} {error}") from None


class _Bad(ValueError):
    """Said of the file."""


def _entries(file: BinaryIO, size: int) -> dict[str, Any]:
    head = file.read(4)
    if head != MAGIC:
        raise _Bad(f"is no GGUF file: it begins with {head!r}, and those begin with {MAGIC!r}")
    (version,) = _take(file, "<I")
    if version not in VERSIONS:
        raise _Bad(f"is GGUF of version {version}, and versions 2 and 3 can be read")
    _, count = _take(file, "<QQ")
    if count > MAX_ENTRIES:
        raise _Bad(f"is corrupt: it claims {count} entries in its header")
    entries = {}
    for _ in range(count):
        name = _text(file, MAX_NAME).decode("utf-8", "replace")
        (kind,) = _take(file, "<I")
        entries[name] = _value(file, kind, size)
    return entries


def _take(file: BinaryIO, form: str) -> tuple[Any, ...]:
    return struct.unpack(form, _bytes(file, struct.calcsize(form)))


def _bytes(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise _Bad("ends in the middle of its header: it is truncated; fetch it again")
    return data


def _text(file: BinaryIO, most: int) -> bytes:
    (length,) = _take(file, "<Q")
    if length > most:
        raise _Bad(f"is corrupt: a text of {length} bytes in its header")
    return _bytes(file, length)


def _value(file: BinaryIO, kind: int, size: int) -> Any:
    if kind in _SCALARS:
        return _take(file, _SCALARS[kind])[0]
    if kind == _STRING:
        return _text(file, MAX_VALUE).decode("utf-8", "replace")
    if kind != _ARRAY:
        raise _Bad(f"is corrupt: a value of type {kind} in its header")
    inner, count = _take(file, "<IQ")
    if count > size or (inner not in _SCALARS and inner != _STRING):
        raise _Bad(f"is corrupt: a list of {count} values of type {inner} in its header")
    if inner == _STRING:
        for _ in range(count):
            _text(file, MAX_VALUE)
        return None
    length = count * struct.calcsize(_SCALARS[inner])
    if length > MAX_VALUE:
        raise _Bad(f"is corrupt: a list of {length} bytes in its header")
    data = _bytes(file, length)
    return [v for (v,) in struct.iter_unpack(_SCALARS[inner], data)] if count <= _MAX_LIST else None


def _info(entries: dict[str, Any], size: int) -> GgufInfo:
    architecture = entries.get("general.architecture")
    if not isinstance(architecture, str):
        raise _Bad("does not say its architecture (general.architecture)")

    def number(key: str) -> int | None:
        value = entries.get(f"{architecture}.{key}")
        return value if isinstance(value, int) and value > 0 else None

    pooling = f"{architecture}.pooling_type"
    return GgufInfo(architecture, number("context_length"), _kv_bytes(entries, architecture), size, pooling in entries)


def _kv_bytes(entries: dict[str, Any], architecture: str) -> int | None:
    """Of one token. A model whose layers differ in their number of heads lists them."""

    def numbers(key: str) -> list[int]:
        value = entries.get(f"{architecture}.{key}")
        listed = value if isinstance(value, list) else [value]
        return [number for number in listed if isinstance(number, int) and number >= 0]

    layers, width, heads = (max(numbers(key), default=0) for key in ("block_count", "embedding_length", HEADS))
    if not (layers and width and heads):
        return None
    kv_heads = numbers(f"{HEADS}_kv") or [heads]
    in_all = sum(kv_heads) if len(kv_heads) > 1 else kv_heads[0] * layers
    lengths = [max(numbers(f"attention.{what}_length"), default=width // heads) for what in ("key", "value")]
    return 2 * in_all * sum(lengths) or None
