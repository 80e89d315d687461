"""Suspended sequences: they keep their KV until others need the room, then it is moved aside. Knows no thread or queue.

What is moved aside is the bytes of the keys and values, in plain memory and as many as were computed; the sequence
itself stays as it is. It goes on with the same bits, so it says the same.
"""

from __future__ import annotations

from .kv import KVPool
from .sequence import Sequence


class Shelf:
    """`aside` is how many bytes more than the pool's sequences may have reserved, those moved aside included.

    A sequence that was begun can always go on: those that run fit the pool, and any other can leave it.
    """

    def __init__(self, pool: KVPool, aside: int) -> None:
        self._pool = pool
        self._budget = pool.budget + aside
        self._inside: dict[Sequence, None] = {}  # the oldest first
        self._outside: dict[Sequence, int] = {}
        """What they had reserved."""

    @property
    def room(self) -> int:
        """Bytes that new sequences may still reserve."""
        return self._budget - self._pool.reserved - self.aside

    @property
    def aside(self) -> int:
        return sum(self._outside.values())

    def put(self, sequence: Sequence) -> None:
        """`sequence` was suspended."""
        self._inside[sequence] = None

    def take(self, sequence: Sequence) -> None:
        """`sequence` goes on, or is over: it is back in the pool when it was moved aside. MemoryError if that is full.

        One that never was on the shelf stays as it is.
        """
        self._inside.pop(sequence, None)
        if sequence in self._outside:
            self.make_room(sequence)
            sequence.move_back(self._pool)
            del self._outside[sequence]

    def forget(self, sequence: Sequence) -> None:
        """`sequence` will not go on."""
        self._inside.pop(sequence, None)
        self._outside.pop(sequence, None)

    def make_room(self, sequence: Sequence) -> None:
        """Move the oldest aside until the pool can hold `sequence`, or none is left to be moved."""
        needed = sequence.bytes_in(self._pool)
        while self._inside and self._pool.room < needed:
            oldest = next(iter(self._inside))
            del self._inside[oldest]
            if oldest.move_aside():
                self._outside[oldest] = oldest.bytes_in(self._pool)

    def statistics(self) -> dict[str, int]:
        return {"aside_bytes": self.aside, "aside_sequences": len(self._outside)}
