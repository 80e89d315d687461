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
    assert found.broken == []
    assert found.foreign_asks > 100
    assert found.passages > 1000
    assert found.followed > 30
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


async def test_a_search_in_everybodys_files_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aios.kernel.process import Place
    from aios.kernel.spaces import Scope, Spaces

    own = Spaces.readable

    def everybodys(self: Spaces, caller: Place, may_read: Any) -> list[Scope]:
        return [*own(self, caller, may_read), Scope("ben" if caller.owner == "ann" else "ann", "writer")]

    monkeypatch.setattr(Spaces, "readable", everybodys)
    found = await prove(300, tmp_path)
    assert any("in sto_retrieve" in leak for leak in found.leaks)


async def test_a_link_that_leads_astray_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aios.kernel.storage import links

    tokens: list[str] = []
    own = links.follow

    def the_one_before(connection: Any, token: str, now: float) -> Any:
        tokens.append(token)
        return own(connection, tokens[-2:][0], now)

    monkeypatch.setattr(links, "follow", the_one_before)
    assert any("behind a link" in leak for leak in (await prove(1500, tmp_path)).leaks)


async def test_a_call_that_breaks_proves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aios.kernel.storage.reading import Reading

    async def broken(self: Reading, *args: Any) -> Any:
        raise KeyError(1)

    monkeypatch.setattr(Reading, "_diff", broken)
    found = await prove(100, tmp_path)
    assert not found.is_proven
    assert found.broken[0] == "sto_diff: the storage module broke on this call: KeyError"


def test_every_call_of_memory_and_files_is_among_the_operations_or_named_here() -> None:
    from aios.eval import isolation

    text = Path(isolation.__file__).read_text()
    rows = [name for name, spec in abi.CALLS.items() if spec.module in ("memory", "storage")]
    left = {name for name in rows if f'"{name}"' not in text}
    assert left <= {"sto_mount", "sto_unmount", "sto_mounts"}, f"{left} are not tried by two agents"
