"""Through every tier, in either form: what is said is what is said alone, by the kernel's own scheduler."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.llm import tiny_model

from aios.abi.calls import LLMGenerate
from aios.abi.messages import FunctionSpec, Generation, Message, ToolSpec
from aios.kernel import Kernel
from aios.kernel.config import Config, ContextSection
from aios.kernel.llm.nano import NanoCore
from aios.testing import booted, principal

pytestmark = pytest.mark.anyio

WINDOW = 262_144


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("model"))


ITEMS = {"type": "object", "properties": {"items": {"type": "array", "items": {"type": "integer"}, "minItems": 12}},
         "required": ["items"]}  # fmt: skip
ADD = ToolSpec(function=FunctionSpec(name="add", parameters=ITEMS))
KINDS: list[dict[str, Any]] = [
    {"temperature": 1.0, "logprobs": True, "top_logprobs": 2},
    {"temperature": 0.0, "frequency_penalty": 0.5},
    {"beam_width": 3, "max_tokens": 60, "min_tokens": 60},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": ITEMS}}, "min_tokens": 0, "temperature": 0.7},
    {"tools": [ADD], "tool_choice": "required", "min_tokens": 0, "temperature": 0.9},
]


def ask(n: int) -> LLMGenerate:
    usual: dict[str, Any] = {"seed": n, "max_tokens": 90, "min_tokens": 90}
    return LLMGenerate(messages=[Message("user", "b" * 25 * (1 + n % 7))], **(usual | KINDS[n % len(KINDS)]))


ASKED = [ask(n) for n in range(15)]


async def said(kernel: Kernel, *, together: bool) -> list[tuple[Any, ...]]:
    calls = [kernel.call(principal(kernel, f"agent{n}"), "llm_generate", args) for n, args in enumerate(ASKED)]
    answers: list[Generation] = list(await asyncio.gather(*calls)) if together else [await call for call in calls]
    return [(a.message, a.logprobs, a.finish_reason, a.usage.completion_tokens) for a in answers]


PLACES: dict[str, dict[str, Any]] = {
    "ram": {"ram_bytes": 1 << 26, "disk_bytes": 0},
    "disk": {"ram_bytes": 0, "disk_bytes": 1 << 26},
    "text": {"ram_bytes": 0, "disk_bytes": 0},
    "mixed": {"ram_bytes": 120_000, "disk_bytes": 200_000},
}


@pytest.mark.parametrize(
    ("place", "large"), [*((place, 1 << 24) for place in PLACES), ("mixed", 0)], ids=[*PLACES, "copied by threads"]
)
async def test_what_is_moved_out_of_the_pool_says_what_it_says_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, large: int
) -> None:
    monkeypatch.setattr("aios.kernel.context.moves.LARGE", large)
    async with booted(cores=[NanoCore(folder=folder)], policy="fifo") as kernel:
        alone = await said(kernel, together=False)
    core = NanoCore(folder=folder, slots=2, kv_bytes=2 * WINDOW, snapshot="text" if place == "text" else "logits")
    config = Config(context=ContextSection(**PLACES[place]))
    async with booted(cores=[core], home=tmp_path, config=config, policy="rr", quantum=30) as kernel:
        together = await said(kernel, together=True)
        found = kernel.contexts.statistics()
    assert [n for n in range(len(ASKED)) if together[n] != alone[n]] == []
    for tier in ("ram", "disk", "text") if place == "mixed" else (place,):
        assert found[f"restores_{tier}"] > 0
    assert found["switches"] >= found["restores_ram"] + found["restores_disk"] + found["restores_text"]
    assert found["suspended_pool_bytes"] == found["suspended_ram_bytes"] == found["suspended_disk_bytes"] == 0
