"""Asks for each drawn generation alone and amid others, and compares the bytes. Knows kernels by `World` only."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from aios.abi.errors import AiosError, CutShort, Stopping
from aios.abi.messages import Generation, Usage
from aios.testing.models import write_model

from .draw import CONTEXT, MODELS, PACKAGED, WAYS, Ask, Round, Tier, rounds
from .world import InProcess, NoKernel, Served, World

SIZE = 20
"""Generations of a round."""
STALLED_SECONDS = 120.0
"""Without an answer for so long a round is taken never to end."""
KEPT = 5
"""Differences that are told in full."""
LEAST_KV, SLOT_KV, NANO_KV = 2 << 20, 320 << 10, 26 << 20
"""Bytes of keys and values: of the widest search, and of a sequence that fills the window."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A generation that did not say what it says alone."""

    round: int
    model: str
    fate: str
    way: str
    alone: str
    amid: str


@dataclass(slots=True)
class Found:
    """What came out so far."""

    backend: str
    seed: int
    count: int = 0
    equal: int = 0
    by_way: Counter[str] = field(default_factory=Counter)
    by_fate: Counter[str] = field(default_factory=Counter)
    by_model: Counter[str] = field(default_factory=Counter)
    covered: Counter[str] = field(default_factory=Counter)
    different: list[Difference] = field(default_factory=list)
    wall_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return msgspec.to_builtins(self) | {"is_proven": self.is_proven}  # type: ignore[no-any-return]

    @property
    def is_proven(self) -> bool:
        return self.count > 0 and self.equal == self.count


async def prove(
    count: int,
    folder: Path,
    *,
    seed: int = 0,
    backend: str = "numpy",
    size: int = SIZE,
    on_round: Callable[[Found], None] = lambda found: None,
) -> Found:
    """Compare `count` generations. `folder`, which should be empty, is for models and homes."""
    found, begun = Found(backend, seed), time.monotonic()
    async with AsyncExitStack() as stack:
        models = _Models(folder / "models", backend)
        alone = _Alone(folder / "alone", models, stack)
        for each in rounds(count, size, seed, backend):
            amid, covered = await _play(each, folder / f"round-{each.number}", models)
            solo = [await alone.ask(each.model, ask) for ask in each.asks]
            _compare(each, solo, amid, found)
            found.covered += covered
            found.wall_s = round(time.monotonic() - begun, 1)
            on_round(found)
    return found


def _compare(each: Round, solo: list[str], amid: list[str], found: Found) -> None:
    for ask, alone, other in zip(each.asks, solo, amid, strict=True):
        found.count += 1
        found.by_way[ask.way] += 1
        found.by_fate[each.fate] += 1
        found.by_model[each.model] += 1
        if alone == other and not alone.startswith("!"):
            found.equal += 1
        elif len(found.different) < KEPT:
            found.different.append(Difference(each.number, each.model, each.fate, ask.way, alone, other))


BYTES: dict[Tier, tuple[int, int]] = {
    "ram": (1 << 30, 1 << 30),
    "disk": (0, 1 << 30),
    "text": (0, 0),
    "mixed": (500_000, 1_000_000),
}
"""Of host memory, and of disk, for what leaves the pool."""


class _Models:
    """Writes each model's folder when it is first needed, and the configuration of a kernel that has it."""

    def __init__(self, folder: Path, backend: str) -> None:
        self._folder = folder
        self._backend = backend

    def config(self, model: str, *, policy: str, slots: int, quantum: int, has_cache: bool, tier: Tier = "ram") -> str:
        needed = slots * (NANO_KV if model == PACKAGED else SLOT_KV)
        ram, disk = BYTES[tier]
        lines = [
            f"[context]\nram_bytes = {ram}\ndisk_bytes = {disk}",
            f'[scheduler]\npolicy = "{policy}"\nquantum = {quantum}',
            '[router]\ndefault = "one"',
            f'[[core]]\nname = "one"\nslots = {slots}\nkv_bytes = {max(LEAST_KV, needed)}',
            f"prefix_bytes = {(8 << 20) if has_cache else 0}",
        ]
        if model == PACKAGED:
            lines.append('kind = "nano"')
        else:
            lines.append(f'kind = "local"\ncontext_length = {CONTEXT}\npath = "{self._written(model)}"')
        if model != PACKAGED:
            lines.append(f'backend = "{self._backend}"')
        return "\n".join(lines) + "\n"

    def _written(self, model: str) -> Path:
        folder = self._folder / model.replace(" ", "-")
        return folder if folder.exists() else write_model(folder, model)


