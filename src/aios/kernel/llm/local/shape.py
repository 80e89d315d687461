"""A model's `config.json`, read strictly, as the sizes and switches of the one decoder. Knows no weights and no files.

The architectures differ in little, and `FAMILIES` is all of it: where a bias is added, whether queries and keys are
normalised head by head, and how far back a layer looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aios.abi.calls import nearest

from .kv import KVShape
from .rope import Rope


class ModelError(ValueError):
    """A folder that holds no model we can run: which file, what in it, and what would do."""


@dataclass(frozen=True, slots=True)
class Family:
    """What one architecture does in its own way. None: as its config says (`attention_bias`, `mlp_bias`).

    `window`: layers look back on all positions, on as many as `sliding_window` says if it is set, or that only if
    `use_sliding_window` is true as well.
    """

    qkv_bias: bool | None = False
    out_bias: bool | None = False
    mlp_bias: bool | None = False
    has_qk_norm: bool = False
    window: Literal["never", "set", "used"] = "never"
    window_default: int | None = None
    head_dim_default: int | None = None


FAMILIES = {
    "LlamaForCausalLM": Family(qkv_bias=None, out_bias=None, mlp_bias=None),
    "MistralForCausalLM": Family(window="set", window_default=4096),
    "Qwen2ForCausalLM": Family(qkv_bias=True, window="used", window_default=4096),
    "Qwen3ForCausalLM": Family(
        qkv_bias=None, out_bias=None, has_qk_norm=True, window="used", window_default=4096, head_dim_default=128
    ),
}

ROPE_KINDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "attention_factor"),
}
"""The keys that each kind of rope takes."""

FOREIGN = (
    "quantization_config", "num_local_experts", "num_experts", "attn_logit_softcapping", "final_logit_softcapping",
    "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling", "clip_qkv",
    "partial_rotary_factor", "no_rope_layers", "rope_local_base_freq", "query_pre_attn_scalar",
)  # fmt: skip
"""Keys that change what is computed, and that we do not have: refused unless they are off."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model, and what it does beyond the plainest Llama."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    context: int
    norm_eps: float
    is_tied: bool
    """The output matrix is the embedding."""
    rope: Rope
    has_qkv_bias: bool = False
    has_out_bias: bool = False
    has_mlp_bias: bool = False
    has_qk_norm: bool = False
    windows: tuple[int, ...] = ()
    """For each layer how many positions it looks back on, its own among them; 0: on all."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, context: int | None = None) -> Shape:
        """Of a Hugging Face `config.json`; `context` makes the window smaller. Raises ModelError."""
        take = Fields(config)
        family = _family(config)
        for key in FOREIGN:
            if config.get(key) and config[key] != 1:
                raise ModelError(f"config.json sets {key}, which changes what is computed and is not supported here")
        if config.get("hidden_act", "silu") not in ("silu", "swish"):
            raise ModelError(f"config.json: hidden_act is {config['hidden_act']!r:.60}; only 'silu' is supported")
        layers, width = take.count("num_hidden_layers", 1000), take.count("hidden_size")
        heads = take.count("num_attention_heads")
        attention, mlp = take.flag("attention_bias"), take.flag("mlp_bias")
        most = take.count("max_position_embeddings")
        if context is not None and context > most:
            raise ModelError(f"context_length is {context}, and config.json says max_position_embeddings {most}")
        shape = cls(
            vocabulary=take.count("vocab_size"),
            width=width,
            layers=layers,
            heads=heads,
            kv_heads=take.count("num_key_value_heads", default=heads),
            head_dim=take.count("head_dim", default=family.head_dim_default or width // heads),
            hidden=take.count("intermediate_size"),
            context=context or most,
            norm_eps=take.number("rms_norm_eps", 1e-6),
            is_tied=take.flag("tie_word_embeddings"),
            rope=_rope(take, most),
            has_qkv_bias=attention if family.qkv_bias is None else family.qkv_bias,
            has_out_bias=attention if family.out_bias is None else family.out_bias,
            has_mlp_bias=mlp if family.mlp_bias is None else family.mlp_bias,
            has_qk_norm=family.has_qk_norm,
            windows=_windows(take, family, layers),
        )
        if shape.heads % shape.kv_heads:
            raise ModelError(f"config.json: {heads} attention heads cannot share {shape.kv_heads} key-value heads")
        if shape.head_dim % 2:
            raise ModelError(f"config.json: head_dim is {shape.head_dim}, and must be even")
        return shape

    @property
    def kv(self) -> KVShape:
        return KVShape(self.layers, self.kv_heads, self.head_dim, self.context)

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The name and shape of every tensor that such a model has."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.width)}
        for index in range(self.layers):
            at = f"model.layers.{index}."
            linear = {
                "self_attn.q_proj": (query, self.width, self.has_qkv_bias),
                "self_attn.k_proj": (key, self.width, self.has_qkv_bias),
                "self_attn.v_proj": (key, self.width, self.has_qkv_bias),
                "self_attn.o_proj": (self.width, query, self.has_out_bias),
                "mlp.gate_proj": (self.hidden, self.width, self.has_mlp_bias),
                "mlp.up_proj": (self.hidden, self.width, self.has_mlp_bias),
                "mlp.down_proj": (self.width, self.hidden, self.has_mlp_bias),
            }
            for name, (rows, columns, has_bias) in linear.items():
                found[f"{at}{name}.weight"] = (rows, columns)
                if has_bias:
                    found[f"{at}{name}.bias"] = (rows,)
            for name in ("input_layernorm", "post_attention_layernorm"):
                found[f"{at}{name}.weight"] = (self.width,)
            for name in ("q_norm", "k_norm") if self.has_qk_norm else ():
                found[f"{at}self_attn.{name}.weight"] = (self.head_dim,)
        found["model.norm.weight"] = (self.width,)
        if not self.is_tied:
            found["lm_head.weight"] = (self.vocabulary, self.width)
        return found


class Fields:
    """Takes values out of a config by their kind. Raises ModelError that names the key."""

    def __init__(self, config: Mapping[str, Any], where: str = "config.json") -> None:
        self.config = config
        self.where = where

    def count(self, key: str, most: int = 100_000_000, *, default: int | None = None) -> int:
        value = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
            raise self._wrong(key, f"a whole number from 1 to {most}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.config.get(key)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e12:
            raise self._wrong(key, "a number above 0")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.config.get(key)
        if value not in (None, True, False):
            raise self._wrong(key, "true or false")
        return bool(value)

    def section(self, key: str) -> Mapping[str, Any]:
        value = self.config.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise self._wrong(key, "an object")
        return value or {}

    def _wrong(self, key: str, wanted: str) -> ModelError:
        said = "is missing" if key not in self.config else f"is {self.config[key]!r:.60}"
        return ModelError(f"{self.where}: {key} {said}, and must be {wanted}")


def _family(config: Mapping[str, Any]) -> Family:
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        known = ", ".join(FAMILIES)
        raise ModelError(f"config.json: architectures is {names!r:.80}, and must name one; there are {known}")
    if (family := FAMILIES.get(names[0])) is None:
        hint = nearest(names[0][:80], FAMILIES)
        known = ", ".join(FAMILIES)
        raise ModelError(f"config.json: architecture {names[0]!r:.80} is not among {known}{hint}")
    return family


def _rope(take: Fields, context: int) -> Rope:
    """Older files say `rope_theta` and `rope_scaling`, newer ones `rope_parameters`."""
    key = "rope_parameters" if take.config.get("rope_parameters") else "rope_scaling"
    said = dict(take.section(key))
    theta = Fields({"rope_theta": said.pop("rope_theta", None) or take.config.get("rope_theta")}).number(
        "rope_theta", 10_000.0
    )
    old = said.pop("type", "default")
    kind = said.pop("rope_type", old)
    if kind not in ROPE_KINDS:
        hint = nearest(str(kind)[:40], ROPE_KINDS) or f"; there are {', '.join(ROPE_KINDS)}"
        raise ModelError(f"config.json: {key} is of type {kind!r:.40}, which is not supported{hint}")
    said = {name: value for name, value in said.items() if value is not None}
    for name in said if kind != "default" else ():
        if name not in ROPE_KINDS[kind]:
            hint = nearest(str(name)[:40], ROPE_KINDS[kind])
            raise ModelError(f"config.json: {key} of type {kind} takes no {name!r:.40}{hint}")
    if kind == "default":
        return Rope(theta)
    own = Fields(said, f"config.json, {key}")
    factor = own.number("factor", 0.0)
    trained = own.count("original_max_position_embeddings", default=None if kind == "llama3" else context)
    numbers = {
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "attention_factor": yarn_attention(factor) if kind == "yarn" else 1.0,
    }  # fmt: skip
    return Rope(theta, kind, factor, trained, **{name: own.number(name, value) for name, value in numbers.items()})


def yarn_attention(factor: float) -> float:
    """By how much YaRN sharpens attention when nothing else is said."""
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def _windows(take: Fields, family: Family, layers: int) -> tuple[int, ...]:
    if family.window == "never" or (family.window == "used" and not take.flag("use_sliding_window")):
        return (0,) * layers
    if "sliding_window" in take.config and take.config["sliding_window"] is None:
        return (0,) * layers
    window = take.count("sliding_window", default=family.window_default)
    kinds = take.config.get("layer_types")
    if kinds is None:
        first = take.count("max_window_layers", default=28) if family.window == "used" else 0
        return tuple(window if index >= first else 0 for index in range(layers))
    if not isinstance(kinds, list) or len(kinds) != layers or set(kinds) - {"full_attention", "sliding_attention"}:
        raise ModelError(
            f"config.json: layer_types must say 'full_attention' or 'sliding_attention' for each of {layers} layers"
        )
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)
