"""A BERT-shaped encoder on NumPy: tokens in, a state for each token out. Knows no file, tokenizer or pooling.

Each text is computed alone, so its states do not depend, bit for bit, on what is embedded beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .blas import use_one_thread
from .decoder import Tensors
from .linear import F32
from .shape import Fields, ModelError

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """The sizes of an encoder."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    hidden: int
    context: int
    kinds: int
    norm_eps: float
    activation: str

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> EncoderShape:
        """Of a Hugging Face `config.json`. Raises ModelError."""
        take = Fields(config)
        activation = config.get("hidden_act", "gelu")
        if activation not in ACTIVATIONS:
            raise ModelError(f"config.json: hidden_act is {activation!r:.60}; there are {', '.join(ACTIVATIONS)}")
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise ModelError("config.json: position_embedding_type is not 'absolute', and others are not supported")
        shape = cls(
            vocabulary=take.count("vocab_size"),
            width=take.count("hidden_size"),
            layers=take.count("num_hidden_layers", 1000),
            heads=take.count("num_attention_heads"),
            hidden=take.count("intermediate_size"),
            context=take.count("max_position_embeddings"),
            kinds=take.count("type_vocab_size", default=2),
            norm_eps=take.number("layer_norm_eps", 1e-12),
            activation=activation,
        )
        if shape.width % shape.heads:
            raise ModelError(f"config.json: hidden_size {shape.width} cannot be shared by {shape.heads} heads")
        return shape

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The name and shape of every tensor that such a model has, in a file of the encoder alone."""
        width, hidden = self.width, self.hidden
        found: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.vocabulary, width),
            "embeddings.position_embeddings.weight": (self.context, width),
            "embeddings.token_type_embeddings.weight": (self.kinds, width),
        }
        linear = {f"attention.self.{name}": (width, width) for name in ("query", "key", "value")}
        linear |= {
            "attention.output.dense": (width, width),
            "intermediate.dense": (hidden, width),
            "output.dense": (width, hidden),
        }
        norms = ["embeddings.LayerNorm"]
        for index in range(self.layers):
            at = f"encoder.layer.{index}."
            norms += [f"{at}attention.output.LayerNorm", f"{at}output.LayerNorm"]
            for name, (rows, columns) in linear.items():
                found[f"{at}{name}.weight"] = (rows, columns)
                found[f"{at}{name}.bias"] = (rows,)
        for name in norms:
            found[f"{name}.weight"] = found[f"{name}.bias"] = (width,)
        return found


class _Linear(NamedTuple):
    weight: F32
    bias: F32


class _Layer(NamedTuple):
    qkv: _Linear
    out: _Linear
    attention_norm: _Linear
    up: _Linear
    down: _Linear
    norm: _Linear


class Encoder:
    """Weights of a BERT model, all of them as f32. Any thread may ask."""

    def __init__(self, shape: EncoderShape, tensors: Tensors, prefix: str = "") -> None:
        use_one_thread()  # the number of threads changes bits
        self.shape = shape
        self._tensors, self._prefix = tensors, prefix
        self._words = self._get("embeddings.word_embeddings.weight")
        kind = self._get("embeddings.token_type_embeddings.weight")[0]
        self._places = self._get("embeddings.position_embeddings.weight") + kind  # all text is of the first kind
        self._norm = self._pair("embeddings.LayerNorm")
        self._layers = [self._layer(f"encoder.layer.{index}.") for index in range(shape.layers)]

    def states(self, tokens: Sequence[int]) -> F32:
        """The last layer's states (tokens, width) of one text of at most `shape.context` tokens."""
        embedded: F32 = self._words[np.asarray(tokens, np.intp)] + self._places[: len(tokens)]
        x = self._normalise(embedded, self._norm)
        for layer in self._layers:
            x = self._normalise(x + _times(self._attend(_times(x, layer.qkv)), layer.out), layer.attention_norm)
            raised = _activated(_times(x, layer.up), self.shape.activation)
            x = self._normalise(x + _times(raised, layer.down), layer.norm)
        return x

    def _attend(self, qkv: F32) -> F32:
        count, heads = len(qkv), self.shape.heads
        query, key, value = qkv.reshape(count, 3, heads, -1).transpose(1, 2, 0, 3)
        scores = query @ key.transpose(0, 2, 1)
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        return np.asarray((scores @ value).transpose(1, 0, 2).reshape(count, -1), np.float32)

    def _normalise(self, x: F32, norm: _Linear) -> F32:
        even: F32 = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((even * even).mean(axis=-1, keepdims=True) + np.float32(self.shape.norm_eps))
        out: F32 = even / spread * norm.weight + norm.bias
        return out

    def _layer(self, at: str) -> _Layer:
        parts = [self._pair(f"{at}attention.self.{name}") for name in ("query", "key", "value")]
        scale = np.float32(math.sqrt(self.shape.width // self.shape.heads))  # of the scores, folded into the queries
        parts[0] = _Linear(parts[0].weight / scale, parts[0].bias / scale)
        qkv = _Linear(np.concatenate([p.weight for p in parts]), np.concatenate([p.bias for p in parts]))
        return _Layer(
            _turned(qkv),
            _turned(self._pair(f"{at}attention.output.dense")),
            self._pair(f"{at}attention.output.LayerNorm"),
            _turned(self._pair(f"{at}intermediate.dense")),
            _turned(self._pair(f"{at}output.dense")),
            self._pair(f"{at}output.LayerNorm"),
        )

    def _pair(self, name: str) -> _Linear:
        return _Linear(self._get(f"{name}.weight"), self._get(f"{name}.bias"))

    def _get(self, name: str) -> F32:
        return np.asarray(self._tensors.get_tensor(self._prefix + name), np.float32)


def _turned(linear: _Linear) -> _Linear:
    return _Linear(np.ascontiguousarray(linear.weight.T), linear.bias)


def _times(x: F32, linear: _Linear) -> F32:
    out: F32 = x @ linear.weight
    out += linear.bias
    return out


def _activated(x: F32, kind: str) -> F32:
    if kind == "relu":
        return np.maximum(x, np.float32(0))
    if kind == "gelu":
        inner = _erf(x * np.float32(math.sqrt(0.5)))
    else:
        inner = np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x))
    out: F32 = x * np.float32(0.5) * (np.float32(1) + inner)
    return out


def _erf(x: F32) -> F32:
    """Abramowitz and Stegun, 7.1.26: at most 1.5e-7 off, about what f32 can tell apart near 1."""
    t: F32 = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * np.abs(x))
    poly: F32 = np.full_like(x, 1.061405429)
    for factor in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        poly *= t
        poly += np.float32(factor)
    return np.asarray(np.copysign(1 - poly * t * np.exp(-x * x), x), np.float32)
