"""`aios bench`: what things cost. Each benchmark is a module of `aios.eval.bench`; knows how to start it only."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from aios.abi.errors import BadRequest

from .console import print_json
from .options import one_of

BENCHMARKS = ("kernel", "nano", "cores", "switch", "prefix", "memory", "search", "knowledge", "retrieval", "storage")
OWN = {"plot": "switch", "trace": "memory", "embed_folder": "retrieval"}
"""Options of one benchmark only."""


def command(
    what: Annotated[str, typer.Argument(metavar="WHAT", help=f"{', '.join(BENCHMARKS[:-1])} or {BENCHMARKS[-1]}.")],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds: figures are rougher.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw what 'switch' has measured to this .png, .svg or .pdf.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Blocks that requests used, for 'memory', as Mooncake's traces are written.",
        ),
    ] = None,
    embed_folder: Annotated[
        Path | None, typer.Option(help="A model whose vectors 'retrieval' judges too, as a core of kind embed has it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All figures, as JSON.")] = False,
) -> None:
    """Measure. 'kernel': CPU of a call in process and through HTTP, memory, many agents. 'nano': tokens per CPU-second
    of the packaged model, bare and under the kernel. 'cores': the same for models of several sizes, and what exactness
    costs. 'switch': what it costs to interrupt a generation and to go on, beside computing its context again. 'prefix':
    what the prefix cache saves when many agents have one system prompt. 'memory': what it costs to write and read an
    entry, what tries save of growing dialogues, which policy keeps what is wanted. 'search': how long a search of
    memory takes. 'retrieval': how often it finds the passage that answers a question. 'storage': small writes, a
    gigabyte beside cp, and what a changed line of a long file costs.

    \b
    Examples:
      aios bench kernel
      aios bench nano --quick --json
      aios bench switch --plot switch.png
    """
    one_of("benchmark", what, BENCHMARKS)
    given = {"plot": plot, "trace": trace, "embed_folder": embed_folder}
    for name, value in given.items():
        if value is not None and what != OWN[name]:
            option = name.replace("_", "-")
            raise BadRequest(f"--{option} is for 'aios bench {OWN[name]}', not '{what}'", param=option)
    module = importlib.import_module(f"aios.eval.bench.{what}")
    if what == "nano":
        sys.argv = [f"aios bench {what}", *(["--json"] if as_json else [])]
        sys.argv += ["--rounds", "2", "--tokens", "32"] if quick else []
        module.main()
        return
    more: dict[str, Any] = {name: given[name] for name, owner in OWN.items() if owner == what}
    figures = module.main(as_json, quick, **more)
    if as_json:
        print_json(figures)
