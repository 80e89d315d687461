"""The picture of `aios bench switch`: what going on costs, by length of context. Knows figures only."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from aios.abi.errors import BadRequest

INK = "#1f2430"
BESIDE = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
LINES = {
    "prefill": ("computed again", "#c2452d", "o"),
    "disk_back": ("restored from disk", "#d99a2b", "s"),
    "ram_back": ("restored from memory", "#2d7dc2", "D"),
}
TITLES = {"nano": "the packaged model, 4.1 M parameters", "100M": "a model of 100 M parameters"}


def check(path: Path) -> None:
    """Raise BadRequest when no picture could be drawn to `path`."""
    if importlib.util.find_spec("matplotlib") is None:
        raise BadRequest(
            "matplotlib is not installed, and draws the picture; pip install 'aios-kernel[eval]' brings it",
            code="not_installed",
        )
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise BadRequest(f"a picture is .png, .svg or .pdf, and this is '{path.name}'", code="bad_picture")
    if not path.parent.is_dir():
        raise BadRequest(f"there is no folder {path.parent} to put the picture in", code="not_writable")


def draw(figures: dict[str, Any], path: Path) -> None:
    """A panel for each model: milliseconds by tokens of context, both in powers, the lines named where they begin."""
    from matplotlib.figure import Figure

    models = figures["models"]
    figure = Figure(figsize=(5.4 * len(models), 4.8), dpi=160, layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for panel, (model, rows) in zip(panels, models.items(), strict=True):
        _lines(panel, rows)
        _ratios(panel, rows[-1])
        _frame(panel, TITLES.get(model, model), [row["context"] for row in rows])
    panels[0].set_ylabel("milliseconds of CPU until it goes on", color=INK)
    figure.suptitle("What it takes to go on with an interrupted generation", color=INK, fontsize=14, fontweight="bold")
    try:
        figure.savefig(path)
    except OSError as error:
        raise BadRequest(f"{path} cannot be written: {error.strerror}", code="not_writable") from None


def _lines(panel: Any, rows: list[dict[str, float]]) -> None:
    lengths = [row["context"] for row in rows]
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    for key, (name, colour, marker) in LINES.items():
        times = [row[f"{key}_cpu_ms"] for row in rows]
        panel.plot(lengths, times, color=colour, marker=marker, markersize=5, linewidth=2)
        panel.annotate(
            name, xy=(lengths[0], times[0]), xytext=(-3, 28), textcoords="offset points",
            ha="left", va="bottom", color=colour, fontsize=10, fontweight="bold", bbox=BESIDE, zorder=1.5,
        )  # fmt: skip


def _ratios(panel: Any, last: dict[str, float]) -> None:
    """At the longest context, how much less restoring takes than computing."""
    for key in ("disk_back", "ram_back"):
        times = last["prefill_cpu_ms"] / last[f"{key}_cpu_ms"]
        panel.annotate(
            f"{times:,.0f} times less", xy=(last["context"], last[f"{key}_cpu_ms"]), xytext=(4, -20),
            textcoords="offset points", ha="right", va="top", color=INK, fontsize=9, bbox=BESIDE, zorder=1.5,
        )  # fmt: skip


def _frame(panel: Any, title: str, lengths: list[float]) -> None:
    panel.set_title(title, color=INK, fontsize=11)
    panel.set_xlabel("tokens of context", color=INK)
    panel.set_xticks(lengths, [f"{length:,}" for length in lengths])
    panel.minorticks_off()
    panel.margins(y=0.14)
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    panel.grid(axis="y", color="#e4e6ea", linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.tick_params(colors=INK, length=3)