class _Alone:
    """A kernel for each model that does one thing at a time and keeps nothing: what it answers is the measure."""

    def __init__(self, folder: Path, models: _Models, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._models = models
        self._stack = stack
        self._worlds: dict[str, InProcess] = {}

    async def ask(self, model: str, ask: Ask) -> str:
        if model not in self._worlds:
            config = self._models.config(model, policy="fifo", slots=1, quantum=64, has_cache=False)
            world = self._worlds[model] = InProcess(_made(self._folder / model), config)
            await world.start()
            self._stack.push_async_callback(world.end)
        return await _answer(self._worlds[model], "alone", ask, None)


async def _play(each: Round, home: Path, models: _Models) -> tuple[list[str], Counter[str]]:
    """The round's answers, and what happened."""
    config = models.config(
        each.model, policy="rr", slots=each.slots, quantum=each.quantum, has_cache=each.has_cache, tier=each.tier
    )
    async with _world(each, _made(home), config) as world:
        play = _Play(world, each)
        answers = await play.answers()
    return answers, world.covered


@contextlib.asynccontextmanager
async def _world(each: Round, home: Path, config: str) -> AsyncIterator[World]:
    if each.fate != "killed":
        yield InProcess(home, config)
        return
    served = Served(home, config)
    try:
        yield served
    finally:
        await served.close()


class _Play:
    """One round under way: who asks keeps asking until there is an answer, whatever becomes of the kernel."""

    def __init__(self, world: World, each: Round) -> None:
        self._world = world
        self._round = each
        self._answers: dict[int, str] = {}
        self._moved = asyncio.Event()
        self._is_up = asyncio.Event()

    async def answers(self) -> list[str]:
        await self._start()
        async with asyncio.TaskGroup() as group:
            for number, ask in enumerate(self._round.asks):
                group.create_task(self._keep_asking(number, ask))
            noise = [group.create_task(self._give_up(n, ask)) for n, ask in enumerate(self._round.noise)]
            for index, cut in enumerate(self._round.cuts):
                await self._until(cut)
                is_killed = self._round.fate == "killed" and index == 0
                self._world.covered["kills" if is_killed else "stops"] += 1
                await self._end(is_killed=is_killed)
                await self._start()
            await self._until(len(self._round.asks))
            for task in noise:
                task.cancel()
        await self._end()
        return [self._answers[number] for number in range(len(self._round.asks))]

    async def _start(self) -> None:
        await self._world.start()
        self._is_up.set()

    async def _end(self, *, is_killed: bool = False) -> None:
        self._is_up.clear()
        await self._world.end(is_killed=is_killed)

    async def _until(self, count: int) -> None:
        while len(self._answers) < count:
            self._moved.clear()
            try:
                async with asyncio.timeout(STALLED_SECONDS):
                    await self._moved.wait()
            except TimeoutError:
                number = self._round.number
                raise RuntimeError(f"round {number} stands still:\n{self._world.story()}") from None

    async def _keep_asking(self, number: int, ask: Ask) -> None:
        await asyncio.sleep(ask.after)
        while number not in self._answers:
            await self._is_up.wait()
            with contextlib.suppress(Stopping, CutShort, NoKernel):
                self._answers[number] = await _answer(self._world, f"agent-{number}", ask, f"key-{number}")
        self._moved.set()

    async def _give_up(self, number: int, ask: Ask) -> None:
        with contextlib.suppress(AiosError, TimeoutError):
            async with asyncio.timeout(ask.after):
                await self._is_up.wait()
                await self._world.ask(f"noise-{number}", ask.args, None)


async def _answer(world: World, agent: str, ask: Ask, key: str | None) -> str:
    """What the call came to, all of it but how much of its prompt was computed for an earlier one; or its error."""
    try:
        answer = await world.ask(agent, ask.args, key)
    except (Stopping, CutShort, NoKernel):
        raise
    except AiosError as error:
        return f"! {type(error).__name__}: {error.message}"
    return _lasting(answer)


def _lasting(answer: Generation) -> str:
    usage = Usage.of(answer.usage.prompt_tokens, answer.usage.completion_tokens)
    return msgspec.json.encode(msgspec.structs.replace(answer, usage=usage)).decode()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


__all__ = ["MODELS", "SIZE", "WAYS", "Difference", "Found", "prove"]
