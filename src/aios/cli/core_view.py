"""How a core looks: a row of `aios cores`, a bar with figures in `aios top`. Knows no kernel and no terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .console import counted, cut, figure, safe, span, table

if TYPE_CHECKING:
    from aios.eval.proof import Check

Told = dict[str, Any]
"""A core, as `GET /aios/v1/cores` tells it."""

TITLES = ("CORE", "KIND", "MODEL", "STATE", ">BUSY", ">TOK/S", ">KV", ">HITS", ">SWITCHES", ">REFUSED", ">CONTEXT")
DROP = ("KIND", "REFUSED", "RESUME", "SWITCHES", "HITS", "CONTEXT", "KV", "TOK/S", "MODEL")
"""What a narrow terminal does without, in this order."""
RANK = ("failed", "restarting", "opening", "draining", "ready")
TIERS = ("pool", "ram", "disk", "text")


def lines(cores: Sequence[Told], columns: int | None) -> str:
    """A line of titles, then one a core; what keeps one from serving stands at the end of its line."""
    notes = [note(core) for core in cores]
    titles = (*TITLES, "RESUME", *(["NOTE"] if any(notes) else []))
    rows = [(*row(core), *([said] if any(notes) else [])) for core, said in zip(cores, notes, strict=True)]
    return table(titles, rows, columns=columns, drop=DROP)


def row(core: Told) -> tuple[object, ...]:
    return (
        core["name"],
        core["kind"],
        core["model"],
        core["state"],
        f"{core['active']}/{core['slots']}",
        figure(_number(core, "tokens_per_second")),
        kv(core) or "-",
        hits(core) or "-",
        _or_dash(core, "switches"),
        _or_dash(core, "refusals"),
        core["context_length"] or "?",
        core["resume"],
    )


def note(core: Told) -> str:
    """What a person is to know of a core that does not simply serve."""
    if core["state"] == "draining":
        return f"{counted(core['left'], 'call')} left" if core["left"] else "nothing left on it"
    if core["state"] in ("failed", "restarting"):
        return f"{core['why']}"
    return disk(core) if "disk_trouble" in core["detail"] else ""


def disk(core: Told) -> str:
    """How the disk fails that the core's generations are set aside on, or has failed; "" when it never did."""
    failures = counted(round(_number(core, "disk_failures")), "disk failure")
    if trouble := core["detail"].get("disk_trouble"):
        return f"none set aside on disk: {trouble} ({failures})"
    return failures if _number(core, "disk_failures") else ""


def facts(core: Told) -> Iterator[str]:
    """What stands behind a core's bar, the most telling first."""
    yield f"{core['active']}/{core['slots']} slots"
    if core["state"] != "ready":
        yield f"{core['state']}: {note(core)}" if note(core) else core["state"]
    if core["state"] == "failed":
        return
    yield safe(core["model"])
    yield f"{figure(_number(core, 'tokens_per_second'))} tok/s"
    if used := kv(core):
        yield f"KV {used} of {_bytes(_number(core, 'kv_budget_bytes'))}"
    if aside := [f"{figure(n)} {tier}" for tier in TIERS if (n := _number(core, f"suspended_{tier}"))]:
        yield f"set aside: {', '.join(aside)}"
    if trouble := disk(core):
        yield safe(trouble)
    if hit := hits(core):
        yield f"prefix {hit}"
    if switches := _number(core, "switches"):
        yield counted(round(switches), "switch", "switches")
    if refusals := _number(core, "refusals"):
        yield counted(round(refusals), "refusal")


def kv(core: Told) -> str:
    """Memory of sequences: what is reserved in the pool; "" for cores that have none."""
    return _bytes(_number(core, "kv_reserved_bytes")) if "kv_budget_bytes" in core["detail"] else ""


def hits(core: Told) -> str:
    """The share of prompts that need not be computed; "" where nobody looked."""
    found, missed = _number(core, "prefix_hit_tokens"), _number(core, "prefix_missed_tokens")
    return f"{100 * found / (found + missed):.0f}%" if found + missed else ""


MARKS = {"works": "✓", "no": "–", "fails": "✗"}


def check_line(check: Check, columns: int | None) -> str:
    """One thing that was tried of a core: a mark, what, how long it took, what came of it."""
    took = span(check.seconds) if check.seconds else ""
    return cut(safe(f"{MARKS[check.state]} {check.what:<10}{took:>6}  {check.detail}"), columns)


def rank(core: Told) -> tuple[int, float, str]:
    """The ones to look at first: those in trouble or on the move, then the busiest."""
    place = RANK.index(core["state"]) if core["state"] in RANK else len(RANK)
    return place, -core["active"] / core["slots"], core["name"]


def _number(core: Told, key: str) -> float:
    value = core["detail"].get(key, 0)
    return float(value) if isinstance(value, int | float) else 0.0


def _or_dash(core: Told, key: str) -> str:
    return figure(_number(core, key)) if key in core["detail"] else "-"


def _bytes(value: float) -> str:
    return f"{figure(value)}B"
