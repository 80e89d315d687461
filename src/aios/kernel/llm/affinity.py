"""Which core served whom: sessions, processes and beginnings of prompts, remembered for a while. Knows no load.

A core that has computed the beginning of a prompt need not compute it again. What is remembered is a hint: forgetting
it costs time, never an answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from aios.abi.calls import LLMGenerate

BLOCK = 512
"""Characters of a prompt that are compared at once. A shorter prompt costs little to compute anew."""
MAX_BLOCKS = 16
MAX_REMEMBERED = 16_384
MAX_CORES = 4
"""Cores remembered for one beginning, the latest first: a popular one is soon known to all of them."""


@dataclass(frozen=True, slots=True)
class Ties:
    """What ties a call to a core that served the like before. `session` is a hash, and so are `beginnings`, the longest
    first."""

    session: int | None = None
    process: int | None = None
    beginnings: tuple[int, ...] = ()


def beginnings(args: LLMGenerate) -> tuple[int, ...]:
    """Hashes of the first one, two, … whole blocks of a prompt, the longest first. Its tools and `cache_salt` come
    before all, and a hash is that of all up to there, so equal ones mean equal beginnings."""
    said = hash((args.cache_salt, tuple(tool.function.name for tool in args.tools or ())))
    hashes: list[int] = []
    rest = ""
    for role, text in islice(((m.role, m.text()) for m in args.messages), 4 * MAX_BLOCKS):
        rest += f"\0{role}\0{text[: BLOCK * MAX_BLOCKS]}"
        while len(rest) >= BLOCK and len(hashes) < MAX_BLOCKS:
            said = hash((said, rest[:BLOCK]))
            hashes.append(said)
            rest = rest[BLOCK:]
        if len(hashes) == MAX_BLOCKS:
            break
    return tuple(reversed(hashes))


class Affinity:
    """At most `limit` ties; the least recently used one goes first."""

    def __init__(self, limit: int = MAX_REMEMBERED) -> None:
        self._limit = limit
        self._cores: OrderedDict[Hashable, tuple[str, ...]] = OrderedDict()

    def firm(self, ties: Ties) -> Iterator[str]:
        """Cores that are worth a longer line, the best first: the session's, then those that know the beginning."""
        if ties.session is not None:
            yield from self._cores.get(("session", ties.session), ())
        for said in ties.beginnings:
            if known := self._cores.get(said):
                yield from known
                return

    def loose(self, ties: Ties) -> str | None:
        """The core that served the process last: good to know where nothing else tells two cores apart."""
        known = self._cores.get(("process", ties.process), ())
        return known[0] if known else None

    def remember(self, ties: Ties, core: str) -> None:
        """`core` is about to serve a call with `ties`."""
        if ties.session is not None:
            self._set(("session", ties.session), (core,))
        if ties.process is not None:
            self._set(("process", ties.process), (core,))
        for said in ties.beginnings:
            known = self._cores.get(said, ())
            self._set(said, (core, *(each for each in known if each != core))[:MAX_CORES])
        while len(self._cores) > self._limit:
            self._cores.popitem(last=False)

    def _set(self, key: Hashable, cores: tuple[str, ...]) -> None:
        self._cores[key] = cores
        self._cores.move_to_end(key)

    def forget(self, cores: Iterable[str]) -> None:
        """These are gone: what they computed went with them."""
        gone = set(cores)
        for key, known in list(self._cores.items()):
            if gone.isdisjoint(known):
                continue
            if left := tuple(each for each in known if each not in gone):
                self._cores[key] = left
            else:
                del self._cores[key]

    def __len__(self) -> int:
        return len(self._cores)
