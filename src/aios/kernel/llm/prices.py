"""What a generation cost, where that is known: `prices.toml`, the configuration's `[[price]]`, a core's own `price`.

Knows no core and no process. What is not known is None, never a guess: a model or host without a row, a service tier of
another price, usage that the server did not tell.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from aios.abi.calls import LLMEmbed, LLMGenerate
from aios.abi.messages import Embeddings, Generation, Usage

from ..config import CoreSection, Price, PriceSection

TABLE = Path(__file__).parent / "prices.toml"
DEFAULT_HOSTS = {"anthropic": "api.anthropic.com"}
"""Where cores of a kind are that need no base_url."""
_DATED = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")
"""How the date of a model's version stands at the end of its name."""
_STANDARD = ("auto", "default", "standard", "standard_only")
"""Service tiers that cost what the table says."""


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    date: str
    price: list[PriceSection]


@cache
def bundled() -> _Table:
    """The table that comes with the package. Read when the first price is wanted."""
    return msgspec.convert(tomllib.loads(TABLE.read_text(encoding="utf-8")), _Table)


class Prices:
    """`own` are rows of the configuration; they come before the table's."""

    def __init__(self, own: Sequence[PriceSection] = ()) -> None:
        self._own = own
        self._sections: dict[str, CoreSection] = {}

    def know(self, section: CoreSection) -> None:
        """A core is to be priced by its section: where it is, and a price of its own if it has one."""
        self._sections[section.name] = section

    def cost(self, args: LLMGenerate | LLMEmbed, generation: Generation | Embeddings) -> float | None:
        """US dollars for what `generation` used, None when that is not known."""
        section = self._sections.get(generation.core)
        usage = generation.usage
        if section is None or not usage.prompt_tokens:
            return None
        if section.price is not None:
            return worth(section.price, usage)
        if not _is_standard(args):
            return None
        names = [name for name in (generation.model, section.model, args.model) if name]
        row = self._row(names, _host(section), usage.prompt_tokens)
        return None if row is None else worth(row, usage)

    def _row(self, names: Sequence[str], host: str | None, prompt: int) -> PriceSection | None:
        if row := _match(self._own, names, host, prompt):
            return row
        return _match(bundled().price, names, host, prompt) if host is not None else None


def worth(price: Price, usage: Usage) -> float | None:
    """What `usage` costs at `price`. Where cached input has no price it costs what input does, which is the most that a
    server takes for it; what is put by costs more than input, so without a price of its own the sum is None."""
    details = usage.prompt_tokens_details
    cached = details.cached_tokens
    written = details.cache_write_tokens if isinstance(details.cache_write_tokens, int) else 0
    if written and price.cache_write is None:
        return None
    fresh = max(0, usage.prompt_tokens - cached - written)
    total = fresh * price.input + usage.completion_tokens * price.output
    total += cached * (price.input if price.cached is None else price.cached) + written * (price.cache_write or 0)
    return total / 1e6


def _match(rows: Iterable[PriceSection], names: Sequence[str], host: str | None, prompt: int) -> PriceSection | None:
    """The row of the first of `names` that has any, for a prompt of so many tokens. Exact names come first."""
    there = [row for row in rows if row.host in (None, host)]
    for name in (*names, *(_DATED.sub("", name) for name in names)):
        if fitting := [row for row in there if row.model == name and (prompt > row.above or not row.above)]:
            return max(fitting, key=lambda row: row.above)
    return None


def _host(section: CoreSection) -> str | None:
    if section.base_url is None:
        return DEFAULT_HOSTS.get(section.kind)
    return urlsplit(section.base_url).hostname


def _is_standard(args: LLMGenerate | LLMEmbed) -> bool:
    """Whether nothing was asked for that costs more or less than usual."""
    extra = args.extra or {}
    return extra.get("service_tier", "auto") in _STANDARD and extra.get("speed", "standard") in _STANDARD
