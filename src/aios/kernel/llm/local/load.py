"""Makes a decoder of a model's folder: config.json and safetensors. Knows no tokenizer, template or engine."""

from __future__ import annotations

import math
from pathlib import Path

from .backend import AS_EVER, Compute, make_backend
from .decoder import Decoder, Tensors
from .host import said
from .shape import ModelError, Shape
from .weights import Weights, count, read_json


def load(
    folder: Path,
    *,
    context: int | None = None,
    kv_bytes: int = 0,
    is_padded: bool = True,
    compute: Compute = AS_EVER,
) -> Decoder:
    """The decoder in `folder`; `context` makes its window smaller. Raises ModelError.

    What does not fit the memory, together with `kv_bytes` that its sequences may take, is refused before it is read.
    """
    shape = Shape.from_config(read_json(folder / "config.json"), context=context)
    weights = Weights(folder)
    weights.check(shape.tensors())
    return decoder_of(shape, weights, digest=weights.digest(), kv_bytes=kv_bytes, is_padded=is_padded, compute=compute)


def decoder_of(
    shape: Shape,
    tensors: Tensors,
    *,
    digest: str = "",
    kv_bytes: int = 0,
    is_padded: bool = True,
    compute: Compute = AS_EVER,
) -> Decoder:
    """A decoder of `tensors`, if it fits the memory. Raises ModelError."""
    backend = make_backend(compute)
    needed, free = needed_bytes(shape, compute) + kv_bytes, backend.free_bytes()
    if free is not None and needed > free:
        raise ModelError(
            f"it takes {said(needed)} of {backend.place} ({count(shape.tensors()) / 1e9:.2f} billion weights as "
            f"{compute.dtype}, and {said(kv_bytes)} for its sequences), and {said(free)} are free; take a smaller "
            "model, or lower kv_bytes"
        )
    return Decoder(shape, tensors, digest=digest, is_padded=is_padded, backend=backend)


def needed_bytes(shape: Shape, compute: Compute = AS_EVER) -> int:
    """Memory that loading such a model takes at its peak where it is computed.

    That is all weights in `dtype`, and while they are made what a layer's largest two are as f32; on a GPU those lie
    elsewhere.
    """
    sizes = [math.prod(each) for each in shape.tensors().values()]
    is_doubled = shape.is_tied and compute.dtype == "f32"  # the norm before it is folded into one of the two
    head = shape.vocabulary * shape.width if is_doubled else 0
    rotations = shape.context * shape.head_dim * (4 + 8 + 4) // 2
    making = compute.item_bytes * max(sizes) if compute.device != "cpu" else 2 * 4 * max(sizes)
    return compute.item_bytes * (sum(sizes) + head) + making + rotations
