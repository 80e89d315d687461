"""The decoder computes what a Llama computes, and each row by itself, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tiny_model
from numpy.typing import NDArray

from aios.kernel.llm.local import linear
from aios.kernel.llm.local.decoder import CHUNK, Decoder
from aios.kernel.llm.local.kv import KV, KVPool, KVShape

SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "many heads": {"num_key_value_heads": 4},
    "one key head": {"num_key_value_heads": 1},
    "odd sizes": {"hidden_size": 72, "intermediate_size": 100, "num_attention_heads": 3, "num_key_value_heads": 3},
    "deep sums": {"hidden_size": 64, "intermediate_size": 704, "num_hidden_layers": 1},
    "sums in pieces": {"hidden_size": 64, "intermediate_size": 2048, "num_hidden_layers": 1},
}


def reference(sizes: dict[str, Any], weights: tiny_model.Weights, tokens: Sequence[int]) -> NDArray[np.float64]:
    """Logits of all positions, in float64, step by step as the architecture is defined."""

    def get(name: str) -> NDArray[np.float64]:
        return weights[f"{name}.weight"].astype(np.float64)

    def rms(x: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + sizes["rms_norm_eps"]) * weight

    dim, heads, groups = sizes["head_dim"], sizes["num_attention_heads"], sizes["num_key_value_heads"]
    count, half = len(tokens), dim // 2
    angle = np.arange(count)[:, None] / sizes["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    cos, sin = (np.concatenate([f(angle)] * 2, -1) for f in (np.cos, np.sin))

    def heads_of(x: NDArray[np.float64], number: int, *, is_turned: bool) -> NDArray[np.float64]:
        x = x.reshape(count, number, dim).transpose(1, 0, 2)
        turned = np.concatenate([-x[..., half:], x[..., :half]], -1)
        x = x * cos + turned * sin if is_turned else x
        return np.repeat(x, heads // number, axis=0)

    seen = (np.tri(count) - np.tri(count, k=-(sizes.get("sliding_window") or count))) > 0
    x = get("model.embed_tokens")[list(tokens)]
    for index in range(sizes["num_hidden_layers"]):
        layer = f"model.layers.{index}."
        h = rms(x, get(layer + "input_layernorm"))
        q = heads_of(h @ get(layer + "self_attn.q_proj").T, heads, is_turned=True)
        k = heads_of(h @ get(layer + "self_attn.k_proj").T, groups, is_turned=True)
        v = heads_of(h @ get(layer + "self_attn.v_proj").T, groups, is_turned=False)
        scores = np.where(seen, q @ k.transpose(0, 2, 1) / np.sqrt(dim), -np.inf)
        weight = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weight / weight.sum(-1, keepdims=True)) @ v
        x = x + mixed.transpose(1, 0, 2).reshape(count, -1) @ get(layer + "self_attn.o_proj").T
        h = rms(x, get(layer + "post_attention_layernorm"))
        gate = h @ get(layer + "mlp.gate_proj").T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ get(layer + "mlp.up_proj").T)) @ get(layer + "mlp.down_proj").T
    return rms(x, get("model.norm")) @ get("model.embed_tokens").T


def prefilled(decoder: Decoder, tokens: Sequence[int], room: int = 200) -> KV:
    kv = KVPool(decoder.shape.kv, 1 << 28).open(room)
    at = 0
    while at < len(tokens):
        at = decoder.prefill(kv, tokens, at)
    return kv


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_a_plain_float64_llama(name: str) -> None:
    sizes = tiny_model.config(**SHAPES[name])
    decoder = tiny_model.decoder(**SHAPES[name])
    tokens = np.random.default_rng(1).integers(0, sizes["vocab_size"], 150).tolist()
    expected = reference(sizes, tiny_model.weights(sizes), tokens)
    kv = prefilled(decoder, tokens[:140])
    assert np.abs(decoder.last_logits() - expected[139]).max() < 1e-4
    for position in range(140, 150):
        logits = decoder.decode([tokens[position]], [kv], [position])
        assert np.abs(logits[0] - expected[position]).max() < 1e-4


@pytest.mark.parametrize("window", [None, 500, 520])
def test_long_sequences_are_computed_as_short_ones_are(window: int | None) -> None:
    """Around 512 positions the products take another form; windows end there and before."""
    long: dict[str, Any] = {"max_position_embeddings": 1024, "num_hidden_layers": 1}
    if window is not None:
        long |= {"architectures": ["MistralForCausalLM"], "sliding_window": window}
    sizes, decoder = tiny_model.config(**long), tiny_model.decoder(**long)
    tokens = np.random.default_rng(1).integers(0, sizes["vocab_size"], 560).tolist()
    expected = reference(sizes, tiny_model.weights(sizes), tokens)
    kv = prefilled(decoder, tokens[:500], room=600)
    short = prefilled(decoder, tokens[:9])
    for position in range(500, 560):
        alone = decoder.decode([tokens[position]], [kv], [position])[0].copy()
        beside = decoder.decode([3, tokens[position]], [short, kv], [9, position])[1]
        assert np.abs(alone - expected[position]).max() < 1e-4
        assert beside.tobytes() == alone.tobytes()


@pytest.mark.parametrize("name", SHAPES)
def test_a_rows_logits_have_the_same_bits_in_any_company(name: str) -> None:
    decoder = tiny_model.decoder(**SHAPES[name])
    rng = np.random.default_rng(2)
    prompts = [rng.integers(0, 256, n).tolist() for n in rng.integers(1, 150, 40)]
    kvs = [prefilled(decoder, prompt) for prompt in prompts]
    alone = [decoder.decode([7], [kv], [len(p)])[0].tobytes() for kv, p in zip(kvs, prompts, strict=True)]
    for size in (2, 3, 5, 9, 31, 32, 33, 40):
        chosen = rng.permutation(40)[:size]
        logits = decoder.decode([7] * size, [kvs[i] for i in chosen], [len(prompts[i]) for i in chosen])
        assert [row.tobytes() for row in logits] == [alone[i] for i in chosen]


def test_without_constant_rows_company_changes_bits() -> None:
    """The proof that the test above can fail."""
    decoder = tiny_model.decoder(is_padded=False)
    kvs = [prefilled(decoder, [i, 2, 3]) for i in range(8)]
    alone = [decoder.decode([7], [kv], [3])[0].tobytes() for kv in kvs]
    assert [row.tobytes() for row in decoder.decode([7] * 8, kvs, [3] * 8)] != alone


def test_prefill_stops_at_chunk_borders_whatever_the_length() -> None:
    decoder = tiny_model.decoder()
    kv = KVPool(decoder.shape.kv, 1 << 28).open(300)
    tokens = list(range(CHUNK * 2 + 5))
    assert decoder.prefill(kv, tokens, 0) == CHUNK
    assert decoder.prefill(kv, tokens, CHUNK) == 2 * CHUNK
    assert decoder.prefill(kv, tokens, 2 * CHUNK) == len(tokens)


# ── rows of products ──


def test_row_counts_that_change_bits_are_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    real = linear.multiply

    def multiply(x: linear.F32, tiles: linear.F32, rows: int) -> linear.F32:
        out = real(x, tiles, rows)
        return out + np.float32(1e-3) if rows == 4 else out

    monkeypatch.setattr(linear, "multiply", multiply)
    weight = linear.tiled(np.ones((64, 32), np.float32))
    assert 4 not in linear.proven_rows([weight], (2, 4, 8))


def test_where_a_rows_place_changes_its_bits_single_rows_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    real = linear.multiply

    def multiply(x: linear.F32, tiles: linear.F32, rows: int) -> linear.F32:
        return real(x, tiles, rows) + np.arange(len(x), dtype=np.float32)[:, None] % rows

    monkeypatch.setattr(linear, "multiply", multiply)
    assert linear.proven_rows([linear.tiled(np.ones((64, 32), np.float32))], (2, 8)) == (1,)


def test_the_decoder_is_exact_on_single_rows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aios.kernel.llm.local.numpy_backend.proven_rows", lambda weights: (1,))
    decoder = tiny_model.decoder()
    kvs = [prefilled(decoder, [i] * (i + 1)) for i in range(5)]
    alone = [decoder.decode([7], [kv], [i + 1])[0].tobytes() for i, kv in enumerate(kvs)]
    assert [row.tobytes() for row in decoder.decode([7] * 5, kvs, [1, 2, 3, 4, 5])] == alone


def test_a_tiled_product_is_the_product() -> None:
    rng = np.random.default_rng(0)
    for depth, columns in ((64, 48), (704, 256), (100, 7), (3000, 64), (4864, 96)):
        x, weight = rng.standard_normal((8, depth)), rng.standard_normal((depth, columns))
        got = linear.multiply(x.astype(np.float32), linear.tiled(weight.astype(np.float32)), 4)
        np.testing.assert_allclose(got, x @ weight, rtol=1e-3, atol=1e-3)


# ── memory ──

SMALL = KVShape(layers=1, kv_heads=1, head_dim=8, context=500)


def test_memory_grows_with_the_sequence_and_keeps_what_it_holds() -> None:
    pool = KVPool(SMALL, 1 << 20)
    kv = pool.open(400)
    assert kv.capacity == 128
    kv.views(1)[0].both[:, :100] = 3
    kv.room_for(130, 100)
    assert kv.capacity == 192
    assert (kv.export(100) == 3).all()
    kv.room_for(400, 100)
    assert kv.capacity == 512
    assert pool.statistics()["held_bytes"] == SMALL.bytes(400)


def test_what_was_exported_stays_when_the_memory_is_used_again() -> None:
    pool = KVPool(SMALL, 1 << 20)
    kv = pool.open(128)
    kv.views(1)[0].both[:] = 3
    saved = kv.export(128)
    kv.free()
    pool.open(128).views(1)[0].both[:] = 4
    assert (saved == 3).all()


def test_memory_given_back_is_used_again() -> None:
    pool = KVPool(SMALL, 1 << 20)
    first = pool.open(100)
    first.free()
    assert pool.statistics() == {
        "budget_bytes": 1 << 20,
        "reserved_bytes": 0,
        "held_bytes": 0,
        "idle_bytes": SMALL.bytes(100),
        "sequences": 0,
    }
    pool.open(100)
    assert pool.statistics()["idle_bytes"] == 0


def test_freeing_twice_is_harmless() -> None:
    pool = KVPool(SMALL, 1 << 20)
    kv = pool.open(100)
    kv.free()
    kv.free()
    assert pool.room == pool.budget


def test_what_does_not_fit_the_budget_is_refused_and_takes_nothing() -> None:
    pool = KVPool(SMALL, SMALL.bytes(500) + SMALL.bytes(100))
    pool.open(500)
    with pytest.raises(MemoryError, match="left"):
        pool.open(500)
    pool.open(100)
    assert pool.room == 0


def test_a_sequence_may_not_outgrow_its_reservation() -> None:
    kv = KVPool(SMALL, 1 << 20).open(100)
    with pytest.raises(MemoryError, match="outgrew"):
        kv.room_for(300, 0)
