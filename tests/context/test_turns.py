"""Where stopped generations are kept as text only, each turn brings them on, and what is computed again is bounded."""

from __future__ import annotations

import asyncio
import errno
import math
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.llm import tiny_model

from aios.abi.calls import LLMGenerate
from aios.abi.messages import Message
from aios.kernel.config import Config, ContextSection
from aios.kernel.llm.base import Request
from aios.kernel.llm.nano import NanoCore
from aios.kernel.syscall import Suspended
from aios.testing import booted, principal

WINDOW = 262_144
"""Bytes of KV of 512 tokens; no two of the generations here fit it at once."""
TOKENS = 48
KINDS: list[dict[str, Any]] = [{"temperature": 0.9}, {"temperature": 0.0}, {"temperature": 0.0, "beam_width": 3}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("model"))


class Case(NamedTuple):
    """`place` is what keeps the generations from being kept as more than text."""

    quantum: int
    agents: int
    slots: int
    place: str


CASES = st.builds(
    Case, st.integers(1, 6), st.integers(2, 5), st.integers(1, 2), st.sampled_from(["text", "no room", "full disk"])
)


def ask(n: int) -> LLMGenerate:
    usual = {"seed": n, "max_tokens": TOKENS, "min_tokens": TOKENS}
    kind = KINDS[n % len(KINDS)]
    return LLMGenerate(messages=[Message("user", "c" * (60 if "beam_width" in kind else 280))], **usual, **kind)


async def play(case: Case, folder: Path, home: Path) -> tuple[list[int], dict[str, Any]]:
    """New tokens of each slice that did not end its generation, and what the core counted."""
    sizes: list[int] = []
    core = NanoCore(
        folder=folder,
        slots=case.slots,
        kv_bytes=case.slots * WINDOW,
        prefix_bytes=0,
        snapshot="text" if case.place == "text" else "logits",
    )
    really_run = core.run

    async def run(request: Request, quantum: int | None) -> Any:
        outcome = await really_run(request, quantum)
        if isinstance(outcome, Suspended):
            sizes.append(outcome.tokens)
        return outcome

    core.run = run  # type: ignore[method-assign]
    config = Config(context=ContextSection(ram_bytes=0, disk_bytes=0 if case.place == "no room" else 1 << 26))
    async with booted(cores=[core], home=home, config=config, policy="rr", quantum=case.quantum) as kernel:
        calls = [kernel.call(principal(kernel, f"agent{n}"), "llm_generate", ask(n)) for n in range(case.agents)]
        await asyncio.gather(*calls)
        return sizes, kernel.llm.statistics()["nano"]


def full(descriptor: int, data: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(CASES)
def test_every_turn_brings_a_generation_on_and_little_is_computed_again(folder: Path, case: Case) -> None:
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        if case.place == "full disk":
            patch.setattr("aios.kernel.storage.swap.os.write", full)
        sizes, found = asyncio.run(play(case, folder, Path(home)))
    assert min(sizes, default=1) >= 1
    assert found["replayed_tokens"] <= 2 * found["tokens"]
    assert found["restores_text"] <= case.agents * (math.log2(TOKENS) + 3)


def test_where_each_turn_begins_from_text_turns_grow_and_answers_come(folder: Path, tmp_path: Path) -> None:
    sizes, found = asyncio.run(play(Case(1, 4, 1, "text"), folder, tmp_path))
    assert found["restores_text"] > 8, "they were thrown back to text"
    assert max(sizes) > 8
    assert found["replayed_tokens"] <= 2 * found["tokens"]
