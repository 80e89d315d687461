"""Ends of calls that could not be written: kept until they are, and told to nobody before. Knows no table."""

from __future__ import annotations

from collections.abc import Iterable

from aios.abi.errors import AiosError, Stopping

from .records import Event, KeyPlace


class HeldEnds:
    """Were such an end told, a kernel that dies now would leave its call open, and the next one would contradict it."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._why: dict[KeyPlace, AiosError] = {}

    def __len__(self) -> int:
        return len(self._events)

    def add(self, ends: Iterable[Event], error: AiosError) -> None:
        """They were not written, because of `error`, and whoever waits for them hears so now."""
        for event in ends:
            self._events.append(event._replace(then=None))
            if event.keyed is not None:
                self._why[event.keyed.place] = error

    def take(self) -> list[Event]:
        """All of them, in their order, to be tried again. Those that fail once more are to be added once more."""
        ends, self._events = self._events, []
        return ends

    def settle(self, place: KeyPlace) -> None:
        """The end of the call under this key is on disk."""
        self._why.pop(place, None)

    def why(self, place: KeyPlace) -> AiosError | None:
        """What whoever asks under this key is told for now."""
        error = self._why.get(place)
        return None if error is None else untold(error)


def untold(error: AiosError) -> AiosError:
    """What is said of a call whose end was not written because of `error`."""
    return Stopping(
        "this call has ended, but how is not on record yet and cannot be told before it is; ask again with its "
        f"Idempotency-Key. What kept it from being recorded: {error.message}",
        code=error.code,
        retry_after=error.retry_after,
    )
