"""A random Llama-shaped model of a few kilobytes: it says nothing, but says it the same every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from aios.kernel.llm.local.decoder import Decoder
from aios.kernel.llm.local.engine import Engine
from aios.kernel.llm.local.grammar import Vocabulary
from aios.kernel.llm.local.shape import Shape
from aios.kernel.llm.local.tokenizer import Tokenizer

TOKENIZER = Tokenizer([" the", " is", "name"], [("t", "h"), ("th", "e"), ("i", "n"), ("a", "n"), ("e", "r")])
WORDS = {"words": [" the", " is", "name"], "merges": [["t", "h"], ["th", "e"], ["i", "n"], ["a", "n"], ["e", "r"]]}


def config(**changes: Any) -> dict[str, Any]:
    sizes: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
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


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama 3": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "llama with biases": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": 40, "num_key_value_heads": 1},
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False, "sliding_window": 40},
    "qwen2 with windows": {
        "architectures": ["Qwen2ForCausalLM"],
        "use_sliding_window": True,
        "sliding_window": 40,
        "max_window_layers": 1,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    },
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 32, "tie_word_embeddings": False},
}
"""What each architecture's config says beyond the plainest one."""


def weights(sizes: dict[str, Any], seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    found = Weights()
    for name, shape in Shape.from_config(sizes).tensors().items():
        values = rng.standard_normal(shape)
        if "norm" in name:
            values = 1 + values / 5
        elif name.endswith("bias"):
            values = values / 2
        elif name == "model.embed_tokens.weight":
            values = values * 3 / np.sqrt(shape[1])
        else:
            values = values / np.sqrt(shape[1])
        found[name] = values.astype(np.float16)
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


def without_specials() -> Vocabulary:
    """All tokens are text, so that any may be said."""
    return Vocabulary(TOKENIZER.tokens, end=-1, call=-1, bos=-1, special=frozenset(), encode=TOKENIZER.encode)


def engine(
    *,
    is_padded: bool = True,
    kv_bytes: int = 1 << 28,
    prefix_bytes: int = 0,
    words: Vocabulary | None = None,
    **changes: Any,
) -> Engine:
    made = decoder(is_padded=is_padded, **changes)
    return Engine(made, words or vocabulary(), kv_bytes=kv_bytes, prefix_bytes=prefix_bytes)
