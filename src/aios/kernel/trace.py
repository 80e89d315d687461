"""The one log of what moved when: `ps`, `top`, metrics, events and evaluation read it. Knows nothing about prompts.

Rows live in a bounded ring; totals count everything since boot. Listeners get each row as it is added.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from typing import NamedTuple


class Row(NamedTuple):
    """A call entered `state` at `time` (monotonic seconds). `why` is a word or two, never content."""

    time: float
    call_id: str
    pid: int
    name: str
    state: str
    core: str | None = None
    why: str | None = None


Listener = Callable[[Row], None]


class Trace:
    """A ring of the last `keep` rows, totals by (name, state), and who listens."""

    def __init__(self, keep: int = 20_000) -> None:
        self.rows: deque[Row] = deque(maxlen=keep)
        self.totals: Counter[tuple[str, str]] = Counter()
        self._listeners: list[Listener] = []

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.totals[row.name, row.state] += 1
        for listener in self._listeners:
            listener(row)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each new row. Returns what stops that. A listener must not raise or wait."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    @property
    def num_listeners(self) -> int:
        return len(self._listeners)

    def story(self, call_id: str) -> Iterator[Row]:
        """The rows of one call that are still in the ring, oldest first."""
        return (row for row in self.rows if row.call_id == call_id)
