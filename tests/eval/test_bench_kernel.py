"""The kernel's benchmark measures what it says; how much that is, no test asserts."""

from __future__ import annotations

import uvloop

from aios.eval.bench.kernel import in_process, table


def test_each_kind_of_call_has_a_cost() -> None:
    figures = uvloop.run(in_process(1, 64))
    assert set(figures) == {"empty_us", "journalled_us", "in_kernel_us"}
    assert all(cost > 0 for cost in figures.values())
    assert "empty_us" in table({"in_process": figures})
