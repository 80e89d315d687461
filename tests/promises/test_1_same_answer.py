"""Promise 1, same answer: whatever else runs, however often a generation is interrupted, its bytes do not change."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.gateway.served import Served, served

from aios.eval.exact import prove
from aios.eval.exact.draw import FATES, MODELS, WAYS
from aios.kernel.llm import folder, nano
from aios.kernel.llm.local.load import load
from aios.kernel.llm.nano import NanoCore

pytestmark = pytest.mark.anyio

NUM_AGENTS = 16


def body(n: int) -> dict[str, Any]:
    """A seeded, sampled generation of at least 64 tokens; each agent asks something else."""
    return {
        "model": "nano",
        "messages": [{"role": "user", "content": f"Agent {n} asks: what is {n * 37 + 12} times {n + 3}?" + " Hm." * n}],
        "temperature": 0.8,
        "seed": 1000 + n,
        "min_tokens": 64,
        "max_tokens": 72 + n,
        "logprobs": n % 2 == 0,
    }


async def chat(world: Served, n: int) -> bytes:
    """What agent n is answered, but for the answer's id and time."""
    headers = {"authorization": f"Bearer {world.key_of(f'agent{n}')}"}
    async with world.session.post(f"{world.url}/v1/chat/completions", json=body(n), headers=headers) as response:
        answer = await response.json()
        assert response.status == 200, answer
    assert answer["usage"]["completion_tokens"] >= 64
    # How much of the prompt was computed for an earlier one is a fact about the run, not part of the answer.
    del answer["usage"]["prompt_tokens_details"]
    return msgspec.json.encode([answer["choices"], answer["usage"]])


async def test_interrupted_generations_give_the_bytes_they_give_alone() -> None:
    async with served(NanoCore("nano", slots=1), policy="fifo") as world:
        alone = [await chat(world, n) for n in range(NUM_AGENTS)]
    async with served(NanoCore("nano", slots=2), policy="rr", quantum=4) as world:
        together = await asyncio.gather(*(chat(world, n) for n in range(NUM_AGENTS)))
        switches = world.kernel.trace.totals["llm_generate", "suspended"]
    assert switches >= 100
    assert [n for n in range(NUM_AGENTS) if together[n] != alone[n]] == []


async def test_the_seed_matters_and_the_kernels_own_differ() -> None:
    async with served(NanoCore("nano", slots=2)) as world:
        texts = set()
        for seed in (1, 2, None):
            _, answer, _ = await world.post(
                "/v1/chat/completions",
                {
                    "messages": [{"role": "user", "content": "Hello"}],
                    "temperature": 1.5,
                    "seed": seed,
                    "min_tokens": 24,
                },
                authorization=f"Bearer {world.key}",
            )
            texts.add(answer["choices"][0]["message"]["content"])
        assert len(texts) == 3


# ── the proof, small ('aios eval exact' makes it as large as wanted) ──


async def test_generations_of_every_kind_say_what_they_say_alone_whatever_becomes_of_their_kernel(
    tmp_path: Path,
) -> None:
    found = await prove(100, tmp_path, seed=7, size=10)
    assert found.different == []
    assert (found.count, found.equal) == (100, 100)
    assert (set(found.by_way), set(found.by_fate), set(found.by_model)) == (set(WAYS), set(FATES), set(MODELS))
    assert found.covered["switches"] > 100
    assert found.covered["prefix tokens reused"] > 0
    assert (found.covered["kills"], found.covered["stops"]) == (2, 5)
    assert found.covered["from host memory"] + found.covered["from disk"] + found.covered["from text"] > 10
    assert found.covered["resumed after a restart"] > 0


async def test_without_constant_row_counts_the_proof_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (folder, nano):
        monkeypatch.setattr(room, "load", functools.partial(load, is_padded=False))
    found = await prove(30, tmp_path, seed=5, size=10)  # none of these rounds is in another process
    assert found.equal < found.count
    for each in found.different:
        alone, amid = msgspec.json.decode(each.alone), msgspec.json.decode(each.amid)
        assert alone.pop("fingerprint") == amid.pop("fingerprint")  # the same model, computed alike
        assert alone != amid
