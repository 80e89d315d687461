"""The decoder on torch: promise 1 holds as it does on NumPy, in each type of numbers. Needs torch; skipped without."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import foreign_model
import numpy as np
import pytest
import tiny_model
from test_decoder import SHAPES, prefilled
from test_engine import alone, interleaved, specs
from test_folder_core import ask, finish
from test_prefix import alike
from tiny_model import FAMILIES

from aios.kernel.config import CoreSection
from aios.kernel.llm.base import NotBegun
from aios.kernel.llm.cores import make_core
from aios.kernel.llm.folder import FolderCore
from aios.kernel.llm.local import load as loading
from aios.kernel.llm.local.backend import Compute
from aios.kernel.llm.local.decoder import CHUNK, Decoder
from aios.kernel.llm.local.kv import KV
from aios.kernel.llm.local.load import needed_bytes
from aios.kernel.llm.local.shape import ModelError, Shape

torch = pytest.importorskip("torch")
torch_backend = pytest.importorskip("aios.kernel.llm.local.torch_backend")
TorchBackend = torch_backend.TorchBackend

F32, BF16, F16 = Compute("torch"), Compute("torch", "bf16"), Compute("torch", "f16")
OFF = {F32: 1e-4, BF16: 0.3, F16: 0.03}
"""How far logits, of which the largest are about 15, may be from NumPy's."""
TYPES = pytest.mark.parametrize("compute", OFF, ids=lambda each: each.dtype)


def opened(decoder: Decoder, tokens: list[int], room: int = 0) -> KV:
    kv = decoder.pool(1 << 28).open(max(room, len(tokens) + 20))
    at = 0
    while at < len(tokens):
        at = decoder.prefill(kv, tokens, at)
    return kv


@TYPES
@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_are_numpys_as_nearly_as_the_type_allows(family: str, compute: Compute) -> None:
    plain, ours = tiny_model.decoder(**FAMILIES[family]), tiny_model.decoder(compute=compute, **FAMILIES[family])
    tokens = np.random.default_rng(5).integers(0, 250, 100).tolist()
    kvs = [prefilled(plain, tokens), opened(ours, tokens)]
    assert np.abs(plain.last_logits() - ours.last_logits()).max() < OFF[compute]
    for position in range(100, 110):
        theirs = plain.decode([7], kvs[:1], [position])
        assert np.abs(theirs - ours.decode([7], kvs[1:], [position])).max() < OFF[compute]


@TYPES
@pytest.mark.parametrize("name", SHAPES)
def test_a_rows_logits_have_the_same_bits_in_any_company(name: str, compute: Compute) -> None:
    decoder = tiny_model.decoder(compute=compute, **SHAPES[name])
    rng = np.random.default_rng(2)
    prompts = [rng.integers(0, 256, n).tolist() for n in rng.integers(1, 150, 70)]
    kvs = [opened(decoder, prompt) for prompt in prompts]
    lone = [decoder.decode([7], [kv], [len(p)])[0].tobytes() for kv, p in zip(kvs, prompts, strict=True)]
    for size in (2, 3, 5, 9, 31, 33, 64, 65, 70):
        chosen = rng.permutation(70)[:size]
        logits = decoder.decode([7] * size, [kvs[i] for i in chosen], [len(prompts[i]) for i in chosen])
        assert [row.tobytes() for row in logits] == [lone[i] for i in chosen]


