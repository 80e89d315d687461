"""`aios cores`: the models, and how busy they are."""

from __future__ import annotations

from typing import Annotated

import typer

from .connect import client
from .console import note, print_json, table, width


def command(as_json: Annotated[bool, typer.Option("--json", help="With all figures, as JSON.")] = False) -> None:
    """List the LLM cores: their model, slots in use, context length, and what an interrupt costs there.

    \b
    Example:
      aios cores --json
    """
    with client() as kernel:
        cores = kernel.fetch("GET", "/aios/v1/cores")["cores"]
    if as_json:
        print_json(cores)
    elif cores:
        rows = [
            (c["name"], c["kind"], c["model"], f"{c['active']}/{c['slots']}", c["context_length"] or "?", c["resume"])
            for c in cores
        ]
        print(table(("CORE", "KIND", "MODEL", ">BUSY", ">CONTEXT", "RESUME"), rows, columns=width()))
    else:
        note("No cores; add a [[core]] to aios.toml.")
