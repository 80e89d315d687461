"""Which slot of a llama.cpp server holds what, and which suspended answers lie in files. Plain decisions, no I/O but
removing a file.

A suspended answer keeps its KV in its slot until somebody needs that: switching back is free. Then it is saved to a
file, the oldest first, within a budget; past the budget the oldest file goes, and its answer is read again as text.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from ..base import Said
from .stream import Spoken, Stream


class Paused:
    """A suspended answer: what was spoken, and where its KV is: in slot `seat`, in `file`, or (neither) nowhere."""

    def __init__(self, spoken: Spoken, seat: int) -> None:
        self.spoken = spoken
        self.seat: int | None = seat
        self.stream: Stream | None = None
        """Still open, until `closing` is due."""
        self.closing: asyncio.TimerHandle | None = None
        self.saving: asyncio.Task[None] | None = None
        self.file: Path | None = None
        self.size = 0
        self.is_dropped = False

    def as_said(self) -> Said | None:
        spoken = self.spoken
        return None if spoken.reasoning else Said(spoken.text, spoken.tokens, spoken.logprobs or None)

    def close_stream(self) -> Stream | None:
        """The stream that was still open, cut."""
        stream = self.take_stream()
        if stream is not None:
            stream.cut()
        return stream

    def take_stream(self) -> Stream | None:
        """The stream that is still open; the caller's from now on."""
        stream, self.stream = self.stream, None
        if self.closing is not None:
            self.closing.cancel()
        return stream


class Seats:
    """Of one server with `count` slots. `budget` bounds the bytes of files."""

    def __init__(self, count: int, budget: int) -> None:
        self._budget = budget
        self._taken: set[int] = set()
        self._kept: dict[int, Paused] = {}
        """By slot, the oldest first."""
        self._filed: dict[Path, Paused] = {}
        self._last: list[tuple[str | None, Sequence[int]]] = [(None, ())] * count
        """What each slot read last: whose it was (cache_salt), and what stands for each of its messages."""
        self._used = [0] * count
        """When each slot was asked last, in requests."""
        self._now = 0
        self.num_saved = self.num_restored = self.num_reread = 0

    def take(self, paused: Paused | None, salt: str | None, messages: Sequence[int]) -> tuple[int, Paused | None]:
        """A slot for an answer that goes on or begins, and whose KV has to be saved out of it first.

        There is one whenever fewer run than there are slots.
        """
        if paused is not None and paused.seat is not None:
            seat, paused.seat = paused.seat, None
            del self._kept[seat]
            self._taken.add(seat)
            return seat, None
        free = [n for n in range(len(self._last)) if n not in self._taken and n not in self._kept]
        if free:
            seat, victim = max(free, key=lambda n: self._worth(n, salt, messages)), None
        else:
            seat, victim = next(iter(self._kept.items()))
            del self._kept[seat]
            victim.seat = None
        self._taken.add(seat)
        return seat, victim

    def note(self, seat: int, salt: str | None, messages: Sequence[int]) -> bool:
        """Slot `seat` is to read `messages`; whether it may use what it read before."""
        may_share = self._last[seat][0] == salt
        self._last[seat] = (salt, messages)
        self._now += 1
        self._used[seat] = self._now
        return may_share

    def leave(self, seat: int) -> None:
        self._taken.discard(seat)

    def keep(self, paused: Paused, seat: int) -> None:
        """`paused` stays in its slot for as long as nobody needs that."""
        self._taken.discard(seat)
        paused.seat = seat
        self._kept[seat] = paused

    def put(self, paused: Paused, file: Path, size: int) -> None:
        """The KV of `paused` is in `file` now."""
        paused.file, paused.size = file, size
        self._filed[file] = paused
        self.num_saved += 1
        while sum(other.size for other in self._filed.values()) > self._budget:
            self.unfile(next(iter(self._filed.values())))
        if paused.is_dropped:
            self.unfile(paused)

    def unfile(self, paused: Paused) -> None:
        if paused.file is not None:
            with contextlib.suppress(OSError):
                paused.file.unlink()
            self._filed.pop(paused.file, None)
            paused.file = None

    def drop(self, paused: Paused) -> None:
        """`paused` will not go on."""
        paused.is_dropped = True
        paused.close_stream()
        if paused.seat is not None:
            del self._kept[paused.seat]
            paused.seat = None
        self.unfile(paused)

    def lose(self) -> None:
        """The server has ended, and what was in its slots with it."""
        for paused in self._kept.values():
            paused.seat = None
            paused.close_stream()
        self._kept.clear()
        self._last = [(None, ())] * len(self._last)

    def statistics(self) -> dict[str, int]:
        return {
            "kept": len(self._kept),
            "files": len(self._filed),
            "file_bytes": sum(paused.size for paused in self._filed.values()),
            "saved": self.num_saved,
            "restored": self.num_restored,
            "read_again": self.num_reread,
        }

    def _worth(self, seat: int, salt: str | None, messages: Sequence[int]) -> tuple[bool, int, int]:
        """How well slot `seat` suits these messages: whether it read most of them as the same conversation, how many
        leading ones are the same, and how long ago that was."""
        theirs, last = self._last[seat]
        alike = 0
        if theirs == salt:
            same = (ours == other for ours, other in zip(messages, last, strict=False))
            alike = sum(1 for _ in takewhile(bool, same))
        return alike > 0 and 2 * alike >= len(last), alike, -self._used[seat]
