"""Models of any size with random weights, made in memory: speed does not depend on what they say. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aios.kernel.llm.local.decoder import Decoder
from aios.kernel.llm.local.grammar import Vocabulary
from aios.kernel.llm.local.shape import Shape
from aios.kernel.llm.own import Model, OwnCore
from aios.testing.models import config

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32,
        "intermediate_size": 704, "vocab_size": 512,
    },
    "mid": {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
        "intermediate_size": 1536, "vocab_size": 49_152,
    },
    "100M": {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4,
        "head_dim": 64, "intermediate_size": 2048, "vocab_size": 32_768,
    },
    "8B": {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 14_336, "vocab_size": 128_256, "tie_word_embeddings": False,
    },
}  # fmt: skip
"""By the names of the notes: 3.1, 134.5 and 100.7 million parameters; and Llama 3.1 8B."""


class Random:
    """Tensors of plausible size, each drawn when it is asked for."""

    def __init__(self, shape: Shape) -> None:
        self._shapes = shape.tensors()
        self._dice = np.random.default_rng(0)

    def get_tensor(self, name: str) -> NDArray[Any]:
        size = self._shapes[name]
        values = self._dice.random(size, np.float32)
        if "norm" in name:
            return values + np.float32(0.5)
        return (values - np.float32(0.5)) * np.float32(4 / np.sqrt(size[-1]))


def shape_of(name: str, *, context: int = 4096) -> Shape:
    return Shape.from_config(config(**SHAPES[name], max_position_embeddings=context))


def decoder_of(name: str, *, context: int = 4096, is_padded: bool = True) -> Decoder:
    shape = shape_of(name, context=context)
    return Decoder(shape, Random(shape), is_padded=is_padded)


def vocabulary_of(size: int) -> Vocabulary:
    """Bytes, and numbers in brackets for the rest; the last two tokens are the special ones."""
    tokens = [bytes([n]) for n in range(256)] + [b"[%d]" % n for n in range(256, size)]
    end, bos = size - 1, size - 2
    return Vocabulary(tokens, end=end, call=None, bos=bos, special=frozenset((end, bos)), encode=_encode, dialect=None)


def _encode(text: str) -> list[int]:
    return list(text.encode())


class Plain:
    """A chat template that has nothing but the messages' text."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def render(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], *, variables: Mapping[str, Any]
    ) -> list[int]:
        return _encode("".join(str(message["content"]) for message in messages))


class ShapeCore(OwnCore):
    """An own core with a random model; `decoder` may be shared with who measures it bare, in turn."""

    kind = "random"

    def __init__(self, name: str, decoder: Decoder, *, slots: int, kv_bytes: int) -> None:
        words = vocabulary_of(decoder.shape.vocabulary)
        super().__init__(
            name,
            name,
            lambda: Model(decoder, words, Plain()),
            slots=slots,
            kv_bytes=kv_bytes,
            prefix_bytes=0,
            is_quick=True,
        )
