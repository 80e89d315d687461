"""A random Llama-shaped model of a few kilobytes: it says nothing, but says it the same every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from aios.kernel.llm.local.decoder import Decoder, Shape
from aios.kernel.llm.local.engine import Engine
from aios.kernel.llm.local.grammar import Vocabulary
from aios.kernel.llm.local.tokenizer import Tokenizer

TOKENIZER = Tokenizer([" the", " is", "name"], [("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"), ("e", "r")])
WORDS = {"words": [" the", " is", "name"], "merges": [["t", "h"], ["th", "e"], ["i", "n"], ["a", "n"], ["e", "r"]]}


def config(**changes: Any) -> dict[str, Any]:
    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 176,
        "vocab_size": TOKENIZER.vocab_size,
        "max_position_embeddings": 512,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    return sizes | changes


class Weights(dict[str, NDArray[np.float16]]):
    """Random tensors by their Hugging Face names."""

    def get_tensor(self, name: str) -> NDArray[np.float16]:
        return self[name]


def weights(sizes: dict[str, Any], seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    width, hidden = sizes["hidden_size"], sizes["intermediate_size"]
    query = sizes["num_attention_heads"] * sizes["head_dim"]
    key = sizes["num_key_value_heads"] * sizes["head_dim"]

    def matrix(rows: int, columns: int) -> NDArray[np.float16]:
        return (rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float16)

    def norm() -> NDArray[np.float16]:
        return (1 + rng.standard_normal(width) / 5).astype(np.float16)

    found = Weights({"model.embed_tokens.weight": matrix(sizes["vocab_size"], width) * 3, "model.norm.weight": norm()})
    for index in range(sizes["num_hidden_layers"]):
        shapes = {
            "self_attn.q_proj": (query, width),
            "self_attn.k_proj": (key, width),
            "self_attn.v_proj": (key, width),
            "self_attn.o_proj": (width, query),
            "mlp.gate_proj": (hidden, width),
            "mlp.up_proj": (hidden, width),
            "mlp.down_proj": (width, hidden),
        }
        for name, shape in shapes.items():
            found[f"model.layers.{index}.{name}.weight"] = matrix(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"model.layers.{index}.{name}.weight"] = norm()
    return found


def write(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A model folder: config.json, model.safetensors, tokenizer.json."""
    sizes = config(**changes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(sizes))
    (folder / "tokenizer.json").write_text(json.dumps(WORDS))
    save_file(dict(weights(sizes, seed)), folder / "model.safetensors")
    return folder


def decoder(*, is_padded: bool = True, seed: int = 0, **changes: Any) -> Decoder:
    sizes = config(**changes)
    return Decoder(Shape.from_config(sizes), weights(sizes, seed), is_padded=is_padded)


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


def engine(*, is_padded: bool = True, kv_bytes: int = 1 << 28, prefix_bytes: int = 0, **changes: Any) -> Engine:
    return Engine(decoder(is_padded=is_padded, **changes), vocabulary(), kv_bytes=kv_bytes, prefix_bytes=prefix_bytes)
