"""The benchmarks of cores, small: that they measure, not what they find."""

from __future__ import annotations

from pathlib import Path

import pytest

from aios.abi.errors import BadRequest
from aios.eval.bench import cores, plot, prefix, switch

pytestmark = pytest.mark.anyio


async def test_the_speed_of_a_core_is_told_beside_its_bare_decoders_for_each_batch() -> None:
    (tiny,) = [case for case in cores.cases(quick=True) if case.name == "tiny"]
    found = await cores._measure(tiny, 1)
    assert set(found) == {"batch_1", "batch_8", "batch_32"}
    assert all(figure > 0 for batch in found.values() for figure in batch.values())
    assert "kernel / bare" in cores.table({"own": {"tiny": found}})


async def test_many_agents_with_one_system_prompt_prefill_it_once() -> None:
    found = await prefix.measure(quick=True, agents=6)
    assert found["uncached"]["prefill_tokens"] > 6 * prefix.SYSTEM_TOKENS
    assert found["cached"]["prefill_tokens"] < found["uncached"]["prefill_tokens"] / 3
    assert "tokens prefilled" in prefix.table(found)


async def test_a_switch_is_measured_in_the_pool_and_out_of_it() -> None:
    rows = await switch.by_length(switch._nano, (100, 300), 1)
    assert [row["context"] for row in rows] == [100, 300]
    assert rows[1]["bytes"] == 3 * rows[0]["bytes"]
    assert all(row[f"{key}_ms"] > 0 for row in rows for key in ("prefill", "ram_out", "disk_out", "disk_back"))
    figures = {"in_pool_us": 1.0, "under_kernel": {"cpu_us_per_switch": 1.0}, "models": {"nano": rows}}
    assert "300" in switch.table(figures)
    assert "lost in the noise" in switch.table(figures | {"under_kernel": {"cpu_us_per_switch": -2.0}})


def figures() -> dict[str, object]:
    row = {f"{key}_cpu_ms": 2.0 for key in plot.LINES}
    return {"models": {"nano": [row | {"context": n, "prefill_cpu_ms": n} for n in (128, 256)]}}


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot.check(tmp_path / "switch.png")
    plot.draw(figures(), tmp_path / "switch.png")
    assert (tmp_path / "switch.png").read_bytes()[:4] == b"\x89PNG"


def test_a_picture_that_cannot_be_drawn_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "measure", None)
    with monkeypatch.context() as without, pytest.raises(BadRequest, match=r"aios-kernel\[eval\]"):
        without.setattr(plot.importlib.util, "find_spec", lambda name: None)
        switch.main(False, True, tmp_path / "switch.png")
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: True)
    for name, why in (("switch.txt", "png"), ("nowhere/switch.png", "no folder")):
        with pytest.raises(BadRequest, match=why):
            switch.main(False, True, tmp_path / name)
