"""A folder whose model turns texts into vectors: an encoder, a decoder or a table, and how the states of a text become
one.

Reads what sentence-transformers writes beside a model (`modules.json`). Knows no core and no queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from .decoder import Decoder, Tensors
from .encoder import Encoder, EncoderShape
from .foreign_tokenizer import tokenizer_of
from .linear import F32
from .load import decoder_of
from .shape import FAMILIES, ModelError, Shape
from .static import CONTEXT, Words, read_table, static_folder
from .weights import Weights, read_json

Pooling = Literal["mean", "cls", "last"]
_POOLING: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
DECODER_CONTEXT = 8192
"""Tokens of a text that a decoder takes where neither folder nor configuration says: its KV has to fit the memory."""
_UNUSED = ("position_ids", "pooler.dense.weight", "pooler.dense.bias")
"""Endings of names that an encoder's file may hold, and that its states do not need."""


class States(Protocol):
    """Computes the last layer's states (tokens, width) of one text; where only the last is wanted, that one alone."""

    def states(self, tokens: list[int]) -> F32: ...


class Sentences:
    """Texts into vectors of `width` numbers. `least` to `context` tokens a text, specials among them."""

    def __init__(
        self,
        model: States,
        tokenizer: Any,
        *,
        width: int,
        context: int,
        vocabulary: int,
        recipe: Recipe,
        least: int = 1,
    ) -> None:
        self.least = least
        self.width = width
        self.context = context
        self.vocabulary = vocabulary
        self._model = model
        self._tokenizer = tokenizer
        self._recipe = recipe

    def tokens(self, text: str) -> list[int]:
        """Of a text, with the specials that the model wants around it."""
        ids: list[int] = self._tokenizer.encode(self._recipe.prompt + text).ids
        return ids

    def vector(self, tokens: list[int]) -> F32:
        pooled = _pooled(self._model.states(tokens), self._recipe.pooling)
        if self._recipe.is_normal:
            pooled = pooled / max(float(np.linalg.norm(pooled)), 1e-12)
        return pooled.astype(np.float32)


class Recipe:
    """How states become a vector, as the folder says. Raises ModelError for steps that we do not have."""

    def __init__(self, folder: Path, pooling: Pooling) -> None:
        self.pooling: Pooling = pooling
        self.is_normal = True
        self.prompt = ""
        self.context: int | None = None
        if (folder / "modules.json").exists():
            self._read_modules(folder)
        if (folder / "sentence_bert_config.json").exists():
            most = read_json(folder / "sentence_bert_config.json").get("max_seq_length")
            self.context = most if isinstance(most, int) and most > 0 else None
        if (folder / "config_sentence_transformers.json").exists():
            said = read_json(folder / "config_sentence_transformers.json")
            prompts, name = said.get("prompts"), said.get("default_prompt_name")
            if isinstance(prompts, Mapping) and isinstance(name, str) and isinstance(prompts.get(name), str):
                self.prompt = prompts[name]

    def _read_modules(self, folder: Path) -> None:
        self.is_normal = False
        for module in read_list(folder / "modules.json"):
            kind, path = str(module.get("type")).rpartition(".")[2], str(module.get("path", ""))
            if kind == "Pooling":
                if Path(path).name != path or path.startswith("."):
                    raise ModelError(f"modules.json names {path!r:.80}, which is no folder within this one")
                self.pooling = _pooling_of(read_json(folder / path / "config.json"), f"{path}/config.json")
            elif kind == "Normalize":
                self.is_normal = True
            elif kind not in ("Transformer", "StaticEmbedding"):
                known = "Transformer, StaticEmbedding, Pooling and Normalize"
                raise ModelError(f"modules.json has a step {kind!r:.60}; there are {known}")


def read_list(path: Path) -> list[dict[str, Any]]:
    """The list of objects in `path`. Raises ModelError that names it."""
    import msgspec

    try:
        return msgspec.json.decode(path.read_bytes(), type=list[dict[str, Any]])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelError(f"{path.name} must hold a list of objects: {str(error)[:200]}") from None


def _pooling_of(config: Mapping[str, Any], where: str) -> Pooling:
    asked = [name for name, value in config.items() if name.startswith("pooling_mode") and value is True]
    named = config.get("pooling_mode")
    if isinstance(named, str):
        asked = [named]
    known = _POOLING | {mode: mode for mode in _POOLING.values()} | {"lasttoken": "last"}
    if len(asked) != 1 or asked[0] not in known:
        raise ModelError(f"{where} asks for pooling {asked}; there is one of mean, cls and last token")
    return known[asked[0]]


def _pooled(states: F32, how: Pooling) -> F32:
    if how == "mean":
        pooled: F32 = states.mean(axis=0)
        return pooled
    vector: F32 = states[0 if how == "cls" else -1]
    return vector


