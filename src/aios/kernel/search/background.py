"""What is done to the index while nobody waits for it: vectors are made, and what was dropped is cleared away.

In small portions, and none while the store has much to write. An embedder that fails is left alone for a while, longer
each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import Any

import apsw

from aios.abi.errors import AiosError

from ..clock import Clock, Timer
from ..database import Database
from .maker import Maker
from .tables import KEYS, Tables
from .upkeep import (
    all_are_of,
    clear_some,
    embed_anew,
    keep_vectors,
    model_number,
    next_texts,
    num_without,
    others_after,
)

log = logging.getLogger("aios.search")

BUSY = 8
"""Jobs that wait for the writer, at which others go first: for GIVE_WAY seconds, PATIENCE times at most."""
GIVE_WAY = 0.02
PATIENCE = 50
FIRST_REST, LONGEST_REST = 1.0, 300.0
"""Seconds until an embedder that failed is asked again: twice as long each time."""


class Background:
    """For all rooms. `start` and `close` are called on the event loop, `wake` from any thread."""

    def __init__(self, database: Database, clock: Clock, maker: Maker) -> None:
        self.failure: AiosError | None = None
        """What the embedder failed with when it was asked last."""
        self._database = database
        self._clock = clock
        self._maker = maker
        self._turns: dict[Tables, int] = {}
        """The scope of each room that comes first next time."""
        self._is_awake = False
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._pausing: Timer | None = None
        self._resting: Timer | None = None
        self._rest = FIRST_REST

    def add(self, tables: Tables) -> None:
        self._turns[tables] = 0

    # ── beginning and end ──

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())
        self._task.add_done_callback(_ended)
        self.wake()

    def wake(self) -> None:
        """There may be something to do, once what is being written is committed."""
        loop = self._loop  # another thread may close this meanwhile
        if not self._is_awake and loop is not None:
            self._is_awake = True
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(self._awake)

    def _awake(self) -> None:
        self._idle.clear()
        self._work.set()

    async def close(self) -> None:
        self._loop = None
        for timer in (self._pausing, self._resting):
            if timer is not None:
                timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def idle(self) -> None:
        """Until nothing is left to do of what was committed before, or the embedder failed and rests."""
        await self._database.run(_nothing)
        while not self._idle.is_set():
            await self._idle.wait()

    # ── working ──

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            self._is_awake = False
            try:
                await self._clear_away()
                if self._resting is None:
                    await self._make_vectors()
                    self.failure, self._rest = None, FIRST_REST
            except AiosError as error:
                self._have_a_rest(error)
            if not self._work.is_set():
                self._idle.set()

    def _have_a_rest(self, error: AiosError) -> None:
        if self.failure is None:
            log.warning("vectors for searching cannot be made now: %s; words are searched meanwhile", error.message)
        self.failure = error
        if self._resting is None:
            self._resting = self._clock.call_later(self._rest, self._rested)
            self._rest = min(2 * self._rest, LONGEST_REST)

    def _rested(self) -> None:
        self._resting = None
        self.wake()

    async def _clear_away(self) -> None:
        await self._database.run(_nothing, frees=True)  # who woke us has committed now
        for tables in self._turns:
            while await self._database.run(partial(clear_some, tables=tables), frees=True):
                await self._give_way()

    async def _make_vectors(self) -> None:
        for tables in self._turns:
            await self._mark_others(tables)
        busy = list(self._turns)
        while busy:
            busy = [tables for tables in busy if await self._embed_some(tables)]

    async def _mark_others(self, tables: Tables) -> None:
        """When the model is another than the one before, all that was embedded is to be embedded anew."""
        number = self._database.read(partial(model_number, tables=tables))
        if number is None:
            return
        model = await self._maker.learn()
        if number == model.number:
            return
        at: int | None = -1
        while at is not None:
            keys, at = await self._database.read_async(partial(others_after, tables=tables, model=model, key=at))
            if keys:
                await self._database.run(partial(embed_anew, tables=tables, keys=keys))
                await self._give_way()
        await self._database.run(partial(all_are_of, tables=tables, model=model))

    async def _embed_some(self, tables: Tables) -> bool:
        """Make some vectors of a room. False when none were left to make."""
        embedder = self._maker.embedder
        turn = self._turns[tables]
        look = partial(next_texts, tables=tables, turn=turn, batch=embedder.batch, max_chars=embedder.max_chars)
        todo = await self._database.read_async(look)
        if not todo:
            return False
        before = await self._maker.learn()
        there = [each.text for each in todo if each.text is not None]
        made = iter(await self._maker.vectors(there) if there else ())
        if self._maker.model != before:
            self.wake()  # what was embedded before is to be marked first
            return False
        pairs = [(each.key, None if each.text is None else next(made)) for each in todo]
        await self._database.run(partial(keep_vectors, tables=tables, model=before, made=pairs))
        self._turns[tables] = (todo[-1].key >> KEYS) + 1
        await self._give_way()
        return True

    async def _give_way(self) -> None:
        await asyncio.sleep(0)
        for _ in range(PATIENCE):
            if self._database.statistics()["waiting"] < BUSY:
                return
            await self._pause(GIVE_WAY)

    async def _pause(self, seconds: float) -> None:
        over = asyncio.Event()
        self._pausing = self._clock.call_later(seconds, over.set)
        await over.wait()

    def statistics(self) -> dict[str, Any]:
        maker = self._maker
        left = {tables.room: self._database.read(partial(num_without, tables=tables)) for tables in self._turns}
        return {
            "model": maker.embedder.name,
            "dimension": maker.model.dimension if maker.model is not None else None,
            "unembedded": sum(left.values()),
            "unembedded_in": left,
            "embedded": maker.num_made,
            "refused": maker.num_refused,
            "is_failing": self.failure is not None,
            "failure": self.failure.message if self.failure is not None else None,
        }


def _nothing(connection: apsw.Connection) -> None:
    """Done when all that came before is committed."""


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("no more vectors are made for searching, until the kernel starts again", exc_info=error)
