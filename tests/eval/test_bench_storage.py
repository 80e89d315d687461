"""`aios bench storage`: that all of it runs, in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from aios.eval.bench import storage

pytestmark = pytest.mark.anyio


async def test_every_part_of_the_benchmark_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "TEXT", 300_000)
    figures = {
        "rounds": 1,
        "small": await storage.small_files(tmp_path, 1, 128),
        "stream": await storage.streams(tmp_path, 1, 4 << 20),
        "stream_durable": await storage.streams(tmp_path, 1, 4 << 20, durable=True),
        "change": await storage.changes(tmp_path, 2),
    }
    assert figures["small"]["files_s"] > 0
    assert figures["stream"]["bytes"] == 4 << 20
    assert 0 < figures["change"]["median_bytes"] < 64_000
    assert "of its speed" in storage.table(figures)