def load_sentences(folder: Path, context: int | None = None) -> Sentences:
    """The model in `folder`; `context` bounds a text's tokens, instead of what the folder says. Raises ModelError."""
    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}")
    try:
        return _load(folder, context)
    except ModuleNotFoundError as error:
        raise ModelError(f"{error.name} is not installed; pip install 'aios-kernel[local]' brings it") from None
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from None


def _load(folder: Path, context: int | None) -> Sentences:
    if (place := static_folder(folder)) is not None:
        return _of_table(folder, place, context)
    config = read_json(folder / "config.json")
    names = config.get("architectures")
    if isinstance(names, list) and any(str(name) in FAMILIES for name in names):
        return _of_decoder(folder, config, context)
    if not isinstance(names, list) or not any(str(name).startswith("Bert") for name in names):
        known = ", ".join(("BertModel", "StaticModel", *FAMILIES))
        raise ModelError(f"config.json: architectures is {names!r:.80}; for embeddings there are {known}")
    return _of_encoder(folder, config, context)


def _of_table(folder: Path, place: Path, context: int | None) -> Sentences:
    table = read_table(place)
    recipe = Recipe(folder, "mean")
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    recipe.is_normal = bool(config.get("normalize", recipe.is_normal))
    tokenizer = Words(read_tokenizer(place, table.vocabulary))
    sizes = {"least": 0, "width": table.vectors.shape[1], "context": context or CONTEXT, "vocabulary": table.vocabulary}
    return Sentences(table, tokenizer, recipe=recipe, **sizes)


def _of_encoder(folder: Path, config: dict[str, Any], context: int | None) -> Sentences:
    shape = EncoderShape.from_config(config)
    recipe = Recipe(folder, "mean")
    most = context or min(recipe.context or shape.context, shape.context)
    if most > shape.context:
        raise ModelError(f"context_length is {context}, and config.json says max_position_embeddings {shape.context}")
    weights = Weights(folder)
    prefix = "bert." if "bert.embeddings.word_embeddings.weight" in weights else ""
    weights.check({prefix + name: size for name, size in shape.tensors().items()}, _UNUSED)
    model = Encoder(shape, weights, prefix)
    tokenizer = read_tokenizer(folder, shape.vocabulary)
    return Sentences(model, tokenizer, width=shape.width, context=most, vocabulary=shape.vocabulary, recipe=recipe)


def _of_decoder(folder: Path, config: dict[str, Any], context: int | None) -> Sentences:
    """A text's vector is the state of its last token, the only one that has seen all of it."""
    shape = replace(Shape.from_config(config), is_tied=True)  # nobody asks for logits
    recipe = Recipe(folder, "last")
    if recipe.pooling != "last":
        raise ModelError(f"its pooling is {recipe.pooling}, and a decoder's is that of the last token")
    most = context or min(recipe.context or DECODER_CONTEXT, shape.context)
    if most > shape.context:
        raise ModelError(f"context_length is {context}, and config.json says max_position_embeddings {shape.context}")
    weights = Weights(folder)
    tensors = weights if "model.norm.weight" in weights else _Bare(weights)
    prefix = "" if tensors is weights else "model."
    weights.check({name.removeprefix(prefix): size for name, size in shape.tensors().items()})
    kv_bytes = shape.kv.bytes(most)
    model = _LastState(decoder_of(shape, tensors, kv_bytes=kv_bytes), tensors, kv_bytes)
    tokenizer = read_tokenizer(folder, shape.vocabulary)
    return Sentences(model, tokenizer, width=shape.width, context=most, vocabulary=shape.vocabulary, recipe=recipe)


class _Bare:
    """Tensors of a file that holds a model without its head, whose names have no "model." before them."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def get_tensor(self, name: str) -> Any:
        return self._weights.get_tensor(name.removeprefix("model."))


class _LastState:
    """The last token's state, from a decoder. One thread at a time."""

    def __init__(self, decoder: Decoder, tensors: Tensors, kv_bytes: int) -> None:
        self._decoder = decoder
        self._norm = np.asarray(tensors.get_tensor("model.norm.weight"), np.float32)
        self._pool = decoder.pool(kv_bytes)

    def states(self, tokens: list[int]) -> F32:
        kv = self._pool.open(len(tokens))
        try:
            at = 0
            while at < len(tokens):
                at = self._decoder.prefill(kv, tokens, at)
        finally:
            kv.free()
        x = self._decoder.last_state()
        spread = np.sqrt((x * x).mean() + np.float32(self._decoder.shape.norm_eps))
        return np.asarray(x / spread * self._norm, np.float32)[None]


def read_tokenizer(folder: Path, vocabulary: int) -> Any:
    """The folder's tokenizer: it cuts nothing off, fills nothing up, and takes special tokens in a text for text."""
    read_json(folder / "tokenizer.json")
    tokenizer = tokenizer_of(folder)
    tokenizer.encode_special_tokens = True
    if tokenizer.get_vocab_size() > vocabulary:
        raise ModelError(f"tokenizer.json has more tokens than config.json says, vocab_size {vocabulary}")
    return tokenizer
