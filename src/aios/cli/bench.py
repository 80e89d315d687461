"""`aios bench`: what the kernel costs. Each benchmark is a module of `aios.eval.bench` with options of its own."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import typer

from aios.abi.calls import nearest
from aios.abi.errors import BadRequest

BENCHMARKS = ("kernel", "nano")

SETTINGS = {"ignore_unknown_options": True, "allow_extra_args": True}


def command(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help="kernel or nano; its own options follow, --json among them.")],
) -> None:
    """Measure. 'kernel': CPU of a call in process and through HTTP, memory, many agents. 'nano': tokens per CPU-second
    of the packaged model, bare and under the kernel.

    \b
    Examples:
      aios bench nano --json
      aios bench kernel
    """
    if what not in BENCHMARKS:
        hint = nearest(what, BENCHMARKS) or f"; there are {', '.join(BENCHMARKS)}"
        raise BadRequest(f"there is no benchmark '{what}'{hint}")
    sys.argv = [f"aios bench {what}", *context.args]
    importlib.import_module(f"aios.eval.bench.{what}").main()
