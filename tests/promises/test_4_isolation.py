"""Promise 4: an agent sees its own data only, and what a group grants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aios.abi import calls as abi
from aios.eval.isolation import prove

pytestmark = pytest.mark.anyio
COUNT = 3000


async def test_two_agents_see_not_a_byte_of_each_others_whatever_they_ask(tmp_path: Path) -> None:
    found = await prove(COUNT, tmp_path, seed=3)
    assert found.leaks == []
    assert found.foreign_asks > 100
    assert found.refused < found.count / 2


async def test_a_memory_that_forgets_whose_it_is_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aios.kernel.process import Place
    from aios.kernel.spaces import Spaces

    def everybodys(self: Spaces, caller: Place, block: str | None) -> tuple[Place, str]:
        return Place("ann", "writer"), block or ""

    monkeypatch.setattr(Spaces, "block", everybodys)
    assert (await prove(300, tmp_path)).leaks


async def test_files_in_one_scope_for_all_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aios.kernel.process import Place
    from aios.kernel.spaces import Spaces

    own = Spaces.scope

    def everybodys(self: Spaces, caller: Place, path: str) -> Any:
        return own(self, Place("ann", "writer"), path)

    monkeypatch.setattr(Spaces, "scope", everybodys)
    assert (await prove(300, tmp_path)).leaks


def test_every_call_of_memory_and_files_is_among_the_operations_or_named_here() -> None:
    from aios.eval import isolation

    text = Path(isolation.__file__).read_text()
    rows = [name for name, spec in abi.CALLS.items() if spec.module in ("memory", "storage")]
    left = {name for name in rows if f'"{name}"' not in text}
    assert left <= {"sto_mount", "sto_unmount", "sto_mounts"}, f"{left} are not tried by two agents"
