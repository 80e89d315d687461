"""`aios bench knowledge`: that all of it runs, in small."""

from __future__ import annotations

import pytest

from aios.eval.bench import knowledge

pytestmark = pytest.mark.anyio


async def test_every_part_of_the_benchmark_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge, "ROUNDS", 2)
    monkeypatch.setattr(knowledge, "PAGES", 20)
    figures = await knowledge.measure(quick=True, files=200)
    assert (figures["files"], figures["html_pages"]["pages"]) == (10, 2)
    assert figures["passages"] >= 10 * knowledge.SECTIONS
    assert figures["bytes_on_disk"] > 0
    assert set(figures["found"]) == set(knowledge.CONDITIONS)
    assert "a file just written, found" in knowledge.table(figures)