@pytest.mark.parametrize("compute", [F32, BF16], ids=lambda each: each.dtype)
@pytest.mark.parametrize("window", [None, 500, 520])
def test_long_sequences_have_the_same_bits_in_any_company_and_any_memory(window: int | None, compute: Compute) -> None:
    """Around 512 positions attention takes another form; memory that grew step by step lies otherwise."""
    long: dict[str, Any] = {"max_position_embeddings": 1024, "num_hidden_layers": 1}
    if window is not None:
        long |= {"architectures": ["MistralForCausalLM"], "sliding_window": window}
    plain, decoder = tiny_model.decoder(**long), tiny_model.decoder(compute=compute, **long)
    tokens = np.random.default_rng(1).integers(0, 256, 560).tolist()
    kv, short, theirs = (
        opened(decoder, tokens[:500], 600),
        opened(decoder, tokens[:9]),
        prefilled(plain, tokens[:500], 600),
    )
    for position in range(500, 560):
        lone = decoder.decode([tokens[position]], [kv], [position])[0].copy()
        moved = decoder.pool(1 << 28).open(1024, now=1024 if position % 2 else 1)
        moved.load(kv.export(position))
        beside = decoder.decode([3, tokens[position]], [short, moved], [9, position])[1]
        assert beside.tobytes() == lone.tobytes()
        expected = plain.decode([tokens[position]], [theirs], [position])[0]
        assert np.abs(lone - expected).max() < OFF[compute]


@pytest.mark.parametrize("compute", [F32, BF16], ids=lambda each: each.dtype)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_said_is_the_same_interrupted_restored_cached_and_in_company(family: str, compute: Compute) -> None:
    plain = tiny_model.engine(compute=compute, **FAMILIES[family])
    cached = tiny_model.engine(compute=compute, prefix_bytes=1 << 19, **FAMILIES[family])
    for seed in (1, 2):
        rng = random.Random(seed)
        wanted = specs(rng, 5) + alike(rng, 3)
        expected = {str(n): alone(plain, spec) for n, spec in enumerate(wanted)}
        assert interleaved(cached, wanted, rng, slots=4 * seed) == expected
    assert cached.pool.statistics()["reserved_bytes"] == 0


def test_without_constant_rows_company_changes_the_numbers() -> None:
    """The proof that the tests above can fail."""
    # Wide enough that one row is summed in another order than more of them are.
    wide = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
    }
    bare, rng = tiny_model.engine(compute=F32, is_padded=False, **wide), random.Random(7)
    wanted = [
        replace(spec, max_tokens=40, min_tokens=40, sampling=replace(spec.sampling, temperature=1.5, logprobs=2))
        for spec in specs(rng, 8)
    ]
    expected = {str(index): alone(bare, spec) for index, spec in enumerate(wanted)}
    assert interleaved(bare, wanted, rng, 8) != expected


@TYPES
def test_row_counts_that_change_bits_are_not_proven(monkeypatch: pytest.MonkeyPatch, compute: Compute) -> None:
    real = TorchBackend.product

    def product(self: Any, x: Any, matrix: Any, rows: int, out: Any) -> None:
        real(self, x, matrix, rows, out)
        if rows == 8:
            out += 1e-3

    monkeypatch.setattr(TorchBackend, "product", product)
    assert 8 not in tiny_model.decoder(compute=compute).row_counts


def test_without_packed_matrices_the_same_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_backend, "_can_pack", lambda: False)
    plain, rng = tiny_model.engine(compute=F32), random.Random(3)
    wanted = specs(rng, 4)
    expected = {str(n): alone(plain, spec) for n, spec in enumerate(wanted)}
    assert interleaved(plain, wanted, rng, slots=3) == expected


@TYPES
def test_memory_that_grew_while_it_was_computed_in_can_be_handed_on_and_restored(compute: Compute) -> None:
    decoder = tiny_model.decoder(compute=compute)
    kv = opened(decoder, list(range(120)), 300)
    for position in range(120, 140):
        decoder.decode([7], [kv], [position])
    other = decoder.pool(1 << 28).open(300)
    other.copy(kv, 140)
    kv.load(other.export(140))
    assert kv.export(140).tobytes() == other.export(140).tobytes()


