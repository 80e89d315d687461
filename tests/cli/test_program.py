"""A program under the kernel: what ends it, and what does not."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from aios.abi.errors import AiosError, KernelFault, NotFound, Stopping, TimedOut, Unauthorized
from aios.cli import program
from aios.sdk import AsyncClient, NoKernel


class Admin:
    """A client whose kernel answers `proc_wait` as told, one answer after the other."""

    def __init__(self, *answers: AiosError | str) -> None:
        self.left = list(answers)

    async def proc_wait(self, pid: int, timeout: float) -> Any:
        answer = self.left.pop(0)
        if isinstance(answer, AiosError):
            raise answer
        return SimpleNamespace(state=answer)


@pytest.mark.parametrize("last", ["ended", NotFound("there is no process 7")])
def test_only_the_end_of_its_process_ends_a_program(monkeypatch: pytest.MonkeyPatch, last: AiosError | str) -> None:
    monkeypatch.setattr(program, "AWAY", 0.0)
    trouble = [kind("no answer") for kind in (Stopping, NoKernel, TimedOut, Unauthorized, KernelFault)]
    admin = Admin("idle", *trouble, "idle", last)
    asyncio.run(program._ended(cast(AsyncClient, admin), 7))
    assert not admin.left
