"""How those who wait hear of their jobs: one wake-up of each event loop a group. Knows no database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from aios.abi.errors import AiosError

from .health import BUGS

log = logging.getLogger("aios.database")

Then = Callable[[Any, AiosError | None], None]
Answer = tuple[Then | None, Any, AiosError | None]
"""Whom to tell, the job's value, what went wrong."""


def running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def tell(loop: asyncio.AbstractEventLoop | None, answers: list[Answer]) -> None:
    """Give `answers` on `loop`, in their order; without one in this thread, which must outlive what a listener
    raises."""
    if loop is None:
        for answer in answers:
            _deliver_here(*answer)
        return
    try:
        loop.call_soon_threadsafe(_deliver, loop, answers)
    except RuntimeError:
        log.debug("the event loop was closed before %d answers came", len(answers))


def _deliver_here(then: Then | None, value: Any, error: AiosError | None) -> None:
    try:
        if then is not None:
            then(value, error)
    except (AiosError, MemoryError, *BUGS):
        log.exception("a listener of the store failed")


def _deliver(loop: asyncio.AbstractEventLoop, answers: list[Answer]) -> None:
    for n, (then, value, error) in enumerate(answers):
        is_told = False
        try:
            if then is not None:
                then(value, error)
            is_told = True
        finally:
            # One listener's bug must not keep the others of its group waiting.
            if not is_told:
                loop.call_soon(_deliver, loop, answers[n + 1 :])
