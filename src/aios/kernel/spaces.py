"""Names that stand for places which several agents may use: blocks of memory, and mounts among files.

What is named nowhere here is the calling agent's own. The access room asks which shared name a call is about, the
rooms where that is; both ask here, so that they cannot disagree. Knows no right and no table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from .process import Place

NOBODY = ""
"""The owner of what is shared: no owner of agents can be called that."""


class Scope(NamedTuple):
    """Whose files, as the tables name it: an agent's own, or those of a mount, which is an agent's or shared."""

    owner: str
    agent: str
    mount: str = ""

    @property
    def payer(self) -> Place:
        """Who is charged for what is kept there. A mount pays for itself: others may put there what they like. No name
        holds a line's end, so nobody else is called that."""
        return Place(self.owner, f"{self.agent}\n{self.mount}" if self.mount else self.agent)

    def shown(self, path: str) -> str:
        """As agents write the path that is `path` inside."""
        return "/".join(part for part in (self.mount, path) if part)


class Spaces:
    """The shared names of one kernel. Blocks are those that groups have rights to; mounts come and go."""

    def __init__(self, blocks: Iterable[str] = ()) -> None:
        self._blocks = frozenset(blocks)
        self._mounts: dict[Place, set[str]] = {}
        """By whom they are for: an agent, or `Place(NOBODY, "")` for groups."""

    # ── memory ──

    def is_shared_block(self, block: str | None) -> bool:
        return block in self._blocks

    def block(self, caller: Place, block: str | None) -> tuple[Place, str]:
        """Whose memory a call of `caller` is about, and which block of it."""
        return (Place(NOBODY, ""), block) if block in self._blocks else (caller, block or "")

    # ── files ──

    def add_mount(self, whose: Place, name: str) -> None:
        self._mounts.setdefault(whose, set()).add(name)

    def drop_mount(self, whose: Place, name: str) -> None:
        self._mounts.get(whose, set()).discard(name)

    def shared_mounts(self) -> list[str]:
        return sorted(self._mounts.get(Place(NOBODY, ""), ()))

    def mount(self, caller: Place, path: str) -> tuple[Place, str] | None:
        """Whose mount the clean path `path` begins with, and its name; None for a path among the agent's own files.
        An agent's own mount goes before a shared one of the name."""
        first = path.partition("/")[0]
        for whose in (caller, Place(NOBODY, "")):
            if first in self._mounts.get(whose, ()):
                return whose, first
        return None

    def scope(self, caller: Place, path: str) -> tuple[Scope, str]:
        """Whose files the clean path `path` is about, and what it is called there; "" is the top."""
        found = self.mount(caller, path)
        if found is None:
            return Scope(*caller), path
        whose, name = found
        return Scope(*whose, name), path[len(name) + 1 :]

    def readable(self, caller: Place, may_read: Callable[[str], bool]) -> list[Scope]:
        """All files of `caller`: its own first, then its own mounts, then the shared ones that it `may_read`. A shared
        one is hidden by its own of the name."""
        own = sorted(self._mounts.get(caller, ()))
        shared = [name for name in self.shared_mounts() if name not in own and may_read(name)]
        return [Scope(*caller), *(Scope(*caller, name) for name in own), *(Scope(NOBODY, "", name) for name in shared)]

    def is_shared_path(self, caller: Place, path: str) -> bool:
        found = self.mount(caller, path)
        return found is not None and found[0].owner == NOBODY
