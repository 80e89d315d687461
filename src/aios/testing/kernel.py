"""A kernel for a test: booted on scripted cores in a home of its own, stopped and checked at the end."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from aios.kernel.clock import Clock
from aios.kernel.config import Config, RouterSection, Scheduler
from aios.kernel.llm.base import Core
from aios.kernel.process import Principal

from .core import ScriptedCore

if TYPE_CHECKING:
    from aios.kernel import Kernel


@asynccontextmanager
async def booted(
    *,
    cores: Mapping[str, Core] | Sequence[Core] | None = None,
    home: Path | None = None,
    config: Config | None = None,
    policy: str | None = None,
    quantum: int | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Kernel]:
    """A running kernel. Without `cores` it has one `ScriptedCore`; the first core is the router's default.

    `policy` and `quantum` change those of `config`.
    """
    from aios.kernel import Kernel  # loads every room: not needed by tests that only want a clock or a core

    given = [ScriptedCore()] if cores is None else cores.values() if isinstance(cores, Mapping) else cores
    named = {core.name: core for core in given}
    async with AsyncExitStack() as stack:
        if home is None:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aios-test-")))
        kernel = await Kernel.boot(_config(config, named, policy, quantum), home, cores=named, clock=clock)
        stack.push_async_callback(kernel.stop, 0.0)
        yield kernel
        kernel.check_integrity()


def _config(config: Config | None, cores: Mapping[str, Core], policy: str | None, quantum: int | None) -> Config:
    config = config or Config()
    if config.router.default is None:
        config = msgspec.structs.replace(config, router=RouterSection(default=next(iter(cores), None)))
    changes = {name: value for name, value in (("policy", policy), ("quantum", quantum)) if value is not None}
    scheduler = msgspec.convert({**msgspec.structs.asdict(config.scheduler), **changes}, Scheduler)
    return msgspec.structs.replace(config, scheduler=scheduler)


def principal(kernel: Kernel, agent: str = "tester", *, owner: str = "test", is_admin: bool = False) -> Principal:
    """Somebody who may call: a fresh key of `agent`, authenticated."""
    _, text = kernel.access.mint(owner=owner, agent=agent, is_admin=is_admin)
    return kernel.authenticate(text)
