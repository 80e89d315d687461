"""A random Llama-shaped model of a few kilobytes: it says nothing, but says it the same every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from aios.kernel.llm.local.backend import AS_EVER, Compute, make_backend
from aios.kernel.llm.local.decoder import Decoder
from aios.kernel.llm.local.engine import Engine
from aios.kernel.llm.local.grammar import Vocabulary
from aios.kernel.llm.local.shape import Shape
from aios.kernel.llm.local.tokenizer import Tokenizer
from aios.testing import models
from aios.testing.models import FAMILIES, Weights, weights

__all__ = ["FAMILIES", "Weights", "config", "decoder", "engine", "vocabulary", "weights", "without_specials", "write"]

TOKENIZER = Tokenizer([" the", " is", "name"], [("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"), ("e", "r")])
WORDS = {"words": [" the", " is", "name"], "merges": [["t", "h"], ["th", "e"], ["i", "n"], ["a", "n"], ["e", "r"]]}


def config(**changes: Any) -> dict[str, Any]:
    return models.config(**{"vocab_size": TOKENIZER.vocab_size, **changes})


def write(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A model folder: config.json, model.safetensors, tokenizer.json."""
    sizes = config(**changes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(sizes))
    (folder / "tokenizer.json").write_text(json.dumps(WORDS))
    save_file(dict(weights(sizes, seed)), folder / "model.safetensors")
    return folder


def decoder(*, is_padded: bool = True, seed: int = 0, compute: Compute = AS_EVER, **changes: Any) -> Decoder:
    sizes, backend = config(**changes), make_backend(compute)
    return Decoder(Shape.from_config(sizes), weights(sizes, seed), is_padded=is_padded, backend=backend)


def vocabulary() -> Vocabulary:
    special = TOKENIZER.special
    return Vocabulary(
        TOKENIZER.tokens,
        end=special["<|end|>"],
        call=special["<|call|>"],
        bos=special["<|bos|>"],
        special=frozenset(special.values()),
        encode=TOKENIZER.encode,
    )


def without_specials() -> Vocabulary:
    """All tokens are text, so that any may be said."""
    return Vocabulary(TOKENIZER.tokens, end=-1, call=-1, bos=-1, special=frozenset(), encode=TOKENIZER.encode)


def engine(
    *,
    is_padded: bool = True,
    kv_bytes: int = 1 << 28,
    prefix_bytes: int = 0,
    words: Vocabulary | None = None,
    compute: Compute = AS_EVER,
    **changes: Any,
) -> Engine:
    made = decoder(is_padded=is_padded, compute=compute, **changes)
    return Engine(made, words or vocabulary(), kv_bytes=kv_bytes, prefix_bytes=prefix_bytes)
