"""What the benchmark of searching measures is what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from aios.abi.calls import Entries, MemSearch
from aios.eval.bench import search
from aios.kernel import Kernel, Principal

pytestmark = pytest.mark.anyio


async def test_an_agent_of_many_is_asked_about_what_it_wrote_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []

    async def searches(kernel: Kernel, who: Principal, asked: Sequence[dict[str, str]], bare: Any) -> dict[str, Any]:
        for queries in asked:
            args = MemSearch(query=queries["a sentence"], k=1, mode="keyword")
            answer: Entries = await kernel.call(who, "mem_search", args)
            held = {word for entry in answer.entries for word in entry.content.split()}
            found.append(sum(word in held for word in args.query.split()))
        return {}

    monkeypatch.setattr(search, "_searches", searches)
    monkeypatch.setattr(search, "ROUNDS", 10)
    figures = await search.measure(entries=60, agents=6)
    assert figures["embedded_per_s"] >= 0
    assert len(found) == 30
    assert all(shared >= 10 for shared in found), found
