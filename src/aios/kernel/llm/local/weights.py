"""A folder's safetensors, one file or several with an index: checked, then read one tensor at a time. Knows no model.

What a file says of itself is checked by the library that made the format; the tensors are then read from the mapped
file, since NumPy has no bf16: its bits are the upper half of an f32's.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from aios.abi.calls import nearest

from .shape import ModelError

ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
_OTHER_TYPES = {"F64": np.float64, "I8": np.int8, "I32": np.int32, "I64": np.int64}
_UNUSED = ("rotary_emb.inv_freq",)
"""Endings of names that old files hold and that nobody needs."""


class _Place(NamedTuple):
    data: NDArray[np.uint8]
    kind: str
    shape: tuple[int, ...]


class Weights:
    """Tensors by their Hugging Face names; reading one copies it into memory, making one of these does not."""

    def __init__(self, folder: Path) -> None:
        """Raises ModelError that names the file."""
        self._places: dict[str, _Place] = {}
        self.files = _files(folder)
        for path in self.files:
            self._places.update(_places(path))

    def check(self, wanted: Mapping[str, tuple[int, ...]], unused: Sequence[str] = ()) -> None:
        """Raise ModelError unless there are just the `wanted` tensors, in their shapes, of a kind that can be read; and
        those whose names end as one of `unused`."""
        for name, shape in wanted.items():
            place = self._places.get(name)
            if place is None:
                raise ModelError(f"the weights have no {name}{nearest(name, self._places)}")
            if place.shape != shape:
                raise ModelError(f"the weights' {name} is {list(place.shape)}; by config.json it must be {list(shape)}")
            if place.kind not in _TYPES:
                raise ModelError(f"the weights' {name} is of type {place.kind}; supported are {', '.join(_TYPES)}")
        tied = {"lm_head.weight"}  # some files hold the embedding a second time
        for name in self._places.keys() - wanted.keys() - tied:
            if not name.endswith((*_UNUSED, *unused)):
                raise ModelError(f"the weights hold {name}, which a model of this config.json does not have")

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def get_tensor(self, name: str) -> NDArray[Any]:
        """A copy: f16 as it is, bf16 as f32. Raises ModelError where it is not all numbers."""
        data, kind, shape = self._places[name]
        stored = data.view(_TYPES[kind]).reshape(shape)
        found: NDArray[Any]
        if kind == "BF16":
            found = (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            found = np.array(stored)
        with np.errstate(invalid="ignore", over="ignore"):
            if not np.isfinite(found.sum(dtype=np.float64)):
                raise ModelError(f"the weights' {name} holds what is no number: the file is damaged")
        return found

    def numbers(self, name: str, dimensions: int) -> NDArray[Any]:
        """As `get_tensor`, of whole numbers and f64 too. Raises ModelError."""
        data, kind, shape = self._places[name]
        if len(shape) != dimensions or kind not in (_TYPES | _OTHER_TYPES):
            wanted = f"{dimensions} dimension{'s' * (dimensions > 1)}, and be of {', '.join(_TYPES | _OTHER_TYPES)}"
            raise ModelError(f"the weights' {name} is {list(shape)} of type {kind}; it must have {wanted}")
        return self.get_tensor(name) if kind in _TYPES else np.array(data.view(_OTHER_TYPES[kind]).reshape(shape))

    def digest(self) -> str:
        """Of all bytes of all files."""
        found = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        return found.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`. Raises ModelError that names it."""
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half of a pair is no character
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} is not valid JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path.name} must hold an object, not {type(value).__name__}")
    return value


def _files(folder: Path) -> list[Path]:
    if (folder / INDEX).exists():
        shards = read_json(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
            raise ModelError(f"{INDEX} has no weight_map that names a file for each tensor")
        names = sorted(set(shards.values()))
        for name in names:
            if Path(name).name != name or name.startswith("."):
                raise ModelError(f"{INDEX} names {name!r:.80}, which is no file of this folder")
            if not (folder / name).is_file():
                raise ModelError(f"{INDEX} names {name}, and there is no such file in the folder")
        return [folder / name for name in names]
    if (folder / ONE).is_file():
        return [folder / ONE]
    others = sorted(path.name for path in folder.glob("*.bin")) + sorted(path.name for path in folder.glob("*.gguf"))
    hint = f"; of {others[0]} it cannot be read, only of safetensors" if others else ""
    raise ModelError(f"it has neither {ONE} nor {INDEX}{hint}")


def _places(path: Path) -> dict[str, _Place]:
    try:
        with safe_open(str(path), framework="numpy"):  # the header is sound and fits the file
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path.name} is no sound safetensors file: {str(error)[:200]}") from None
    mapped = np.memmap(path, np.uint8, mode="r")
    (length,) = struct.unpack("<Q", mapped[:8].tobytes())
    header = json.loads(mapped[8 : 8 + length].tobytes())
    header.pop("__metadata__", None)
    start = 8 + length
    found = {}
    for name, said in header.items():
        begin, end = said["data_offsets"]
        found[name] = _Place(mapped[start + begin : start + end], said["dtype"], tuple(said["shape"]))
    return found


def count(tensors: Mapping[str, tuple[int, ...]]) -> int:
    """Numbers in all of `tensors`."""
    return sum(math.prod(shape) for shape in tensors.values())
