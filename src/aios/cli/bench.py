"""`aios bench`: what the kernel costs. Each benchmark is a module of `aios.eval.bench`; knows how to start it only."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import typer

from .console import print_json
from .options import one_of

BENCHMARKS = ("kernel", "nano")


def command(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="kernel or nano.")],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds: figures are rougher.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="All figures, as JSON.")] = False,
) -> None:
    """Measure. 'kernel': CPU of a call in process and through HTTP, memory, many agents. 'nano': tokens per CPU-second
    of the packaged model, bare and under the kernel.

    \b
    Examples:
      aios bench kernel
      aios bench nano --quick --json
    """
    one_of("benchmark", what, BENCHMARKS)
    module = importlib.import_module(f"aios.eval.bench.{what}")
    if what == "kernel":
        figures = module.main(as_json, quick)
        if as_json:
            print_json(figures)
        return
    sys.argv = [f"aios bench {what}", *(["--json"] if as_json else [])]
    sys.argv += ["--rounds", "2", "--tokens", "32"] if quick else []
    module.main()
