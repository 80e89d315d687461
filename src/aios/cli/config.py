"""Show the configuration in use. It is read once, when the kernel starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from aios.kernel import load

from .connect import checked_home
from .console import note, print_json


def show(
    config: Annotated[Path | None, typer.Option(help="Another file than the home's aios.toml.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Print every setting with its value, as TOML that 'aios up --config' reads; defaults are filled in.

    \b
    Examples:
      aios config show
      aios config show --json
    """
    place = config or checked_home() / "aios.toml"
    settings = msgspec.to_builtins(load(config))
    if as_json:
        print_json(settings)
        return
    note(f"# from {place}" if place.exists() else f"# defaults; there is no {place}")
    print(to_toml(settings))


def to_toml(settings: dict[str, Any]) -> str:
    """Two levels of TOML: sections, and lists of sections. What is None is left out."""
    blocks = []
    for name, value in settings.items():
        parts = value if isinstance(value, list) else [value]
        head = f"[[{name}]]" if isinstance(value, list) else f"[{name}]"
        for part in parts:
            # JSON's strings, numbers, lists and booleans are TOML's as well.
            lines = [f"{key} = {json.dumps(each)}" for key, each in part.items() if each is not None]
            if lines:
                blocks.append("\n".join([head, *lines]))
    return "\n\n".join(blocks)


commands = {"show": show}
