"""`aios tools`: the tools that agents may run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from aios.abi.calls import ToolInfo

from .connect import client
from .console import note, print_json, safe, span, table, width


def command(
    query: Annotated[str | None, typer.Argument(metavar="WORDS", help="Only tools that fit these words.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With schemas and problems, as JSON.")] = False,
) -> None:
    """List the tools with their arguments, what a run may change, and how many runs may be under way at once; a narrow
    terminal leaves figures out. A file of tools that does not load is tried again, and what keeps it from loading is
    told.

    \b
    Examples:
      aios tools
      aios tools convert --json
    """
    with client() as kernel:
        found = kernel.tool_list(query=query)
    if as_json:
        print_json(found)
        return
    if found.tools:
        print(listing(found.tools, width()))
    else:
        note(f"No tool fits '{query}'; 'aios tools' lists all." if query else "No tools.")
    for each in found.problems.items():
        note(f"warning: {problem(*each)}; {AGAIN}")


AGAIN = "mend that, and 'aios tools' has it loaded again"


def problem(path: str, why: str) -> str:
    return safe(f"no tools from {path}: {' '.join(why.split())}")


def listing(tools: list[ToolInfo], columns: int | None) -> str:
    titles = ("TOOL", "EFFECT", ">RUNNING", ">LIMIT", ">TIMEOUT", "WHAT IT DOES")
    return table(titles, [_row(tool) for tool in tools], columns=columns, drop=("TIMEOUT", "RUNNING", "LIMIT"))


def _row(tool: ToolInfo) -> tuple[object, ...]:
    name = f"{tool.name}({', '.join(_arguments(tool.parameters))})"
    about = tool.description.splitlines()[0] if tool.description else ""
    return name, tool.effect, tool.running, tool.max_instances, span(tool.timeout), about


def _arguments(schema: dict[str, Any]) -> list[str]:
    required = schema.get("required", ())
    return [name if name in required else f"[{name}]" for name in schema.get("properties", {})]
