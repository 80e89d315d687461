"""Makes a decoder of a model's folder: config.json and safetensors. Knows no tokenizer, template or engine."""

from __future__ import annotations

import math
from pathlib import Path

from .decoder import Decoder
from .host import free_bytes, said
from .shape import ModelError, Shape
from .weights import Weights, count, read_json


def load(folder: Path, *, context: int | None = None, kv_bytes: int = 0, is_padded: bool = True) -> Decoder:
    """The decoder in `folder`; `context` makes its window smaller. Raises ModelError.

    What does not fit the memory, together with `kv_bytes` that its sequences may take, is refused before it is read.
    """
    shape = Shape.from_config(read_json(folder / "config.json"), context=context)
    weights = Weights(folder)
    wanted = shape.tensors()
    weights.check(wanted)
    needed, free = needed_bytes(shape) + kv_bytes, free_bytes()
    if free is not None and needed > free:
        raise ModelError(
            f"it takes {said(needed)} of memory ({count(wanted) / 1e9:.2f} billion weights as f32, and "
            f"{said(kv_bytes)} for its sequences), and {said(free)} are free; take a smaller model, or lower kv_bytes"
        )
    return Decoder(shape, weights, digest=weights.digest(), is_padded=is_padded)


def needed_bytes(shape: Shape) -> int:
    """Memory that loading such a model takes at its peak: all weights as f32, and the largest once more."""
    sizes = [4 * math.prod(each) for each in shape.tensors().values()]
    head = 4 * shape.vocabulary * shape.width
    rotations = shape.context * shape.head_dim * (4 + 8 + 4) // 2
    return sum(sizes) + (head if shape.is_tied else 0) + 2 * max(sizes) + rotations