@TYPES
def test_keys_and_values_leave_and_come_back_bit_by_bit(compute: Compute) -> None:
    decoder = tiny_model.decoder(compute=compute)
    pool, tokens = decoder.pool(1 << 20), list(range(CHUNK))
    kv = opened(decoder, tokens)
    saved, piece = kv.export(40), kv.piece(16, 32)
    assert saved.dtype == {"f32": np.float32, "bf16": np.uint16, "f16": np.float16}[compute.dtype]
    assert saved.nbytes == pool.shape.bytes(128) * 40 // 128
    other = pool.open(CHUNK)
    other.load(np.frombuffer(saved.tobytes(), saved.dtype).reshape(saved.shape))
    assert other.export(40).tobytes() == saved.tobytes()
    third = pool.open(CHUNK)
    third.copy(other, 16)
    third.load(piece, 16)
    assert third.export(32).tobytes() == kv.export(32).tobytes()


@pytest.mark.parametrize("compute", [F32, BF16], ids=lambda each: each.dtype)
def test_a_core_on_torch_is_interrupted_and_goes_on_with_the_same_bytes(compute: Compute, tmp_path: Path) -> None:
    folder = foreign_model.write(tmp_path, "qwen3", kind="BF16")
    section = CoreSection(name="m", kind="local", path=str(folder), backend="torch", dtype=compute.dtype)

    async def story(quantum: int | None) -> Any:
        core = make_core(section)
        assert isinstance(core, FolderCore)
        await core.open()
        try:
            return (await finish(core, ask(temperature=1.0, logprobs=True), quantum)).message
        finally:
            await core.close()

    assert asyncio.run(story(3)) == asyncio.run(story(None))


def test_the_fingerprint_names_type_threads_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    prints = {tiny_model.decoder(compute=each).fingerprint for each in (Compute(), F32, BF16, F16)}
    threads = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads + 1))
    try:
        prints.add(tiny_model.decoder(compute=F32).fingerprint)
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(torch, "__version__", "0.0")
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    prints.add(tiny_model.decoder(compute=F32).fingerprint)
    assert len(prints) == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(ModelError, match=r"device is 'cuda:1', and this torch \(.*\) sees no GPU here; take 'cpu'"):
        tiny_model.decoder(compute=Compute("torch", "bf16", "cuda:1"))


def test_half_as_wide_numbers_take_half_the_memory() -> None:
    sizes = tiny_model.config(hidden_size=512, intermediate_size=2048, num_hidden_layers=8)
    shape = Shape.from_config(sizes)
    assert needed_bytes(shape, BF16) < 0.65 * needed_bytes(shape, F32)
    assert loading.needed_bytes(shape) == needed_bytes(shape, F32)
    shape = tiny_model.decoder(compute=BF16)
    assert shape.pool(1 << 20).shape.bytes(10) * 2 == tiny_model.decoder().pool(1 << 20).shape.bytes(10)


# ── no memory ──


def test_what_torch_says_when_memory_is_used_up_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TorchBackend()
    with pytest.raises(MemoryError, match="can't allocate memory"), backend.scope():
        torch.empty(1 << 58, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="no such thing"), backend.scope():
        raise RuntimeError("no such thing")

    def lacking(*args: Any, **more: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(torch, "zeros", lacking)
    with pytest.raises(MemoryError, match=r"2\.00 GiB"):
        backend.memory.zeros((1,))


@pytest.mark.anyio
async def test_a_prompt_that_the_device_has_no_memory_for_may_go_elsewhere_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = CoreSection(
        name="m", kind="local", path=str(foreign_model.write(tmp_path, "qwen3")), kv_bytes=1 << 26, backend="torch"
    )
    core = make_core(section)
    assert isinstance(core, FolderCore)
    await core.open()
    solo = await finish(core, ask(), 3)
    zeros = torch.zeros

    def lacking(shape: Any, **more: Any) -> Any:
        if len(shape) == 4 and shape[2] > 300:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return zeros(shape, **more)

    monkeypatch.setattr(torch, "zeros", lacking)
    fates = await asyncio.gather(
        finish(core, ask(), 3, "a"), finish(core, ask("x" * 400), 3, "bad"), return_exceptions=True
    )
    assert isinstance(fates[1], NotBegun)
    assert fates[1].error.code == "no_memory"
    assert fates[0].message == solo.message  # type: ignore[union-attr]
    assert core.statistics()["kv_reserved_bytes"] == 0
    await core.close()
