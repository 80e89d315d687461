"""A storage call, as far as all of them are alike. Knows none of them."""

from __future__ import annotations

from typing import NamedTuple

from ..process import Place
from ..spaces import Scope
from .versions import Stamp


class Ask(NamedTuple):
    """Who, where and when, and under which id it is done once."""

    caller: Place
    scope: Scope
    path: str
    stamp: Stamp
    once: str | None
    is_admin: bool = False

    @property
    def shown(self) -> str:
        """The path, as the caller writes it."""
        return self.scope.shown(self.path)
