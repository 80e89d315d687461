"""Agents that write memory and files one call after the other, and hold the kernel to what it answered.

Knows no kill: a `Dead` out of `work` leaves the call without an answer, and `settle` finds out what became of it.
"""

from __future__ import annotations

import copy
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from aios.abi.errors import AiosError

from . import audit
from .known import SETTINGS, Known
from .steps import Step, Steps

Ask = Callable[[str, str, dict[str, Any], str | None], Awaitable[dict[str, Any]]]
"""(agent, name, arguments, key) → result. Raises AiosError, Dead."""
MOUNT = "docs"
"""The first part of the paths of agents whose files are in a mounted folder."""
LOOKED_UP = 5
"""Entries of each block that are searched for in an audit, and answers that are asked for again."""


@dataclass
class Book:
    """What was asked in all, and what went wrong."""

    faults: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class Answered(NamedTuple):
    step: Step
    result: dict[str, Any]


class Client:
    """One agent; `blocks` are its own, or a shared one that nobody else writes to. Its files are the kernel's, or with
    `is_in_mount` those of a folder that nobody else changes."""

    def __init__(
        self, agent: str, blocks: tuple[str, ...], seed: str, book: Book, *, is_in_mount: bool = False
    ) -> None:
        self.agent, self.blocks, self.book, self.is_in_mount = agent, blocks, book, is_in_mount
        self.known = Known()
        self.pending: Step | None = None
        """Asked, and not answered."""
        self.answered: deque[Answered] = deque(maxlen=200)
        """Those with a key."""
        self.unheard: list[tuple[Step, dict[str, Any]]] = []
        """Those with a key that were carried out and never answered, with what the answer must say."""
        self.is_dropping = False
        self._draw = random.Random(f"{seed} {agent}")
        self.steps = Steps(agent, blocks, self._draw)
        self._gone: deque[tuple[str, str]] = deque(maxlen=2 * LOOKED_UP)
        """Words of entries that were forgotten, with their block."""

    def blame(self, why: str) -> None:
        self.book.faults.append(f"{self.agent}: {why}")

    async def ask(self, ask: Ask, name: str, args: dict[str, Any], key: str | None = None) -> dict[str, Any]:
        """Make a call as the agent. What is known of it does not know of the mount."""
        if not self.is_in_mount or not name.startswith("sto_") or name == "sto_stat":
            return await ask(self.agent, name, args, key)
        return _from_mount(await ask(self.agent, name, _to_mount(args), key))

    async def work(self, ask: Ask, on_answer: Callable[[], None]) -> None:
        """Until the kernel is dead."""
        while True:
            self.pending = self.steps.next(self.known)
            await self.finish(ask)
            on_answer()

    async def finish(self, ask: Ask) -> None:
        """Ask the pending call, for the first time or again."""
        step = self.pending
        assert step is not None
        try:
            result = await self.ask(ask, step.name, step.args, step.key)
        except AiosError as error:
            self.blame(f"{_told(step)} was refused: {error.message}")
            self.book.counts["refused"] += 1
        else:
            self.book.counts[step.name] += 1
            self.take(step, result)
        self.pending = None

    def take(self, step: Step, result: dict[str, Any]) -> None:
        self._compare(step, self.known.answer(step.name, step.args), result)
        self._note_gone(step)
        self.known = self.known.after(step.name, step.args, result)
        if step.key is not None:
            self.answered.append(Answered(step, result))

    def _compare(self, step: Step, promised: dict[str, Any], result: dict[str, Any]) -> None:
        if wrong := {name: result.get(name) for name, value in promised.items() if result.get(name) != value}:
            self.blame(f"{_told(step)} was answered {wrong} instead of {promised}")

    def _note_gone(self, step: Step) -> None:
        if step.name == "mem_clear" and "id" in step.args:
            block = step.args.get("block", "")
            self._gone.append((self.known.blocks[block][step.args["id"]][0].content.split(" ")[0], block))

    # ── after a restart ──

    async def settle(self, ask: Ask) -> None:
        """Find out what became of the call that was not answered, and hold all to what was promised."""
        if self.pending is not None and self.pending.key is not None:
            self.book.counts["asked again"] += 1
            await self.finish(ask)
        await self._ask_again(ask)
        await self._ask_unheard(ask)
        before = self.plain(self.known)
        try:
            found = await self.seen(ask)
        except AiosError as error:
            self.blame(f"what was promised cannot be read: {error.message}")
            raise Lost(self.agent) from None
        if self.pending is not None:
            if found != before and (known := self.done(self.pending, found)) is not None:
                self.book.counts["done unanswered"] += 1
                self.known, before = known, self.plain(known)
            else:
                self.book.counts["not done"] += 1
                self.take_folders(self.pending, found)
                before = self.plain(self.known)
            self.pending = None
        if (where := audit.difference(before, found)) is not None:
            self.blame(f"something is not what was promised:{where}")
            raise Lost(self.agent)
        await self._search(ask)

    async def seen(self, ask: Ask) -> dict[str, Any]:
        blocks = list(self.known.blocks)
        if self.pending is not None and self.pending.name == "mem_alloc":
            blocks = list(dict.fromkeys([*blocks, *await self._has_block(ask, self.pending.args.get("block", ""))]))
        found = await audit.seen(partial(self.ask, ask), blocks)
        return self._without_counts(found)

    def plain(self, known: Known) -> dict[str, Any]:
        """What the agent can see of it."""
        return self._without_counts(known.plain())

    def _without_counts(self, plain: dict[str, Any]) -> dict[str, Any]:
        """No call counts what is in a mount; whether that is counted well, the checks of the store tell. What leaves
        the trash on a disk that fails is counted until it is dropped, by the next kernel at the latest."""
        is_counted = not self.is_in_mount and not self.is_dropping
        return {name: value for name, value in plain.items() if name != "count" or is_counted}

    async def _has_block(self, ask: Ask, block: str) -> list[str]:
        try:
            stat = await self.ask(ask, "mem_stat", {"block": block} if block else {})
        except AiosError:
            return []
        # A block that is shared can be looked at before anybody allots it.
        is_as_ever = all(stat[name] == value for name, value in SETTINGS.items()) and not stat["entries"]
        return [] if is_as_ever else [block]

    def done(self, step: Step, found: dict[str, Any]) -> Known | None:
        """What is promised if the unanswered call was carried out; None where what is found says that it was not."""
        result: dict[str, Any] = {}
        if step.name == "mem_write":
            block = step.args.get("block", "")
            new = [id for id in found["entries"][block] if id not in self.known.blocks[block]]
            if len(new) != 1:
                return None
            result["id"] = new[0]
        known = self.known.after(step.name, step.args, result)
        return known if self.plain(known) == found else None

    def take_folders(self, step: Step, found: dict[str, Any]) -> None:
        """In a mounted folder those above a file are made before it is, one by one, and stay when it does not come."""
        if not self.is_in_mount or not step.name.startswith("sto_"):
            return
        known = copy.deepcopy(self.known)
        parts = step.args.get("to", step.args["path"]).split("/")
        for depth in range(2, len(parts) + 1):
            known.make_folders_above("/".join(parts[:depth]))
            if self.plain(known) == found:
                self.known = known
                return

    async def _ask_again(self, ask: Ask) -> None:
        again = self._draw.sample(self.answered, min(LOOKED_UP, len(self.answered)))
        for step, result in again + list(self.answered)[-1:]:
            self.book.counts["answers asked for again"] += 1
            try:
                now = await self.ask(ask, step.name, step.args, step.key)
            except AiosError as error:
                self.blame(f"{_told(step)} was answered {result} and then {error.message}")
                continue
            if now != result:
                self.blame(f"{_told(step)} was answered {result} and then {now}")

    async def _ask_unheard(self, ask: Ask) -> None:
        for step, promised in self.unheard:
            self.book.counts["first answers after a restart"] += 1
            try:
                result = await self.ask(ask, step.name, step.args, step.key)
                self._compare(step, promised, result)
                self.answered.append(Answered(step, result))
            except AiosError as error:
                self.blame(f"{_told(step)} was carried out, and asked again refused: {error.message}")
        self.unheard.clear()

    async def _search(self, ask: Ask) -> None:
        mine = partial(self.ask, ask)
        wrong = await audit.lost_words(mine, self.known, lambda ids: self._draw.sample(ids, min(LOOKED_UP, len(ids))))
        if wrong is not None:
            self.blame(wrong)
        for word, block in self._gone:
            there = any(word in states[0].content for states in self.known.blocks[block].values())
            if not there and (wrong := await audit.found_words(mine, block, [word])) is not None:
                self.blame(wrong)


class Lost(Exception):
    """What was promised is not there: nothing that comes later would mean anything."""


def _to_mount(args: dict[str, Any]) -> dict[str, Any]:
    moved = {"path": "", **args}
    for name in {"path", "to"} & moved.keys():
        moved[name] = f"{MOUNT}/{moved[name]}" if moved[name] not in ("", ".") else MOUNT
    return moved


def _from_mount(told: dict[str, Any]) -> dict[str, Any]:
    plain = {name: value.removeprefix(f"{MOUNT}/") if name == "path" else value for name, value in told.items()}
    if isinstance(plain.get("entries"), list):  # of a listing; a count otherwise
        plain["entries"] = [_from_mount(each) for each in plain["entries"]]
    return plain


def _told(step: Step) -> str:
    args = {name: value if len(str(value)) < 80 else f"{str(value)[:60]}…" for name, value in step.args.items()}
    return f"{step.name} {args}" + (f" with the key {step.key}" if step.key else "")
