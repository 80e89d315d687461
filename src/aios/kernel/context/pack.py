"""A snapshot as bytes: magic, header, its checksum, raw arrays, their checksum. Knows nothing of what they mean.

The header has a checksum of its own, so that one whose arrays are cut off or damaged still tells what was said.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from .base import DTYPES, About, Array, Buffer, Form, SnapshotError

MAGIC = b"AIOSCTX1"
MAX_HEADER = 256 << 20
_SUM = 32


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    form: Form
    about: About
    arrays: tuple[Shape, ...]
    state: msgspec.Raw


# Made here, not where it is used: two threads that come upon a type for the first time together crash msgspec.
_decode = msgspec.json.Decoder(Header).decode


class Unpacked(NamedTuple):
    """`why` says what is wrong with the arrays, which are None then."""

    header: Header
    arrays: list[Array] | None
    why: str | None


def pack(form: Form, about: About, state: bytes, arrays: Sequence[Array]) -> list[Buffer]:
    """The parts of a snapshot, one after the other; arrays are not copied when they are whole already."""
    whole = [np.ascontiguousarray(array) for array in arrays]
    shapes = tuple(Shape(array.dtype.str, array.shape) for array in whole)
    header = msgspec.json.encode(Header(form, about, shapes, msgspec.Raw(state)))
    bodies = [array.reshape(-1).view(np.uint8).data for array in whole if array.size]
    return [
        MAGIC,
        struct.pack("<Q", len(header)),
        header,
        hashlib.sha256(header).digest(),
        *bodies,
        _sum_of(bodies),
    ]


def unpack(data: Buffer) -> Unpacked:
    """What `pack` made. Raises SnapshotError when not even the header is sound."""
    view = memoryview(data)
    if view[: len(MAGIC)] != MAGIC:
        raise SnapshotError("these bytes are not a snapshot")
    start = len(MAGIC) + 8
    (length,) = struct.unpack_from("<Q", view, len(MAGIC)) if len(view) >= start else (0,)
    if not 0 < length <= min(MAX_HEADER, len(view) - start - _SUM):
        raise SnapshotError("the snapshot is cut off in its header")
    text, end = view[start : start + length], start + length + _SUM
    if hashlib.sha256(text).digest() != view[end - _SUM : end]:
        raise SnapshotError("the snapshot's header is damaged: its checksum does not match")
    try:
        header = _decode(text)
    except msgspec.DecodeError as error:
        raise SnapshotError(f"the snapshot's header is of another kind: {error}") from None
    try:
        return Unpacked(header, _arrays(header.arrays, view[end:]), None)
    except SnapshotError as error:
        return Unpacked(header, None, str(error))


def _arrays(shapes: Sequence[Shape], body: memoryview) -> list[Array]:
    found: list[Array] = []
    at = 0
    for one in shapes:
        dtype = next((known for known in DTYPES if known.str == one.dtype), None)
        if dtype is None or min(one.shape, default=0) < 0:
            raise SnapshotError(f"the snapshot holds an array of {one.dtype[:20]!r} {one.shape}")
        count = int(np.prod(one.shape, dtype=object))
        if at + count * dtype.itemsize > len(body) - _SUM:
            raise SnapshotError("the snapshot is cut off")
        found.append(np.frombuffer(body, dtype, count, at).reshape(one.shape))
        at += count * dtype.itemsize
    if hashlib.sha256(body[:at]).digest() != body[at:]:
        raise SnapshotError("the snapshot is damaged: its checksum does not match")
    return found


def _sum_of(bodies: Sequence[Buffer]) -> bytes:
    checksum = hashlib.sha256()
    for body in bodies:
        checksum.update(body)
    return checksum.digest()
